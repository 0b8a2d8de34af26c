"""Pools: how jobs run beside each other. `base` is the port they fill; `celery.drivers` knows them by name."""

from __future__ import annotations

from typing import Any

from celery import drivers
from celery.concurrency.base import Pool

__all__ = ["get_available_pool_names", "get_implementation"]


def get_implementation(name: str) -> type[Pool]:
    """The pool class called *name*; raises `ImproperlyConfigured` for an unknown one."""
    return drivers.pool_class(name)


def get_available_pool_names() -> tuple[str, ...]:
    """The names `get_implementation` knows, those of installed plug-ins included."""
    return tuple(drivers.known("pool"))


def __getattr__(name: str) -> Any:
    # `drivers` imports the pool port, so while this module is first imported its table may not exist yet.
    if name == "ALIASES":
        return dict(drivers.POOLS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
