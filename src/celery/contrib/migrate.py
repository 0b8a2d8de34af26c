"""Move tasks that wait in queues: to other queues of a broker, or to another broker.

    move_task_by_id(task_id, "images")                              one task
    move_by_taskmap({"proj.resize": "images"})                      by name
    move(lambda body, message: "x" in message.headers, routing_key="images")
    migrate_tasks("redis://old", "redis://new")                     everything, delayed tasks too

A message is claimed, sent to its new place and only then taken from the old one, within one broker in one step: it may
be run twice if this program is killed between the two, and is never lost.  What is not wanted goes back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from celery._state import app_or_default
from celery.app.backends import make_broker
from celery.brokers.base import Broker, Consumer
from celery.exceptions import DecodeError
from celery.utils.nodenames import worker_direct
from celery.utils.text import str_to_list
from celery.wire.message import Delivery, Outgoing, Queue, Settlement
from celery.wire.protocol import Message, decode_envelope, encode_envelope

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = (
    "State",
    "StopFiltering",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
)

MOVING_PROGRESS_FMT = "Moving task {state.filtered}/{state.strtotal}: {body[task]}[{body[id]}]"
BATCH = 200
OURS = frozenset({"delivery_tag"})
"""Properties that belong to a message in its old place."""

Predicate = Callable[[Any, "Waiting"], Any]


class StopFiltering(Exception):
    """Raised by a callback that has seen enough."""


class State:
    """How far a migration is."""

    count = 0
    filtered = 0
    total_apx = 0

    @property
    def strtotal(self) -> str:
        return str(self.total_apx) if self.total_apx else "?"

    def __repr__(self) -> str:
        done = f"^{self.filtered}" if self.filtered else f"{self.count}/{self.strtotal}"
        return f"<{type(self).__name__}: {done}>"


class Waiting:
    """A message in a queue, with the attributes that predicates look at."""

    def __init__(self, message: Message, queue: str) -> None:
        self.headers = message.headers
        self.properties = message.properties
        self.body = message.body
        self.content_type = message.content_type
        self.content_encoding = message.content_encoding
        self.queue = queue
        info = message.properties.get("delivery_info") or {}
        self.delivery_info = {"exchange": "", "routing_key": queue, **info}
        self.message = message

    @property
    def payload(self) -> Any:
        """The body decoded, where it is JSON; else None."""
        try:
            return json.loads(self.body) if "json" in self.content_type else None
        except ValueError:
            return None

    def decode(self) -> Any:
        """The same, for who knows kombu's messages."""
        return self.payload

    def subject(self) -> dict[str, Any]:
        """What both protocols know of a task: `task`, `id` and the rest of its headers."""
        if "task" in self.headers:
            return dict(self.headers)
        body = self.payload
        return body if isinstance(body, dict) else {"task": "?", "id": "?"}


class Place(NamedTuple):
    """Where republished messages go: what is called a producer elsewhere."""

    broker: Broker
    publish: Callable[[Outgoing], None]


def republish(
    producer: Any,
    message: Waiting,
    exchange: str | None = None,
    routing_key: str | None = None,
    remove_props: Iterable[str] | None = None,
    due: float | None = None,
) -> None:
    """Send *message* as it is to another place; *producer* is a `Place`."""
    place = message.delivery_info
    exchange = place["exchange"] if exchange is None else exchange
    routing_key = place["routing_key"] if routing_key is None else routing_key
    gone = OURS | set(remove_props or ())
    properties = {key: value for key, value in message.properties.items() if key not in gone}
    properties["delivery_info"] = {**place, "exchange": exchange, "routing_key": routing_key}
    old = message.message
    envelope = encode_envelope(Message(old.headers, properties, old.body, old.content_type, old.content_encoding))
    subject = message.subject()
    producer.publish(
        Outgoing(
            envelope,
            routing_key,
            exchange,
            priority=properties.get("priority"),
            due=due_of(subject) if due is None else due,
            task_id=str(subject.get("id") or ""),
        )
    )


def due_of(subject: Mapping[str, Any]) -> float | None:
    """When a task is due that waits among those that are: an original worker would have kept it until then."""
    try:
        moment = datetime.fromisoformat(str(subject.get("eta")))
    except ValueError:
        return None
    due = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return due if due > time.time() else None


def migrate_task(producer: Any, body_: Any, message: Waiting, queues: Mapping[str, str] | None = None) -> None:
    """Send a message to the place of the same name, or to the one that *queues* gives for it."""
    key = message.delivery_info["routing_key"] or message.queue
    renamed = (queues or {}).get(message.queue) or (queues or {}).get(key)
    if renamed:
        republish(producer, message, exchange="", routing_key=renamed)
    else:
        republish(producer, message, exchange="", routing_key=message.queue)


def filter_callback(callback: Callable[..., Any], tasks: Iterable[str]) -> Callable[..., Any]:
    """*callback*, for tasks of these names only."""
    wanted = set(tasks)

    def filtered(body: Any, message: Waiting) -> Any:
        return callback(body, message) if message.subject().get("task") in wanted else None

    return filtered


