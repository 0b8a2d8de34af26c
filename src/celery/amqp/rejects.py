"""Messages for the dead-letter exchange that their queue names, as the server sends them there when one is rejected.

They are sent by us, with a confirm, instead of by a `basic.nack`, of which nobody knows whether it got through.  Pure;
times are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery.amqp import delays
from celery.amqp.held import Held
from celery.amqp.messages import REASON, copy_of, sent_back
from celery.amqp.publisher import Letter

DEATHS = "x-death"


class Grave(NamedTuple):
    """Where a queue has its dead letters sent. An empty key: under the one that they came with."""

    exchange: str
    key: str = ""


def grave_of(arguments: Mapping[str, Any] | None) -> Grave | None:
    """What the arguments of a queue say; None if they say nothing."""
    found = arguments or {}
    exchange = found.get("x-dead-letter-exchange")
    return None if exchange is None else Grave(str(exchange), str(found.get("x-dead-letter-routing-key") or ""))


def rejected_letter(held: Held, grave: Grave, reason: str, now: float) -> Letter:
    """*now*: Unix seconds."""
    came = held.came
    exchange, key = came.exchange, came.routing_key
    if exchange == delays.LAST:
        exchange, key = "", delays.arrived_from(key)
    headers = came.properties.headers or {}
    death: dict[str, Any] = {
        "count": 1,
        "reason": "rejected",
        "queue": held.queue,
        "time": datetime.fromtimestamp(now, UTC),
        "exchange": exchange,
        "routing-keys": [key],
    }
    others = []
    for former in headers.get(DEATHS) or ():
        if (former.get("queue"), former.get("reason")) == (held.queue, "rejected"):
            death["count"] += int(former.get("count") or 0)
        else:
            others.append(former)
    first = {
        f"x-first-death-{name}": headers.get(f"x-first-death-{name}", (others or [death])[-1].get(name))
        for name in ("reason", "queue", "exchange")
    }
    letter = copy_of(came, "", **first, **sent_back(came), **{DEATHS: [death, *others], REASON: reason})
    letter.exchange, letter.routing_key = grave.exchange, grave.key or key
    return letter
