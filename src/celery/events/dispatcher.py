"""Sending events."""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from celery._state import app_or_default
from celery.events.buses import bus_of, client_of
from celery.events.event import Event, group_from, routing_key_of
from celery.exceptions import BrokerError
from celery.utils.nodenames import anon_nodename
from celery.utils.time import utcoffset
from celery.wire.broadcast import encode, topic

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("EventDispatcher",)

OUTBOUND_MAX = 10_000
"""Events kept for a broker that is away; the oldest make room for new ones."""


class EventDispatcher:
    """Sends events of one node. Thread-safe.

    With *groups* only events of these groups are sent.  Events of a group in *buffer_group* wait until there are
    *buffer_limit* of them, or `flush` is called, and are sent as one list; *on_send_buffered* is called whenever one
    begins to wait.  What the broker does not take is kept for the next `flush`, unless *buffer_while_offline* is off:
    then it is raised as kombu's `OperationalError`.
    """

    DISABLED_TRANSPORTS = frozenset({"sql"})
    """kombu's transports over which no events are sent."""
    app: Celery | None = None
    on_enabled: set[Callable[[], Any]] | None = None
    on_disabled: set[Callable[[], Any]] | None = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Celery | None = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], Any] | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        self.connection = connection
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.mutex = threading.RLock()
        self.on_enabled = set()
        self.on_disabled = set()
        self.groups = set(groups or ())
        self.clock = self.app.clock
        self.serializer = serializer or self.app.conf.event_serializer
        self.exchange_name = str(self.app.conf.event_exchange)
        self.delivery_mode = delivery_mode
        self.headers = {"hostname": self.hostname}
        self.pid = os.getpid()
        self.publisher: Any = None
        """The bus that events are published on; made when the first one is sent."""
        self._closed = False
        self._group_buffer: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._outbound_buffer: deque[tuple[Any, str, Exception]] = deque(maxlen=OUTBOUND_MAX)
        self.enabled = enabled and not self._is_deaf()

    def _is_deaf(self) -> bool:
        client = client_of(self.channel or self.connection)
        return client is not None and client.transport.driver_type in self.DISABLED_TRANSPORTS

    # -- on and off ------------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Send events from now on."""
        self.enabled = True
        self._closed = False
        for callback in self.on_enabled or ():
            callback()

    def disable(self) -> None:
        """Send no events from now on."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in self.on_disabled or ():
                callback()

    def close(self) -> None:
        """Let go of the bus. It is taken again if another event is sent."""
        self._closed = True
        self.publisher = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], float] = utcoffset,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        Event: Callable[..., dict[str, Any]] = Event,  # noqa: N803 - the public name
        **fields: Any,
    ) -> None:
        """Send an event, if events (of its group) are sent.

        *blind*: without the logical clock.  *retry*: try again as *retry_policy* says; see `task_publish_retry_policy`.
        """
        if not self.enabled:
            return
        group = group_from(type)
        if self.groups and group not in self.groups:
            return
        event = self._prepare_event(type, fields, blind, Event, utcoffset)
        if group not in self.buffer_group:
            self._publish(event, None, routing_key_of(type), retry, retry_policy)
            return
        with self.mutex:
            waiting = self._group_buffer[group]
            waiting.append(event)
            full = len(waiting) >= self.buffer_limit
        if full:
            self.flush()
        elif self.on_send_buffered is not None:
            self.on_send_buffered()

    def publish(
        self,
        type: str,
        fields: Mapping[str, Any],
        producer: Any = None,
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = Event,  # noqa: N803 - the public name
        **kwargs: Any,
    ) -> None:
        """Send an event now, whether events are sent or not. *kwargs* are `retry` and `retry_policy`, as for `send`.

        *producer*: a producer of kombu's that leads to another broker.
        """
        event = self._prepare_event(type, fields, blind, Event)
        self._publish(event, producer, routing_key_of(type), **kwargs)

    def publish_all(self, type: str, fields: Sequence[Mapping[str, Any]], producer: Any = None, **kwargs: Any) -> None:
        """Send several events of one type as one list. Otherwise as `publish`."""
        events = [self._prepare_event(type, each) for each in fields]
        self._publish(events, producer, f"{group_from(type)}.multi", **kwargs)

    def _prepare_event(
        self,
        type: str,
        fields: Mapping[str, Any],
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = Event,  # noqa: N803 - the public name
        utcoffset: Callable[[], float] = utcoffset,
    ) -> dict[str, Any]:
        common: dict[str, Any] = {"hostname": self.hostname, "utcoffset": utcoffset(), "pid": self.pid}
        if not blind:
            common["clock"] = self.clock.forward()
        return Event(type, {**common, **fields})

    def _publish(
        self,
        event: Any,
        producer: Any,
        routing_key: str,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
    ) -> None:
        assert self.app is not None
        if hasattr(producer, "publish") and self.app.connections.is_foreign(producer):
            self._publish_by_kombu(event, producer, routing_key, retry=retry, retry_policy=retry_policy)
            return
        payload = encode(
            event,
            exchange=self.exchange_name,
            routing_key=routing_key,
            headers=self.headers,
            delivery_mode=self.delivery_mode,
            serializer=self.serializer,
        )
        bus = self._bus()
        try:
            self.app.publisher.insist(
                lambda: bus.publish(topic(self.exchange_name, routing_key), payload), retry=retry, policy=retry_policy
            )
        except Exception as error:
            # kombu's OperationalError; anything else is a defect and is raised whatever was asked for.
            if not self.buffer_while_offline or not isinstance(error.__cause__, BrokerError):
                raise
            self._outbound_buffer.append((event, routing_key, error))

    def _publish_by_kombu(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        producer.publish(
            event,
            routing_key=routing_key,
            exchange=self.exchange_name,
            headers=self.headers,
            serializer=self.serializer,
            delivery_mode=self.delivery_mode,
            **options,
        )

    def _bus(self) -> Any:
        if self.publisher is None:
            assert self.app is not None
            self.publisher = bus_of(self.app, self.channel or self.connection)
        return self.publisher

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what waits: with *errors* what the broker did not take, with *groups* what was gathered."""
        if errors:
            again = [self._outbound_buffer.popleft() for _ in range(len(self._outbound_buffer))]
            for event, routing_key, _ in again:
                self._publish(event, None, routing_key)
        if groups:
            with self.mutex:
                gathered = {group: events for group, events in self._group_buffer.items() if events}
                self._group_buffer.clear()
            for group, events in gathered.items():
                self._publish(events, None, f"{group}.multi")

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what the broker did not take from *other*."""
        self._outbound_buffer.extend(other._outbound_buffer)
