"""RabbitMQ as a broker: durable queues, confirmed publishing, acknowledgements, native delayed delivery.

docs/rabbitmq.md says what is promised, and what RabbitMQ cannot do: it keeps no leases, lists no messages, and does not
say whether a message that comes again had been started (`celery.amqp.marks` does, where there is a result store).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from celery.amqp import delays, frames
from celery.amqp.bus import RabbitBus
from celery.amqp.channel import Channel, Refused
from celery.amqp.consumer import RabbitConsumer
from celery.amqp.frames import Delivered, encode_properties
from celery.amqp.held import Held
from celery.amqp.joins import OPEN, RabbitJoins, queue_of_join
from celery.amqp.link import Link
from celery.amqp.messages import (
    COUNT,
    DEAD,
    DIED,
    INNER,
    PLACE,
    QUORUM,
    REASON,
    TAG,
    copy_of,
    put_together,
    sent_back,
    take_apart,
    task_of,
)
from celery.amqp.publisher import Letter
from celery.amqp.rejects import Grave, grave_of, rejected_letter
from celery.amqp.replies import RabbitReplies
from celery.amqp.rights import FORBIDDEN
from celery.backends.store import Store
from celery.brokers.answers import OnReply
from celery.brokers.base import Bus, Capabilities, Entry, Kind, QueueStats
from celery.brokers.revocations import RevokesAside
from celery.exceptions import BrokerError, DecodeError
from celery.utils.clock import SYSTEM, Clock
from celery.utils.log import get_logger
from celery.wire.message import Exchange, Outgoing, Queue
from celery.wire.protocol import peek

logger = get_logger(__name__)

NOT_FOUND, PRECONDITION_FAILED = 404, 406
DURABLE, EXCHANGE_AUTO_DELETE, AUTO_DELETE = 2, 4, 8
NOT_MANDATORY = 0
KIND = "x-queue-type"
CONSUMER_TIMEOUT = 1800.0
"""Seconds, RabbitMQ's default. No client can ask for it: the option of that name says if it was set otherwise."""


