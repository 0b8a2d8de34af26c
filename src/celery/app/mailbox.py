"""The client's end of remote control: requests to all workers, and a box of its own for the answers to each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.app.lamport import LamportClock
from celery.brokers.base import Box, Slot
from celery.exceptions import DecodeError
from celery.utils.uuids import uuid
from celery.wire import broadcast
from celery.wire.serialization import accept_types

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = logging.getLogger(__name__)

Reply = dict[str, Any]
TIMEOUT = 1.0
"""Seconds in which answers are waited for, unless something else is said."""


class Mailbox:
    """Sends requests and gathers the answers. Thread-safe. Blocks for as long as answers are waited for.

    Raises `BrokerError` where the broker cannot be reached.  *connection*s that are given are accepted and not used:
    the app's own are.
    """

    type = "fanout"

    def __init__(self, app: Celery, clock: LamportClock | None = None) -> None:
        self.app = app
        self.clock = clock or LamportClock()

    def __call__(self, connection: Any = None) -> Mailbox:
        return self

    @property
    def namespace(self) -> str:
        """What the exchanges begin with: the setting `control_exchange`."""
        return str(self.app.conf.control_exchange)

    @property
    def exchange(self) -> str:
        """Where requests go, to all workers."""
        return f"{self.namespace}.pidbox"

    @property
    def reply_exchange(self) -> str:
        """Where answers go, each to the one who asked."""
        return f"reply.{self.namespace}.pidbox"

    @property
    def serializer(self) -> str:
        return str(self.app.conf.task_serializer)

    @property
    def accept(self) -> frozenset[str] | None:
        """The content types of messages that are read."""
        return accept_types(self.app.conf.accept_content)

    def slot(self, name: str = "", lasts: float = 0.0) -> Slot:
        """The queue of a worker, or of a client who waits *lasts* seconds, as `control_queue_*` describe it."""
        conf = self.app.conf
        return Slot(
            name=name,
            exclusive=bool(conf.control_queue_exclusive),
            durable=bool(conf.control_queue_durable),
            expires=conf.control_queue_expires,
            ttl=conf.control_queue_ttl,
            lasts=lasts,
        )

    # -- as kombu's mailbox has them -------------------------------------------------------------------------------

    def cast(self, destination: str | Sequence[str], command: str, kwargs: Mapping[str, Any] | None = None) -> None:
        """Tell some workers, and do not wait."""
        self.request(command, kwargs, destination=_listed(destination))

    def abcast(self, command: str, kwargs: Mapping[str, Any] | None = None) -> None:
        """Tell all workers, and do not wait."""
        self.request(command, kwargs)

    def call(
        self,
        destination: str | Sequence[str],
        command: str,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        callback: Callable[[Reply], Any] | None = None,
        channel: Any = None,
    ) -> list[Reply]:
        """Ask some workers."""
        nodes = _listed(destination)
        return self.request(command, kwargs, destination=nodes, reply=True, timeout=timeout, callback=callback) or []

    def multi_call(
        self,
        command: str,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = TIMEOUT,
        limit: int | None = None,
        callback: Callable[[Reply], Any] | None = None,
        channel: Any = None,
    ) -> list[Reply]:
        """Ask all workers."""
        return self.request(command, kwargs, reply=True, timeout=timeout, limit=limit, callback=callback) or []

    # -- what they do ----------------------------------------------------------------------------------------------

    def request(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float | None = None,
        limit: int | None = None,
        callback: Callable[[Reply], Any] | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> list[Reply] | None:
        """Send, and with *reply* return what was answered within *timeout* seconds (or by *limit* nodes)."""
        bus = self.app.broker.bus()
        body: dict[str, Any] = {
            "method": command,
            "arguments": dict(arguments or {}),
            "destination": list(destination) if destination is not None else None,
            "pattern": pattern,
            "matcher": matcher,
        }
        if not reply:
            bus.publish(self.exchange, self._pack(body, 0))
            return None
        wait = TIMEOUT if timeout is None else timeout
        # A box for each request: what comes too late for an earlier one is not found in it.
        ticket, key = uuid(), uuid()
        body |= {"ticket": ticket, "reply_to": {"exchange": self.reply_exchange, "routing_key": key}}
        if limit is None and destination:
            limit = len(destination)
        with bus.open_box(self.reply_exchange, key, self.slot(lasts=wait)) as box:
            bus.publish(self.exchange, self._pack(body, time.time() + wait if wait else 0))
            return self._gather(box, ticket, wait, limit, callback)

    def _pack(self, body: Reply, expires: float) -> bytes:
        return broadcast.encode(
            body,
            exchange=self.exchange,
            headers={"clock": self.clock.forward(), "expires": expires},
            delivery_mode=broadcast.PERSISTENT,
            serializer=self.serializer,
        )

    def _gather(
        self,
        box: Box,
        ticket: str,
        timeout: float,
        limit: int | None,
        callback: Callable[[Reply], Any] | None,
    ) -> list[Reply]:
        accept = self.accept
        replies: list[Reply] = []
        until = time.monotonic() + timeout
        while limit is None or len(replies) < limit:
            left = until - time.monotonic()
            payload = box.get(left) if left > 0 else None
            if payload is None:
                break
            try:
                notice = broadcast.decode(payload, accept)
                body = broadcast.mapping(notice)
            except DecodeError as error:
                logger.warning("An answer to a remote control request cannot be read: %s", error)
                continue
            self.clock.adjust(broadcast.clock_of(notice))
            if notice.headers.get("ticket") not in {None, ticket}:
                continue
            replies.append(body)
            if callback is not None:
                callback(body)
        return replies


def _listed(nodes: str | Sequence[str]) -> list[str]:
    return [nodes] if isinstance(nodes, str) else list(nodes)
