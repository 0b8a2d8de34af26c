"""What an event is: a plain map with a type and a timestamp, published under its type on one exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from time import time
from typing import Any

EVENT_EXCHANGE_NAME = "celeryev"


def Event(  # noqa: N802 - the public name
    type: str,
    _fields: Mapping[str, Any] | None = None,
    __dict__: Callable[..., dict[str, Any]] = dict,
    __now__: Callable[[], float] = time,
    **fields: Any,
) -> dict[str, Any]:
    """An event of *type*, such as `task-sent`: *_fields*, *fields*, and the time (Unix seconds) if they say none."""
    event = __dict__(_fields, **fields) if _fields else __dict__(**fields)
    if "timestamp" not in event:
        event["timestamp"] = __now__()
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """The group of an event's type, which is what stands before its first dash: `task` for `task-sent`."""
    return type.partition("-")[0]


def routing_key_of(type: str) -> str:
    """The routing key of an event's type: `worker.elect.ack` for `worker-elect-ack`."""
    return type.replace("-", ".")


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Any:
    """kombu's exchange of events for a kombu connection: a topic, but fanout where a transport cannot do topics."""
    kind = "fanout" if conn.transport.driver_type in {"redis", "gcpubsub"} else "topic"
    return import_module("kombu").Exchange(name, type=kind)


def __getattr__(name: str) -> Any:
    if name == "event_exchange":
        exchange = globals()[name] = import_module("kombu").Exchange(EVENT_EXCHANGE_NAME, type="topic")
        return exchange
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ("Event", "event_exchange", "get_exchange", "group_from")  # noqa: F822 - it is made when it is asked for
