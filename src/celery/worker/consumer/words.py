"""Names that programs look for beside `Consumer`."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr
from celery.worker.consumer.marks import Evloop

CLOSE, TERMINATE = 2, 3
"""States of a blueprint: warm and cold shutdown."""
STOP_CONDITIONS = frozenset({CLOSE, TERMINATE})
CONNECTION_ERROR = "Lost the broker or the result store, trying to reach it again: %s"
MOST_TEXT = 1024


def dump_body(m: Any, body: Any) -> str:
    """The body of a message as text of bounded length, with its size; of kombu's messages the raw one."""
    raw = getattr(m, "body", body)
    raw = body if raw is None else raw
    return f"{saferepr(raw, maxlen=MOST_TEXT)} ({len(raw)}b)"


__all__ = ["CLOSE", "CONNECTION_ERROR", "STOP_CONDITIONS", "TERMINATE", "Evloop", "dump_body"]
