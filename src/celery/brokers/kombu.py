"""Every broker that kombu has a transport for and we have no driver: SQS, Pub/Sub, Service Bus, Kafka, SQL, files, …

docs/brokers.md says which there are, what each can do, and what is promised.  Publishing is as sure as the transport:
kombu tells of errors, few of its transports confirm.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from celery.backends.store import Store
from celery.bridge import spool, sqs
from celery.bridge.bus import KombuBus
from celery.bridge.consumer import KombuConsumer
from celery.bridge.messages import (
    COUNT,
    DEAD,
    DIED,
    DUE,
    INNER,
    INTERRUPTED,
    PLACE,
    REASON,
    TAG,
    prepare,
    put_together,
    read,
    take_apart,
    task_of,
    with_headers,
)
from celery.bridge.replies import KombuReplies
from celery.bridge.way import Line, Way, delete_queue
from celery.brokers.answers import OnReply
from celery.brokers.base import Bus, Entry, Kind, QueueStats
from celery.brokers.revocations import RevokesAside
from celery.exceptions import BrokerError
from celery.utils.clock import SYSTEM, Clock
from celery.utils.log import get_logger
from celery.utils.routing import ROUTED, Binding, matches, routes
from celery.wire.message import Outgoing, Queue
from celery.wire.protocol import Message

logger = get_logger(__name__)


class KombuBroker(RevokesAside):
    """A transport of kombu. `can` says what that can do.

    Options besides the transport's own: `timeout`; `spool`, a folder (or a function that names one) for what a worker
    holds of a transport that forgets it; `exact_claims`: claims wait until every queue has been looked at.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self._way = Way(url, self.options)
        self.can = self._way.can
        self._line = Line(self._way)
        self._lock = threading.Lock()
        self._queues: set[str] = set()
        """Queues that are known to be there."""
        self._kinds: dict[str, str] = {}
        """By exchange that is known: its type."""
        self._bindings: list[Binding] = []
        self._consumers: weakref.WeakSet[KombuConsumer] = weakref.WeakSet()

    def describe(self) -> str:
        return self._way.describe()

    def connect(self) -> None:
        self._line.call(lambda channel: None)

    def close(self) -> None:
        self._line.close()

    # -- queues ----------------------------------------------------------------------------------------------------

    def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            self._line.call(lambda channel, queue=queue: self._declare(channel, queue))  # type: ignore[misc]
            exchange = queue.exchange
            with self._lock:
                self._queues.add(queue.name)
                if exchange.name:
                    self._kinds[exchange.name] = exchange.type
                    binding = exchange.name, exchange.type, queue.routing_key, queue.name
                    if binding not in self._bindings:
                        self._bindings.append(binding)

    def _declare_exchange(self, queue: Queue) -> None:
        """That of *queue* alone."""
        exchange = queue.exchange
        if self._routes(exchange.type):
            options = {"exchange": exchange.name, "type": exchange.type, "durable": exchange.durable}
            self._line.call(lambda channel: channel.exchange_declare(**options))
        with self._lock:
            self._kinds[exchange.name] = exchange.type

    def _declare(self, channel: Any, queue: Queue) -> None:
        exchange = queue.exchange
        arguments = dict(queue.arguments or {})
        if queue.max_priority is not None:
            arguments["x-max-priority"] = queue.max_priority
        # Where kombu does the work of a server, it would delete the queue whenever a channel of ours ends.
        goes = queue.fleeting and not self._way.virtual
        channel.queue_declare(queue=queue.name, durable=queue.durable, auto_delete=goes, arguments=arguments)
        if not exchange.name or not self._routes(exchange.type):
            if exchange.name and exchange.type not in ROUTED:
                raise BrokerError(
                    f"Exchange {exchange.name!r} has type {exchange.type!r}, which {self._way.scheme}:// does not"
                    f" route: use direct, topic or fanout."
                )
            return
        channel.exchange_declare(exchange=exchange.name, type=exchange.type, durable=exchange.durable)
        channel.queue_bind(queue=queue.name, exchange=exchange.name, routing_key=queue.routing_key)

    def _routes(self, kind: str) -> bool:
        """Whether the transport routes by exchanges of this type; if not, we do, by what has been declared."""
        return kind in self._way.exchange_types and (kind != "fanout" or self._way.fans_out)

    def _ensure(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self._queues]
        if missing:
            planned = {queue.name: queue for queue in self.plan() if queue.name in missing}
            self.declare([planned.get(name, Queue(name)) for name in missing])

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """What cannot be routed is refused before anything is sent; after an error the rest is sent."""
        letters = [
            (exchange, key, self._message(message))
            for message in messages
            if not message.reply
            for exchange, key in self._places(message.exchange, message.routing_key, inner=message.inner)
        ]
        self._publish(letters)
        for message in messages:
            if message.reply:
                self._answer(message.routing_key, self._message(message))

    def _answer(self, queue: str, message: Message) -> None:
        """Send to a queue that is its client's: it is not made, and what is for a client that has gone is dropped."""
        if not self._is_there(queue):
            return
        try:
            self._publish([("", queue, message)])
        except BrokerError as error:
            if error.temporary or self._is_there(queue):
                raise

    def _is_there(self, queue: str) -> bool:
        """Whether there is such a queue; of those that cannot say it, as far as we know."""
        if self._way.kind == "sqs":
            return self._line.call(lambda channel: sqs.has(channel, queue))
        return not self._way.knows_queues or self._size(queue) is not None

    def _publish(self, letters: Sequence[tuple[str, str, Message]]) -> None:
        sent = 0

        def work(channel: Any) -> None:
            nonlocal sent
            for exchange, key, message in letters[sent:]:
                seconds = self._delay(message, key)
                more = {"DelaySeconds": seconds} if seconds else {}
                channel.basic_publish(prepare(channel, message, **more), exchange=exchange, routing_key=key)
                sent += 1

        if letters:
            self._line.call(work)

    def _message(self, message: Outgoing) -> Message:
        made = take_apart(message.envelope, message.task_id)
        if message.priority is not None:
            made.properties.setdefault("priority", message.priority)
        if message.due is not None and message.due > self.clock.time():
            made.headers = {**made.headers, DUE: int(message.due * 1000)}
            made.properties.pop("expiration", None)  # whoever claims the message looks at `expires`
        return made

    def _delay(self, message: Message, queue: str) -> int:
        """Seconds for which the transport is to delay *message*; it does so again where that is not enough."""
        due = message.headers.get(DUE)
        if due is None or not self._way.delays(queue):
            return 0
        left = int(due) / 1000 - self.clock.time()
        return min(sqs.LONGEST_DELAY, max(0, int(left) + (left > int(left))))

    def _places(self, exchange: str, key: str, *, inner: bool) -> list[tuple[str, str]]:
        """(exchange, routing key) of what is to be published; raises `BrokerError` where nothing would be reached."""
        if not exchange:
            name = INNER + key if inner and self._way.may_have(INNER + key) else key
            self._ensure([name])
            return [("", name)]
        if exchange not in self._kinds:
            # Who only sends has no listener for a queue that is a listener's own.
            planned = [queue for queue in self.plan() if queue.exchange.name == exchange]
            self.declare([queue for queue in planned if not queue.fleeting])
            for queue in planned:
                if queue.fleeting:
                    self._declare_exchange(queue)
        kind = self._kinds.get(exchange)
        if not self._way.virtual:
            return [(exchange, key)]
        theirs, ours = self._reached(exchange, kind, key)
        if not ours and self._may_be_unheard(exchange):
            return []
        if not ours:
            raise BrokerError(
                f"No queue takes what is sent to the exchange {exchange!r} as {key!r}: declare one that is bound to it."
            )
        return [(exchange, key)] if theirs == ours else [("", queue) for queue in sorted(ours)]

    def _reached(self, exchange: str, kind: str | None, key: str) -> tuple[set[str], set[str]]:
        """The queues that a message reaches in kombu's opinion and in ours: kombu keeps `a` from a binding to `a.#`."""

        def work(channel: Any) -> tuple[set[str], set[str]]:
            try:
                table = channel.get_table(exchange)
            except KeyError:
                table = []
            theirs = set(channel.typeof(exchange).lookup(table, exchange, key, None)) if table else set()
            found = {str(bound[2]) for bound in table if kind in ROUTED and matches(kind or "", bound[0] or "", key)}
            return theirs, theirs | found | set(routes(self._bindings, exchange, key))

        return self._line.call(work)

    def _send(self, queue: str, message: Message, delay: float) -> None:
        """Publish a copy."""
        self._ensure([queue])
        if delay > 0:
            headers = {**message.headers, DUE: int((self.clock.time() + delay) * 1000)}
            message = msgspec.structs.replace(message, headers=headers)
        self._publish([("", queue, message)])

    # -- consuming -------------------------------------------------------------------------------------------------

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> KombuConsumer:
        self._warn_of_two_folders()
        own = [queue for queue in self.plan() if queue.fleeting and queue.name in queues]
        if own and not self.can.fanout:
            logger.warning(
                "The transport of %s:// does not fan out to other processes: the queue %s gets only what this process"
                " sends.",
                self._way.scheme,
                own[0].name,
            )

        def ready(channel: Any) -> None:
            for queue in own:
                self._declare(channel, queue)

        folder = self._spool()
        # Noted before they are there, and noted no longer when they are gone.
        kept = None if folder is None else spool.Spool(folder, own)
        try:
            self.declare(own)
            self._ensure([name for queue in queues for name in self._both(queue)])
        except BaseException:
            if kept is not None:
                kept.leave()
            raise
        made = KombuConsumer(
            self._way,
            queues,
            name,
            None if self.can.marks else store,
            self.clock,
            lease=self.lease,
            revocations=self.revocations,
            send=self._send,
            post=self.publish,
            spool=kept,
            ready=ready,
            ended=lambda: self._forget(own),
        )
        self._consumers.add(made)
        return made

    def _forget(self, own: Sequence[Queue]) -> None:
        """Delete those of these queues that no consumer of this process listens to any more."""
        heard = {name for consumer in list(self._consumers) if not consumer.closed for name in consumer.queues}
        for queue in own:
            if queue.name not in heard:
                self._delete(queue)

    def _delete(self, queue: Queue) -> None:
        names = self._both(queue.name)

        def work(channel: Any) -> None:
            if self._way.virtual:
                self._declare(channel, queue)  # of what this process has not bound kombu knows no bindings
            for name in names:
                delete_queue(channel, name)

        self._line.call(work)
        with self._lock:
            self._queues.difference_update(names)
            self._bindings = [binding for binding in self._bindings if binding[3] != queue.name]

    def _warn_of_two_folders(self) -> None:
        ways = [self._way.options.get(f"data_folder_{way}", f"data_{way}") for way in ("in", "out")]
        if self._way.kind == "filesystem" and ways[0] != ways[1]:
            logger.warning(
                "data_folder_in (%s) and data_folder_out (%s) differ: what this worker sends, retries or gives back"
                " goes where it does not look. Have one folder for both (broker_transport_options).",
                *ways,
            )

    def _spool(self) -> Path | None:
        if not self.can.marks:
            return None
        root = self.options["spool"]
        return spool.place(Path(os.fspath(root() if callable(root) else root)), self.url, self._way.options)

    def sweep(self) -> int:
        """Put back what workers on this machine held that have been killed, and delete queues that were their own."""
        folder = self._spool()
        return 0 if folder is None else spool.sweep(folder, self._put_back, self._delete)

    def _put_back(self, left: spool.Left) -> None:
        message = left.message
        if left.started:
            count = int(message.headers.get(COUNT) or 0) + 1
            message = with_headers(message, **{COUNT: count, INTERRUPTED: True})
        self._send(left.queue, message, 0.0)

    # -- looking and tidying ---------------------------------------------------------------------------------------

    def purge(self, queue: str) -> int:
        def work(channel: Any) -> int:
            return sum(int(channel.queue_purge(name) or 0) for name in self._both(queue))

        return self._line.call(work)

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        """`leased` and `delayed` count what consumers of this process hold."""
        found = []
        for name in sorted(set(self._plain() if queues is None else queues)):
            ready, leased, delayed = sum(map(self._count, self._both(name))), 0, 0
            consumers = [consumer for consumer in list(self._consumers) if name in consumer.queues]
            for consumer in consumers:
                claimed, fetched, later = consumer.counts()
                leased += claimed[name]
                ready += fetched[name]
                delayed += later[name]
            found.append(QueueStats(name, ready, leased, delayed, self._count(DEAD + name), None, len(consumers)))
        return found

    def _plain(self) -> list[str]:
        """Transports do not list their queues: those that were used here, and those of the application."""
        names = self._queues.union(queue.name for queue in self.plan())
        return sorted(name for name in names if not name.startswith((INNER, DEAD)))

    def _both(self, queue: str) -> list[str]:
        """The queue, and that of messages of the machinery for it."""
        return [name for name in (queue, INNER + queue) if name == queue or self._way.may_have(name)]

    def _count(self, name: str) -> int:
        """Ready messages; none in a queue that is not there."""
        return (self._size(name) or 0) if self._way.may_have(name) else 0

    def _size(self, name: str) -> int | None:
        missing: tuple[type[BaseException], ...] = self._way.connection().channel_errors

        def work(channel: Any) -> int | None:
            try:
                return int(channel.queue_declare(queue=name, passive=True).message_count or 0)
            except missing:
                return None

        return self._line.call(work)

    def replies(self, on_reply: OnReply, expires: float | None) -> KombuReplies | None:
        # Where all queues are listed in the options none is made, and the name of a client is in no list.
        return KombuReplies(self._way, self._line, on_reply, expires) if self._way.may_have("") else None

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        """Only dead ones can be listed."""
        found: list[Entry] = []
        if kind == "dead":
            for queue in self._plain() if queues is None else queues:
                self._walk(queue, lambda message: bool(found.append(_entry(message))))  # type: ignore[func-returns-value]
        return sorted(found, key=lambda entry: entry.since)[:limit]

    def remove(self, tags: Sequence[int | str]) -> int:
        return self._end_dead(tags, lambda message: None)

    def replay(self, tags: Sequence[int | str]) -> int:
        def send_back(message: Message) -> None:
            self._send(str(message.headers.get(PLACE)), with_headers(message), 0.0)

        return self._end_dead(tags, send_back)

    def _end_dead(self, tags: Sequence[int | str], work: Callable[[Message], object]) -> int:
        wanted, ended = set(map(str, tags)), 0

        def look(message: Message) -> bool:
            nonlocal ended
            if str(message.headers.get(TAG)) not in wanted:
                return False
            work(message)
            ended += 1
            return True

        for queue in self._plain() if wanted else ():
            self._walk(queue, look)
        return ended

    def _walk(self, queue: str, look: Callable[[Message], bool]) -> None:
        """Show each dead message of *queue* once; those that *look* says True to are removed, others put at its end."""
        name, seen = DEAD + queue, set()

        def step(channel: Any) -> bool:
            came = channel.basic_get(name, no_ack=False)
            if came is None:
                return False
            message = read(came)
            tag = message.headers.get(TAG)
            if tag in seen or not look(message):
                channel.basic_publish(prepare(channel, message), exchange="", routing_key=name)
            seen.add(tag)
            channel.basic_ack(came.delivery_tag)
            return True

        for _ in range(self._count(name)):
            if not self._line.call(step):
                return

    def bus(self) -> Bus:
        return KombuBus(self._way, self._line)


def _entry(message: Message) -> Entry:
    headers = message.headers
    queue = str(headers.get(PLACE) or "")
    return Entry(
        str(headers.get(TAG) or ""),
        queue,
        "dead",
        task_of(message),
        put_together(message, "", queue),
        int(headers.get(DIED) or 0) / 1000,
        None,
        int(headers.get(COUNT) or 0),
        str(headers.get(REASON) or ""),
    )
