"""Signatures: tasks with their arguments and options, as values that can be stored, sent and linked."""

from __future__ import annotations

from celery.canvas.signature import (
    Signature,
    StampingVisitor,
    maybe_signature,
    maybe_subtask,
    signature,
    subtask,
    task_name_from,
)

__all__ = [
    "Signature",
    "StampingVisitor",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "task_name_from",
]
