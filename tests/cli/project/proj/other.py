"""Another application of the same package, under a name of its own."""

from __future__ import annotations

from celery import Celery

special = Celery("other")
