"""The worker has one loop, `Consumer.run`; the names that Celery has for its two lead to it."""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)


def synloop(obj: Any, *args: Any, **kwargs: Any) -> None:
    """Run the loop of the consumer *obj* until it has stopped."""
    obj.run()


asynloop = synloop

__all__ = [
    "asynloop",
    "logger",
    "synloop",
]
