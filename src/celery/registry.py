"""Alias door: `celery.registry.tasks` are the tasks of the current app."""

from __future__ import annotations

from typing import Any

from celery._state import get_current_app
from celery.local import Proxy

tasks: Any = Proxy(lambda: get_current_app().tasks)
