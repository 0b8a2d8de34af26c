"""Pools: how jobs run beside each other. `base` is the port they fill; `celery.drivers` knows them by name."""

from __future__ import annotations

import os
from typing import Any

from celery import drivers
from celery.concurrency.base import BasePool, Pool

__all__ = ["get_available_pool_names", "get_implementation"]


def get_implementation(name: str) -> type[Pool | BasePool]:
    """The pool class called *name*, or at `module:Class`; raises `ImproperlyConfigured` for an unknown one."""
    found = drivers.pool_class(name)
    kind: type[BasePool] | None = getattr(found, "kind", None)  # of a pool that was written for Celery before
    return kind or found


def get_available_pool_names() -> tuple[str, ...]:
    """The names `get_implementation` knows, those of installed plug-ins included."""
    return tuple(drivers.known("pool"))


def __getattr__(name: str) -> Any:
    # `drivers` imports the pool port, so while this module is first imported its table may not exist yet.
    if name == "ALIASES":
        return {**drivers.POOLS, "custom": os.environ.get("CELERY_CUSTOM_WORKER_POOL")}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