def prepare_queues(queues: Any) -> dict[str, str]:
    """`a,b:c` (or a list of such) as a mapping of old to new names."""
    if isinstance(queues, Mapping):
        return {str(old): str(new or old) for old, new in queues.items()}
    words = str_to_list(queues or ())
    return {old: new or old for old, _, new in (str(word).strip().partition(":") for word in words)}


def expand_dest(ret: Any, exchange: str | None, routing_key: str | None) -> tuple[str | None, str | None]:
    """What a predicate answered, as exchange and routing key: a pair, or True for those given."""
    if isinstance(ret, list | tuple) and len(ret) == 2:
        return ret[0], ret[1]
    return exchange, routing_key


def task_id_eq(task_id: str, body: Any, message: Waiting) -> bool:
    """Whether it is this task."""
    return bool(message.subject().get("id") == task_id)


def task_id_in(ids: Iterable[str], body: Any, message: Waiting) -> bool:
    """Whether it is one of these."""
    return message.subject().get("id") in set(ids)


def filter_status(state: State, body: Any, message: Any, **kwargs: Any) -> None:
    """Print how far it is."""
    print(MOVING_PROGRESS_FMT.format(state=state, body=body, message=message, **kwargs))  # noqa: T201 - what it is for


class Filterer:
    """Goes once through what waits in queues, and gives *filter* each message: what it answers True to is taken away.

    With *forever* it waits for more, until *limit* were taken or a callback raises `StopFiltering`.  *ack_messages*:
    whether messages that were filtered leave their queue, if *filter* does not say.
    """

    def __init__(
        self,
        app: Celery,
        conn: Any,
        filter: Callable[..., Any],
        limit: int | None = None,
        timeout: float = 1.0,
        ack_messages: bool = False,
        tasks: Any = None,
        queues: Any = None,
        callback: Callable[..., Any] | None = None,
        forever: bool = False,
        on_declare_queue: Callable[..., Any] | None = None,
        consume_from: Any = None,
        state: State | None = None,
        accept: Any = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.broker = broker_of(app, conn)
        self.filter = filter
        self.limit = limit
        self.timeout = timeout
        self.ack_messages = ack_messages
        self.tasks = set(str_to_list(tasks or ()))
        self.queues = prepare_queues(queues)
        self.callback = callback
        self.forever = forever
        self.on_declare_queue = on_declare_queue
        self.consume_from = [getattr(queue, "name", queue) for queue in str_to_list(consume_from or ())]
        self.state = state or State()
        self._fused = False
        """The broker sends and takes away in one step."""

    def names(self) -> list[str]:
        """The queues to go through."""
        named = self.consume_from or list(self.queues)
        return named or sorted({*self.app.amqp.queues, *(stats.name for stats in self.broker.stats())})

    def start(self) -> State:
        names = self.names()
        for name in names:
            if self.on_declare_queue is not None:
                self.on_declare_queue(name)
        self.state.total_apx = sum(stats.ready for stats in self.broker.stats(names))
        left = self.state.total_apx
        store = self.app.store
        self._fused = store is not None and self.broker.fuses(store)
        consumer = self.broker.consumer(names, name="celery-migrate", store=store if self._fused else None)
        kept: list[Delivery] = []
        try:
            while self.forever or left > 0:
                wait = self.timeout if self.forever else 0.0
                taken = consumer.claim(BATCH if self.forever else min(BATCH, left), wait)
                if not taken:
                    if not self.forever:
                        break
                    consumer.renew()
                    continue
                left -= len(taken)
                consumer.renew()
                if not self._go_through(consumer, taken, kept):
                    break
        finally:
            # In their places again, the first one foremost.
            consumer.release(kept)
            consumer.close()
        return self.state

    def _go_through(self, consumer: Consumer, taken: Sequence[Delivery], kept: list[Delivery]) -> bool:
        """Whether there is to be more."""
        for number, delivery in enumerate(taken):
            try:
                message = Waiting(decode_envelope(delivery.envelope), delivery.queue)
            except DecodeError:
                kept.append(delivery)
                continue
            self.state.count += 1
            subject = message.subject()
            try:
                wanted = not self.tasks or subject.get("task") in self.tasks
                effects = self.filter(message.payload, message) if wanted else None
                if effects is None or effects is False:
                    kept.append(delivery)
                    continue
                sent = tuple(effects) if isinstance(effects, Effects) else ()
                acknowledged = isinstance(effects, Effects) or self.ack_messages
                if acknowledged:
                    self._take_away(consumer, delivery, sent)
                else:
                    kept.append(delivery)
                self.state.filtered += 1
                if self.callback is not None:
                    self.callback(self.state, subject, message)
            except StopFiltering:
                kept.extend(taken[number + 1 :])
                return False
            except BaseException:
                kept.extend(taken[number:])
                raise
            if self.limit and self.state.filtered >= self.limit:
                kept.extend(taken[number + 1 :])
                return False
        return True

    def _take_away(self, consumer: Consumer, delivery: Delivery, sent: tuple[Outgoing, ...]) -> None:
        if sent and not self._fused:
            self.broker.publish(sent)
            sent = ()
        consumer.settle([Settlement(delivery, messages=sent)])


class Effects(list[Outgoing]):
    """What is sent in the step that takes a message away."""


def start_filter(app: Celery, conn: Any, filter: Callable[..., Any], **kwargs: Any) -> State:
    """Make a `Filterer` and run it; how far it came."""
    return Filterer(app, conn, filter, **kwargs).start()


def broker_of(app: Celery, conn: Any) -> Broker:
    """The broker that is meant by one of ours, a URL, a kombu connection, or None for the app's own."""
    if conn is None:
        return app.broker_for_read()
    if isinstance(conn, Broker):
        return conn
    return make_broker(app, conn if isinstance(conn, str) else conn.as_uri(include_password=True))


def move(
    predicate: Predicate,
    connection: Any = None,
    exchange: str | None = None,
    routing_key: str | None = None,
    source: Any = None,
    app: Celery | None = None,
    callback: Callable[..., Any] | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> State:
    """Move the messages for which *predicate(body, message)* is true: to the queue *routing_key*, or where it says.

    *predicate* may answer with a queue, or with (exchange, routing key).  *source*: queues to look at, by default all.
    """
    app = app_or_default(app)
    state = State()

    def look(body: Any, message: Waiting) -> Effects | None:
        answer = predicate(body, message)
        if not answer:
            return None
        if transform is not None:
            answer = transform(answer)
        name = getattr(answer, "name", answer if isinstance(answer, str) else None)
        to_exchange, key = ("", name) if name else expand_dest(answer, exchange, routing_key)
        if key is None:
            raise ValueError("move() needs a routing_key, or a predicate that says where to.")
        if not to_exchange and key == message.queue:
            return None  # it is there already
        sent = Effects()
        broker.declare([Queue(key)] if not to_exchange else [])
        republish(Place(broker, sent.append), message, to_exchange or "", key)
        return sent

    broker = broker_of(app, connection)
    return start_filter(app, broker, look, limit=limit, callback=callback, consume_from=source, state=state, **kwargs)


def move_task_by_id(task_id: str, dest: str, **kwargs: Any) -> State:
    """Move one task to the queue *dest*."""
    return move_by_idmap({task_id: dest}, **kwargs)


def move_by_idmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their ids: `{id: queue}`."""
    return move(lambda body, message: map.get(str(message.subject().get("id"))), limit=len(map), **kwargs)


def move_by_taskmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks by their names: `{name: queue}`."""
    return move(lambda body, message: map.get(str(message.subject().get("task"))), **kwargs)


move_direct = partial(move, transform=worker_direct)
"""`move` to workers by their node names."""
move_direct_by_id = partial(move_task_by_id, transform=worker_direct)
move_direct_by_idmap = partial(move_by_idmap, transform=worker_direct)
move_direct_by_taskmap = partial(move_by_taskmap, transform=worker_direct)


def migrate_tasks(
    source: Any,
    dest: Any,
    migrate: Callable[..., Any] = migrate_task,
    app: Celery | None = None,
    queues: Any = None,
    **kwargs: Any,
) -> State:
    """Send what waits at *source* to *dest*, delayed tasks with their times.

    It stays at the source as well unless `ack_messages=True`.
    """
    app = app_or_default(app)
    names = prepare_queues(queues)
    old, new = broker_of(app, source), broker_of(app, dest)
    place = Place(new, lambda outgoing: new.publish([outgoing]))
    declared: set[str] = set()

    def declare(name: str) -> None:
        target = names.get(name, name)
        if target not in declared:
            declared.add(target)
            new.declare([Queue(target)])

    def look(body: Any, message: Waiting) -> bool:
        migrate(place, body, message, queues=names)
        return True

    state = start_filter(app, old, look, queues=names, on_declare_queue=declare, **kwargs)
    limit = kwargs.get("limit")
    left = None if not limit else limit - state.filtered
    if left is None or left > 0:
        _migrate_delayed(old, place, names, state, left, declare=declare, **kwargs)
    return state


def _migrate_delayed(
    old: Broker,
    place: Place,
    names: Mapping[str, str],
    state: State,
    left: int | None,
    declare: Callable[[str], None],
    ack_messages: bool = False,
    tasks: Any = None,
    callback: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> None:
    wanted = set(str_to_list(tasks or ()))
    entries = old.entries("delayed", list(names) or None, limit=1_000_000)
    for entry in islice(entries, left):
        try:
            message = Waiting(decode_envelope(entry.envelope), entry.queue)
        except DecodeError:
            continue
        subject = message.subject()
        if wanted and subject.get("task") not in wanted:
            continue
        declare(entry.queue)
        target = names.get(entry.queue, entry.queue)
        republish(place, message, "", target, due=entry.due or time.time())
        if ack_messages:
            old.remove([entry.tag])
        state.count += 1
        state.filtered += 1
        if callback is not None:
            callback(state, subject, message)
