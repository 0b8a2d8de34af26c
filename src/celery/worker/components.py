"""The worker's services by the names that steps require them by. They are there when a step starts."""

from __future__ import annotations

from celery.bootsteps import StartStopStep, Step

GREEN_POOLS = frozenset({"eventlet", "gevent"})
"""Pools whose greenlets share the thread of the loop."""


class Timer(Step):
    """`worker.timer`: calls at a later time."""


class Hub(Step):
    """Kept for the API: this worker's loop is no hub of kombu's, and `worker.hub` is None."""

    requires = (Timer,)


class Pool(StartStopStep):
    """`worker.pool`: the slots."""

    requires = (Hub,)


class Beat(StartStopStep):
    """The scheduler inside of the worker (`-B`)."""

    conditional = True
    label = "Beat"


class StateDB(Step):
    """The file of `--statedb`."""


class Consumer(StartStopStep):
    """`worker.consumer`: claims and settles."""

    last = True


__all__ = [
    "GREEN_POOLS",
    "Beat",
    "Consumer",
    "Hub",
    "Pool",
    "StateDB",
    "Timer",
]
