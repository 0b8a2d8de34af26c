"""The engine that runs tasks."""

from __future__ import annotations

from celery.worker.worker import WorkController

__all__ = ("WorkController",)