class RabbitBroker(RevokesAside):
    """One vhost. Options: those of `celery.amqp.address`.

    `delay_queue_type` (quorum or classic) is for the queues of delayed messages, if nobody has declared them yet.
    `exact_claims`: claims ask the server for what was published before them, and take no message more.
    """

    can = Capabilities(
        durable=True,
        shared=True,
        lease=False,
        priorities=False,
        max_bytes=134_217_728,
        marks=False,
        lists=False,
        revokes=False,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.link = Link(url, self.options)
        self._lock = threading.Lock()
        self._queues: set[str] = set()
        """Queues that are known to be there."""
        self._exchanges: set[str] = set()
        self._delayed: dict[str, float] = {}
        """Targets that delayed messages find, and until when (monotonic seconds) they need not be declared again."""
        self._levels = False
        self._graves: dict[str, Grave] = {}
        """By queue: where it has its dead letters sent, if it says so."""
        self._consumers: weakref.WeakSet[RabbitConsumer] = weakref.WeakSet()

    def introduce(self, who: str) -> None:
        self.link.introduce(who)

    def describe(self) -> str:
        connection = self.link.connection()
        return f"{connection.product} {connection.version}"

    def connect(self) -> None:
        self.link.retried(self.link.connection)

    def close(self) -> None:
        self.link.close()

    # -- queues ----------------------------------------------------------------------------------------------------

    def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            self.link.control(lambda channel, queue=queue: _declare(channel, queue))  # type: ignore[misc]
            self._delayed.pop(queue.name, None)
            if "x-expires" in (queue.arguments or {}):
                self._bind_made(queue.name)
            with self._lock:
                self._queues.add(queue.name)
                if (grave := grave_of(queue.arguments)) is not None:
                    self._graves[queue.name] = grave
                if queue.exchange.name:
                    self._exchanges.add(queue.exchange.name)

    def _bind_made(self, name: str) -> None:
        """Have what is delayed find a queue that may have been gone: others may think that it was there all along."""
        try:
            self.link.control(lambda channel: delays.bind_made(channel, name))
        except Refused as error:
            if error.code != FORBIDDEN:
                raise
            return  # whoever delays something for it has to be allowed to
        self._delayed[name] = math.inf

    def _ensure(self, names: Sequence[str]) -> None:
        """Have these queues: as they are, as the application has them in mind, or plain and durable."""
        for name in names:
            if name in self._queues:
                continue
            try:
                self._ask(lambda number, name=name: frames.queue_declare(number, name, 1, {}))  # type: ignore[misc]
            except Refused as error:
                if error.code != NOT_FOUND:
                    raise
                self.declare(self._planned(name))
            self._queues.add(name)

    def _planned(self, name: str) -> list[Queue]:
        """As the application has it in mind. Queues of ours beside one of its queues are as safe as that one."""
        if name.startswith(OPEN):
            return [queue_of_join(name, self._is_quorum())]
        home, planned = name.removeprefix(INNER).removeprefix(DEAD), list(self.plan())
        found = [queue for queue in planned if queue.name == name]
        if name.startswith(INNER) and any(queue.name == home and queue.auto_delete for queue in planned):
            return [Queue(name, auto_delete=True)]
        if not found and any(queue.name == home and (queue.arguments or {}).get(KIND) == "quorum" for queue in planned):
            return [Queue(name, arguments=QUORUM)]
        return found or [Queue(name)]

    def _redeclare(self, names: Sequence[str]) -> None:
        """For whoever has connected anew: queues may have gone with a node."""
        self._queues.difference_update(names)
        self._ensure(names)

    def _ensure_exchange(self, name: str, key: str) -> None:
        if name in self._exchanges:
            return
        try:
            self.link.control(
                lambda channel: channel.call(
                    frames.exchange_declare(channel.number, name, "direct", 1, {}), frames.EXCHANGE_DECLARE_OK
                )
            )
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            planned = [queue for queue in self.plan() if queue.exchange.name == name]
            if planned:
                # Who only sends has no listener for a queue that goes with its last one.
                self.link.control(lambda channel: _declare_exchange(channel, planned[0].exchange))
                self.declare([queue for queue in planned if not queue.auto_delete])
                self._exchanges.add(name)
                return
            raise BrokerError(
                f"There is no exchange {name!r} for a message with the routing key {key!r}: declare a queue that is"
                f" bound to it first."
            ) from None
        self._exchanges.add(name)

    def _ask(self, data: Callable[[int], bytes]) -> tuple[int, int]:
        """Messages and consumers of a queue, from the answer to a queue.declare."""

        def work(channel: Channel) -> tuple[int, int]:
            answer = channel.call(data(channel.number), frames.QUEUE_DECLARE_OK)
            answer.short()
            return answer.number(4), answer.number(4)

        return self.link.control(work)

    def _count(self, name: str) -> tuple[int, int]:
        """Ready messages and consumers; nothing for a queue that is not there."""
        try:
            return self._ask(lambda number: frames.queue_declare(number, name, 1, {}))
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            return 0, 0

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Outgoing]) -> None:
        if messages:
            self._send([self._letter(message) for message in messages])

    def _letter(self, message: Outgoing) -> Letter:
        properties, body = take_apart(message.envelope, message.task_id)
        if properties.priority is None:
            properties.priority = message.priority
        exchange, key = message.exchange, message.routing_key
        if properties.expiration is not None and _says_when_it_expires(message.envelope):
            properties.expiration = None  # the server drops what has expired; whoever claims it ends the task
        if message.reply:
            return Letter(exchange, key, encode_properties(properties), body, NOT_MANDATORY)
        if message.inner and not exchange:
            key = INNER + key
        if exchange:
            self._ensure_exchange(exchange, key)
        else:
            self._ensure([key])
        if message.due is not None:
            left = message.due - self.clock.time()
            if left > 0:
                properties.expiration = None  # it would end the wait
                exchange, key = self._delay_to(exchange, key, left)
        return Letter(exchange, key, encode_properties(properties), body)

    def _send(self, letters: Sequence[Letter]) -> None:
        """Raises `BrokerError` unless the broker has taken every one of them."""
        waiter = self.link.publish(letters)
        refused = waiter.refused
        if waiter.back and (again := self._rerouted(waiter.back)):
            waiter = self.link.publish(again)
            refused += waiter.refused
            if unheard := [pair for pair in waiter.returned if not self._may_be_unheard(pair[0])]:
                exchange, key = unheard[0]
                raise BrokerError(f"No queue takes what is sent to the exchange {exchange!r} as {key!r}: bind one.")
        if refused:
            error = BrokerError(
                f"RabbitMQ refused {refused} of {len(letters)} messages: a queue is full or has no leader."
            )
            error.temporary = True
            raise error

    def _rerouted(self, letters: Sequence[Letter]) -> list[Letter]:
        """Those that came back, now that their queues are made; raises for those that no queue can be made for.

        Those for listeners that are not there are none of them.
        """
        again = [letter for letter in letters if not (letter.exchange and self._may_be_unheard(letter.exchange))]
        for exchange, key in {(letter.exchange, letter.routing_key) for letter in again}:
            if exchange:
                raise BrokerError(f"No queue takes what is sent to the exchange {exchange!r} as {key!r}: bind one.")
            self._queues.discard(key)
            self._ensure([key])
        return again

    def _delay_to(self, exchange: str, key: str, seconds: float) -> tuple[str, str]:
        """Where a message is sent that is to come to *exchange* under *key* in so many seconds."""
        stays = delays.horizon(seconds) if exchange else 0
        target = delays.target_of(exchange, key, stays)
        self._have_levels()
        now = time.monotonic()
        if self._delayed.get(target, 0.0) <= now:
            self.link.control(lambda channel: delays.bind_target(channel, exchange, key, stays))
            self._delayed[target] = now + stays / 4 if stays else math.inf
        return delays.route(seconds, target)

    def _await_delayed(self) -> None:
        """Have what producers of original Celery delay find its queues.

        Where one is of the kind quorum they publish into the queues of the delays, and rely on their workers for them.
        """
        planned = self.plan()
        if not any((queue.arguments or {}).get("x-queue-type") == "quorum" for queue in planned):
            return
        try:
            self._have_levels()
            for queue in planned:
                if queue.exchange.name and queue.exchange.type != "direct":
                    self.declare([queue])
                    self.link.control(lambda channel, queue=queue: delays.bind_queue(channel, queue))  # type: ignore[misc]
        except Refused as error:
            if error.code != FORBIDDEN:
                raise
            # What need not wait is served all the same; whoever sends something that must is told so again.
            logger.warning("No delayed task can be sent here: %s", error)

    def _have_levels(self) -> None:
        if not self._levels:
            kind = str(self.options.get("delay_queue_type") or "quorum")
            try:
                self.link.control(lambda channel: delays.declare_levels(channel, kind))
            except Refused as error:
                # Somebody with more rights may have declared them.
                if error.code != FORBIDDEN or not self._sees_levels():
                    raise
            self._levels = True

    def _sees_levels(self) -> bool:
        """Whether the queues of the delays are there, which everybody may ask."""
        try:
            self.link.control(delays.see_levels)
        except Refused:
            return False
        return True

    # -- consuming -------------------------------------------------------------------------------------------------

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> RabbitConsumer:
        self._await_delayed()
        made = RabbitConsumer(
            self.link,
            queues,
            name,
            store,
            self.clock,
            revocations=self.revocations,
            bury=self._bury,
            ended=self.ended,
            send=self._send,
            post=self.publish,
            declare=self._redeclare,
            delay=lambda queue, seconds: self._delay_to("", queue, seconds),
            exact=bool(self.options.get("exact_claims")),
            fleeting=any(queue.auto_delete and queue.name in queues for queue in self.plan()),
            lease=self.lease,
            moved_after=float(self.options.get("consumer_timeout") or CONSUMER_TIMEOUT) / 3,
            limits={queue.name: limit for queue in self.plan() if isinstance(limit := _limit_of(queue), int)},
        )
        self._consumers.add(made)
        return made

    def _bury(self, held: Held, reason: str) -> bool:
        """Send a dead message to its queue's dead-letter exchange; False if there is none, or nothing behind it."""
        grave = self._graves.get(held.queue)
        if grave is None:
            return False
        try:
            self._send([rejected_letter(held, grave, reason, self.clock.time())])
        except BrokerError as error:
            if error.temporary:
                raise
            return False
        return True

    def sweep(self) -> int:
        return 0  # the server gives back what a consumer held as soon as its connection ends

    # -- looking and tidying ---------------------------------------------------------------------------------------

    def purge(self, queue: str) -> int:
        return sum(self._purge(name) for name in (queue, INNER + queue))

    def _purge(self, name: str) -> int:
        def work(channel: Channel) -> int:
            data = frames.method(channel.number, frames.QUEUE_PURGE, b"\0\0", frames.short(name), b"\0")
            return int(channel.call(data, frames.QUEUE_PURGE_OK).number(4))

        try:
            return self.link.control(work)
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            return 0

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        """`leased` counts what consumers of this process hold; what is delayed is in the queues of the delays."""
        found = []
        for name in sorted(set(self._plain() if queues is None else queues)):
            ready, consumers = self._count(name)
            held = 0
            for consumer in list(self._consumers):
                holds, waits = consumer.counts()
                held += holds.get(name, 0)
                ready += waits.get(name, 0)
            ready += self._count(INNER + name)[0]
            found.append(QueueStats(name, ready, held, 0, self._count(DEAD + name)[0], None, consumers))
        return found

    def _plain(self) -> list[str]:
        """Nobody lists queues over AMQP: those that were used here, and those of the application."""
        names = self._queues.union(queue.name for queue in self.plan())
        return sorted(name for name in names if not name.startswith((INNER, DEAD)))

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        """Only dead ones can be listed."""
        if kind != "dead":
            return []
        found: list[Entry] = []
        for queue in self._plain() if queues is None else queues:
            self._walk(queue, lambda came: found.append(_entry(came)), limit)
        return sorted(found, key=lambda entry: entry.since)[:limit]

    def remove(self, tags: Sequence[int | str]) -> int:
        return self._end_dead(tags, lambda came: None)

    def replay(self, tags: Sequence[int | str]) -> int:
        def send_back(came: Delivered) -> None:
            place = str((came.properties.headers or {}).get(PLACE))
            self._ensure([place])
            self._send([copy_of(came, place, **sent_back(came))])

        return self._end_dead(tags, send_back)

    def _end_dead(self, tags: Sequence[int | str], work: Callable[[Delivered], object]) -> int:
        wanted, ended = set(map(str, tags)), 0

        def look(came: Delivered) -> bool:
            nonlocal ended
            headers = came.properties.headers or {}
            if str(headers.get(TAG)) not in wanted:
                return False
            work(came)
            ended += 1
            return True

        for queue in self._plain() if wanted else ():
            self._walk(queue, look)
        return ended

    def _walk(self, queue: str, look: Callable[[Delivered], object], limit: int | None = None) -> None:
        """Show the dead messages of *queue*, the longest dead first; those for which *look* says True are removed."""
        name = DEAD + queue
        count = self._count(name)[0]
        if not count:
            return
        channel = self.link.connection().channel()
        try:
            for _ in range(count if limit is None else min(count, limit)):
                data = frames.method(channel.number, frames.BASIC_GET, b"\0\0", frames.short(name), b"\0")
                came = channel.call(data, frames.BASIC_GET_OK, frames.BASIC_GET_EMPTY)
                if not isinstance(came, Delivered):
                    break
                if look(came) is True:
                    channel.send(frames.ack(channel.number, came.tag))
            # What was only looked at goes back to its place: the answer says that it has.
            channel.send(frames.method(channel.number, frames.BASIC_NACK, bytes(8), b"\x03"))
            channel.call(frames.queue_declare(channel.number, name, 1, {}), frames.QUEUE_DECLARE_OK)
        finally:
            channel.close()

    def bus(self) -> Bus:
        return RabbitBus(self.link)

    def replies(self, on_reply: OnReply, expires: float | None) -> RabbitReplies:
        return RabbitReplies(self.link, on_reply, expires)

    def joins(self) -> RabbitJoins:
        return RabbitJoins(self.link, self._send, self._is_quorum)

    def _is_quorum(self) -> bool:
        """Whether the application has queues of that kind: then those of ours are to be as safe."""
        return any((queue.arguments or {}).get(KIND) == "quorum" for queue in self.plan())


