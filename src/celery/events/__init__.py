"""Monitoring events: what workers and clients say of what they do, to whoever listens.

`app.events` has all of it for one app; see `celery.events.state` for a picture of the cluster drawn from events.
"""

from __future__ import annotations

from typing import Any

from celery.events import event as _event
from celery.events.dispatcher import EventDispatcher
from celery.events.event import Event, get_exchange, group_from
from celery.events.receiver import EventReceiver


def __getattr__(name: str) -> Any:
    if name == "event_exchange":
        return _event.event_exchange
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")
