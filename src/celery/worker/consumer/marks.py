"""The consumer's services by the names that steps require them by. They are there when a step starts."""

from __future__ import annotations

from celery.bootsteps import StartStopStep
from celery.utils.log import get_logger

logger = get_logger("celery.worker.consumer")
debug, info = logger.debug, logger.info


class Connection(StartStopStep):
    """The broker is reached."""


class Events(StartStopStep):
    """`c.event_dispatcher`: tells monitors."""

    requires = (Connection,)


class Mingle(StartStopStep):
    """Neighbours were asked what is revoked (`--with-mingle`)."""

    label = "Mingle"
    requires = (Events,)


class Tasks(StartStopStep):
    """Tasks are claimed from now on."""

    requires = (Mingle,)


class DelayedDelivery(StartStopStep):
    """Kept for the API: delays are the broker's own here."""

    requires = (Tasks,)


class Agent(StartStopStep):
    """Kept for the API: `worker_agent` names a class of the program cell."""

    conditional = True
    requires = (Connection,)


class Gossip(StartStopStep):
    """Workers listen to each other's heartbeats."""

    label = "Gossip"
    requires = (Mingle,)


class Control(StartStopStep):
    """Remote control."""

    requires = (Tasks,)


class Heart(StartStopStep):
    """Heartbeats."""

    requires = (Events,)


class Evloop(StartStopStep):
    """The loop."""

    label = "event loop"
    last = True


__all__ = [
    "Agent",
    "Connection",
    "Control",
    "DelayedDelivery",
    "Events",
    "Evloop",
    "Gossip",
    "Heart",
    "Mingle",
    "Tasks",
    "debug",
    "info",
    "logger",
]
