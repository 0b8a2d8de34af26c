"""Receiving events."""

from __future__ import annotations

import time as _time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from celery._state import app_or_default
from celery.brokers.base import Slot
from celery.events.buses import bus_of, client_of
from celery.exceptions import BrokerError, DecodeError
from celery.utils import uuid
from celery.utils.log import get_logger
from celery.utils.routing import matches
from celery.utils.time import adjust_timestamp, utcoffset
from celery.wire.broadcast import decode, topic
from celery.wire.serialization import accept_types

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.brokers.base import Bus, Subscription

__all__ = ("EventReceiver",)

logger = get_logger(__name__)

CLIENT_CLOCK_SKEW = -1
"""A task was sent before anything here heard of it: what this is added to is the clock here."""
SAFETY_INTERVAL = 1.0
"""Seconds after which a receiver that waits looks whether it is to stop."""

Handler = Callable[[dict[str, Any]], Any]


class EventReceiver:
    """Calls *handlers* with the events of a cluster. One thread, except `stop`.

    *handlers* are by type of event; that of `"*"` gets those that have none of their own.  *routing_key* is a pattern
    of AMQP's (`task.#`, `worker.*`) for the events to be heard.  *channel*: a connection of kombu's to the broker, or
    None for that of *app*.  What belongs to a queue (*queue_prefix*, *queue_ttl*, …) matters with brokers that keep
    events in queues.
    """

    app: Celery | None = None
    should_stop = False
    """Set to end `capture`, within a second."""
    connect_max_retries: int | None = None

    def __init__(
        self,
        channel: Any,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Celery | None = None,
        queue_prefix: str | None = None,
        accept: Iterable[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        conf = self.app.conf
        self.channel = channel
        self.handlers: Mapping[str, Handler] = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange_name = str(conf.event_exchange)
        self.queue_name = f"{self.queue_prefix}.{self.node_id}"
        self.queue_ttl = conf.event_queue_ttl if queue_ttl is None else queue_ttl
        self.queue_expires = conf.event_queue_expires if queue_expires is None else queue_expires
        self.queue_exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        self.queue_durable = conf.event_queue_durable if queue_durable is None else queue_durable
        self.clock = self.app.clock
        self.adjust_clock = self.clock.adjust
        self.forward_clock = self.clock.forward
        self.accept = {conf.event_serializer, "json"} if accept is None else set(accept)
        self._types = accept_types(self.accept)
        self._subscription: Subscription | None = None

    # -- capturing -------------------------------------------------------------------------------------------------

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Handle events for ever, or until *limit* messages have come.

        Raises TimeoutError when none came for *timeout* seconds, and BrokerError when the broker cannot be reached.
        With *wakeup* the workers are asked for a heartbeat first, so that all of them are known at once.
        """
        for _ in self.consume(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[None]:
        """As `capture`; yields after every message, whose events have been handled then."""
        return self.consume(limit=limit, timeout=timeout, wakeup=wakeup)

    def run(self, **kwargs: Any) -> None:
        """`capture` until `should_stop`, whatever becomes of the broker meanwhile."""
        while not self.should_stop:
            try:
                self.capture(**kwargs)
            except BrokerError as error:
                self.on_connection_error(error, SAFETY_INTERVAL)
                _time.sleep(SAFETY_INTERVAL)

    def stop(self) -> None:
        """End `capture`. Any thread."""
        self.should_stop = True
        if self._subscription is not None:
            self._subscription.close()

    def consume(
        self,
        limit: int | None = None,
        timeout: float | None = None,
        safety_interval: float = SAFETY_INTERVAL,
        **kwargs: Any,
    ) -> Iterator[None]:
        """What `itercapture` does; *kwargs* are handed to `on_consume_ready`."""
        slot = Slot(
            self.queue_name, bool(self.queue_exclusive), bool(self.queue_durable), self.queue_expires, self.queue_ttl
        )
        with self._bus().subscribe([self._topic()], slot) as subscription:
            self._subscription = subscription
            self.on_consume_ready(self.connection, self.channel, [self], **kwargs)
            count, heard = 0, _time.monotonic()
            while not self.should_stop and (limit is None or count < limit):
                self.on_iteration()
                left = safety_interval if timeout is None else heard + timeout - _time.monotonic()
                received = subscription.get(max(0.0, min(left, safety_interval)))
                if received is not None:
                    count, heard = count + 1, _time.monotonic()
                    self._take(*received)
                    yield
                elif timeout is not None and _time.monotonic() - heard >= timeout and not self.should_stop:
                    raise TimeoutError(f"No event has come for {timeout:g} seconds.")
        self._subscription = None
        self.on_consume_end(self.connection, self.channel)

    def _bus(self) -> Bus:
        assert self.app is not None
        return bus_of(self.app, self.channel, read=True)

    def _topic(self) -> str:
        """The topic to subscribe to: everything that may match, where the key is a pattern."""
        wild = min((self.routing_key.find(sign) for sign in "#*" if sign in self.routing_key), default=None)
        if wild is None:
            return topic(self.exchange_name, self.routing_key)
        # "task.#" is also "task".
        return f"{self.exchange_name}/{self.routing_key[:wild].removesuffix('.')}*"

    def _take(self, name: str, payload: bytes) -> None:
        try:
            notice = decode(payload, self._types)
        except DecodeError as error:
            self.on_decode_error(payload, error)
            return
        key = name.partition("/")[2] or notice.routing_key
        # A list may have events of several types: its key, such as `task.multi`, names none of them.
        if not matches("topic", self.routing_key, key):
            return
        try:
            self._receive(notice.body, payload)
        except _Malformed as error:
            self.on_decode_error(payload, error)

    def _receive(self, body: Any, message: Any) -> None:
        """Handle an event, or a list of events."""
        events = body if isinstance(body, list) else [body]
        at_once = len(events) > 1 and self._handles_as_we_do() and self._localize(events)
        handlers = self.handlers
        for event in events:
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise _Malformed(f"An event is a map with a type, not {event!r:.100}")
            if at_once:
                handler = handlers.get(event["type"]) or handlers.get("*")
                if handler is not None:
                    handler(event)
            else:
                self.process(*self.event_from_message(event))

    def _handles_as_we_do(self) -> bool:
        """Whether `event_from_message` and `process` are those of this class, which nobody misses."""
        cls = type(self)
        return (
            cls.process is EventReceiver.process
            and cls.event_from_message is EventReceiver.event_from_message
            and vars(self).keys().isdisjoint(("process", "event_from_message"))
        )

    @staticmethod
    def _clocks(events: list[Any]) -> list[int]:
        """The clocks of events that all have one, and none of which a client has sent; else nothing."""
        try:
            clocks = [event["clock"] for event in events if event["type"] != "task-sent"]
        except (KeyError, TypeError):
            return []
        return clocks if len(clocks) == len(events) and set(map(type, clocks)) == {int} else []

    def _localize(self, events: list[Any]) -> bool:
        """Do for a list what `event_from_message` does for one event, if these are such as workers send: True.

        A list came at one moment: the time is read once, and the clock moves to the last of theirs.
        """
        clocks = self._clocks(events)
        if not clocks:
            return False
        self.adjust_clock(max(clocks))
        here, now = utcoffset(), _time.time()
        for event in events:
            try:  # noqa: SIM105 - suppress() costs more than the rest of the loop
                event["timestamp"] -= (event["utcoffset"] - here) * 3600
            except (KeyError, TypeError):
                pass  # it does not say where it comes from
            event["local_received"] = now
        return True

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Call the handler of an event."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def event_from_message(
        self,
        body: dict[str, Any],
        localize: bool = True,
        now: Callable[[], float] = _time.time,
        tzfields: Callable[[dict[str, Any]], tuple[Any, Any]] = itemgetter("utcoffset", "timestamp"),
        adjust_timestamp: Callable[[float, float], float] = adjust_timestamp,
        CLIENT_CLOCK_SKEW: int = CLIENT_CLOCK_SKEW,  # noqa: N803 - the public name
    ) -> tuple[str, dict[str, Any]]:
        """(type, event) of what came: with `local_received`, its timestamp as our clock would have said it if
        *localize*, and with a logical clock if it had none. Moves the clock here on."""
        type = body["type"]
        if type == "task-sent":
            # The clocks of clients stand still, as they hear of nothing.
            clock = body["clock"] = (self.clock.value or 1) + CLIENT_CLOCK_SKEW
            self.adjust_clock(clock)
        elif isinstance(body.get("clock"), int):
            self.adjust_clock(body["clock"])
        else:
            body["clock"] = self.forward_clock()
        if localize:
            try:
                offset, timestamp = tzfields(body)
                body["timestamp"] = adjust_timestamp(timestamp, offset)
            except (KeyError, TypeError):
                pass  # it does not say where it comes from
        body["local_received"] = now()
        return type, body

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask all workers for a heartbeat."""
        assert self.app is not None
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    # -- what subclasses may handle --------------------------------------------------------------------------------

    def on_consume_ready(
        self, connection: Any, channel: Any, consumers: Any, wakeup: bool = True, **kwargs: Any
    ) -> None:
        """Events are heard from now on."""
        if wakeup:
            self.wakeup_workers(channel=channel)

    def on_iteration(self) -> None:
        """Called before each wait."""

    def on_consume_end(self, connection: Any, channel: Any) -> None:
        """No event is heard any more."""

    def on_connection_error(self, exc: BaseException, interval: float) -> None:
        """The broker is away; `run` tries again in *interval* seconds."""
        logger.warning("Cannot receive events, trying again in %g s: %s", interval, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A message was no event; it is passed over."""
        logger.warning("What came as an event cannot be read: %s", exc)

    # -- kombu's names ---------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """kombu's connection, if one was given."""
        return client_of(self.channel)

    @property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What `capture` raises when the broker cannot be reached."""
        return (BrokerError, OSError)

    channel_errors = connection_errors


class _Malformed(Exception):
    """What came has no type."""
