"""What programs look for in the module of Celery that had its pool of processes."""

from __future__ import annotations

import errno
from typing import Any

from celery.drivers import pool_class
from celery.utils.log import get_logger

logger = get_logger("celery.pool")

PROC_ALIVE_TIMEOUT = 4.0
"""Seconds that a new process may take to be ready. Larger values are heeded, see `worker_proc_alive_timeout`."""
UNAVAIL = frozenset({errno.EAGAIN, errno.EINTR})
"""Errors of a pipe that say: later."""
SCHED_STRATEGY_FCFS = 1
SCHED_STRATEGY_FAIR = 4
SCHED_STRATEGIES = {None: SCHED_STRATEGY_FAIR, "default": SCHED_STRATEGY_FAIR, "fast": SCHED_STRATEGY_FCFS,
                    "fcfs": SCHED_STRATEGY_FCFS, "fair": SCHED_STRATEGY_FAIR}  # fmt: skip
SCHED_STRATEGY_TO_NAME = {SCHED_STRATEGY_FCFS: "fcfs", SCHED_STRATEGY_FAIR: "fair"}

__all__ = [
    "PROC_ALIVE_TIMEOUT",
    "SCHED_STRATEGIES",
    "SCHED_STRATEGY_FAIR",
    "SCHED_STRATEGY_FCFS",
    "SCHED_STRATEGY_TO_NAME",
    "UNAVAIL",
    "logger",
]


def __getattr__(name: str) -> Any:
    if name == "AsynPool":
        return pool_class("prefork")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
