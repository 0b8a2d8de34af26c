"""Signatures: tasks with their arguments and options, as values that can be stored, sent and linked."""

from __future__ import annotations

import sys
from typing import Any

from celery.canvas.signature import (
    Signature,
    StampingVisitor,
    maybe_signature,
    maybe_subtask,
    signature,
    subtask,
    task_name_from,
)
from celery.utils.later import comes_later

_LATER = frozenset({"chain", "chord", "chunks", "group", "xmap", "xstarmap"})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        raise comes_later(__name__, name, sys._getframe(1).f_globals.get("__name__"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Signature",
    "StampingVisitor",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "task_name_from",
]
