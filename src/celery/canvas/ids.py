"""The ids of tasks and groups: random ones, or, where a step may be repeated, ones that follow from its cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from uuid import UUID, uuid5

from celery.utils import uuid

_NAMESPACE = UUID("5d0d8b9e-3c0f-5f0c-9d5e-6a1f6c0b7a11")
_cause: ContextVar[tuple[str, count[int]] | None] = ContextVar("celery.canvas.cause", default=None)


def new_id() -> str:
    """An id that nothing else has. All ids that a canvas gives away come from here."""
    cause = _cause.get()
    if cause is None:
        return uuid()
    name, numbers = cause
    return str(uuid5(_NAMESPACE, f"{name}:{next(numbers)}"))


@contextmanager
def fixed_ids(cause: str) -> Iterator[None]:
    """In this block, ids follow from *cause* and from how many were made in it before.

    Whoever repeats the block with the same cause (a worker, after a crash) gets the same ids, and so sends the same
    tasks again and not others.  Blocks can be nested; the inner one counts for itself.
    """
    token = _cause.set((cause, count()))
    try:
        yield
    finally:
        _cause.reset(token)


__all__ = ["fixed_ids", "new_id"]