def _says_when_it_expires(envelope: bytes) -> bool:
    """Whether it tells whoever claims it, and not the server alone."""
    try:
        return peek(envelope).expires is not None
    except DecodeError:
        return False


def _limit_of(queue: Queue) -> Any:
    """How often a message may come back to it, if it says so."""
    return (queue.arguments or {}).get("x-delivery-limit")


def _declare(channel: Channel, queue: Queue) -> None:
    """Queue, exchange and binding. Raises `Refused`, with what to do where something else is there by that name."""
    number, exchange = channel.number, queue.exchange
    arguments = dict(queue.arguments or {})
    if queue.max_priority is not None:
        arguments["x-max-priority"] = queue.max_priority
    try:
        if exchange.name:
            _declare_exchange(channel, exchange)
        bits = (DURABLE if queue.durable else 0) | (AUTO_DELETE if queue.auto_delete else 0)
        channel.call(frames.queue_declare(number, queue.name, bits, arguments), frames.QUEUE_DECLARE_OK)
        if exchange.name:
            data = frames.queue_bind(
                number, queue.name, exchange.name, queue.routing_key, queue.binding_arguments or {}
            )
            channel.call(data, frames.QUEUE_BIND_OK)
    except Refused as error:
        if error.code != PRECONDITION_FAILED:
            raise
        text = f"The queue {queue.name!r} or its exchange is there with other arguments; {error}"
        raise Refused(f"{text} Declare it as it is (task_queues), or delete it.", error.code) from None


def _declare_exchange(channel: Channel, exchange: Exchange) -> None:
    bits = (DURABLE if exchange.durable else 0) | (EXCHANGE_AUTO_DELETE if exchange.auto_delete else 0)
    data = frames.exchange_declare(channel.number, exchange.name, exchange.type, bits, {})
    channel.call(data, frames.EXCHANGE_DECLARE_OK)


def _entry(came: Delivered) -> Entry:
    headers = came.properties.headers or {}
    queue = str(headers.get(PLACE) or "")
    return Entry(
        str(headers.get(TAG) or ""),
        queue,
        "dead",
        task_of(came),
        put_together(msgspec.structs.replace(came, redelivered=False), "", queue),
        int(headers.get(DIED) or 0) / 1000,
        None,
        int(headers.get(COUNT) or 0),
        str(headers.get(REASON) or ""),
    )
