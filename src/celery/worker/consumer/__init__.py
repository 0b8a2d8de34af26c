"""The worker's loop, under the path that users know it by, and the names of its services for steps."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from celery.worker.consumer.consumer import Consumer

_MARKS = frozenset({"Agent", "Connection", "Control", "Events", "Gossip", "Heart", "Mingle", "Tasks"})


def __getattr__(name: str) -> Any:
    if name not in _MARKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("celery.worker.consumer.marks"), name)


__all__ = ["Consumer"]
