"""The engine that runs tasks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.worker.worker import WorkController as WorkController

__all__ = ("WorkController",)


def __getattr__(name: str) -> Any:
    """Load the whole engine when it is asked for: `celery.worker.request` alone needs little of it."""
    if name != "WorkController":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("celery.worker.worker").WorkController
