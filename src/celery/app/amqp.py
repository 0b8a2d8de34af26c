"""Task messages: from a name, arguments and options to the envelope that a broker carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta, tzinfo
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from celery.app import messages
from celery.app.queues import QUEUE_FORMAT, Queues
from celery.app.routes import Router, prepare
from celery.exceptions import EncodeError, ImproperlyConfigured, QueueNotFound
from celery.utils import uuid
from celery.utils.log import get_logger
from celery.wire.compression import compress
from celery.wire.message import Exchange, Outgoing, Queue
from celery.wire.protocol import Message, encode_envelope
from celery.wire.serialization import dumps

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)

# Inside the class these names are its methods.
QueueTable = Queues
TaskRouter = Router

INT_MIN = -2147483648
DELIVERY_MODES = {"transient": 1, "persistent": 2, 1: 1, 2: 2, "1": 1, "2": 2}

ROUTING = frozenset({"queue", "exchange", "routing_key", "exchange_type"})
HANDLED = messages.FIELDS | ROUTING | {
    "serializer", "compression", "delivery_mode", "priority", "expiration", "retry", "retry_policy", "declare",
    "event_dispatcher", "mandatory", "immediate", "timeout", "confirm_timeout", "auto_declare", "route_name",
    "task_type", "add_to_parent", "result_cls", "connection", "producer", "publisher", "router", "stamps",
    "concurrency_limit", "concurrency_key", "unique", "idempotency_key",
}  # fmt: skip
"""Options that are understood; what users give beyond them becomes a property of the message."""


class task_message(NamedTuple):  # noqa: N801 - the public name
    """A message before it is bytes. `sent_event` is what a `task-sent` event says of it."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    sent_event: dict[str, Any] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What is said of the task: the headers of protocol 2, the body of protocol 1."""
        return self.headers if "task" in self.headers else dict(self.body)


class Address(msgspec.Struct, frozen=True):
    """Where messages for one queue are published."""

    exchange: str
    routing_key: str
    queue: Queue | None = None


class Draft(msgspec.Struct):
    """A message with its address, not yet encoded: what `before_task_publish` may still change."""

    name: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    address: Address
    serializer: str
    compression: str | None = None
    due: float | None = None
    expires: float | None = None


class AMQP:
    """Queues, routes and messages of one app. Thread-safe once the app is configured."""

    queues_cls = QueueTable
    argsrepr_maxsize = messages.REPR_SIZE
    kwargsrepr_maxsize = messages.REPR_SIZE
    autoexchange: Any = None

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._queues: QueueTable | None = None
        self._router: TaskRouter | None = None
        self._routes: tuple[Any, ...] | None = None
        self._addresses: dict[str, Address] = {}
        self.epoch = object()
        """Another object after every change of routes or queues; see `plans`."""
        app.conf.bind_to(self._follow_settings)

    # -- messages ----------------------------------------------------------------------------------------------------

    def outgoing(
        self, name: str, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Outgoing:
        """The message for task *name*, routed, encoded and addressed; options as `Task.apply_async` takes them."""
        return self.encode(self.draft(name, args, kwargs, self.route(options, name, args, kwargs)))

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task: Any = None
    ) -> dict[str, Any]:
        """*options* with what `task_routes` adds to them."""
        if not self.routes:
            return options
        return self._routed(options, name, args or (), kwargs or {}, task)

    def _routed(self, options: dict[str, Any], name: str, args: Any, kwargs: Any, task: Any) -> dict[str, Any]:
        found = self.router.find(options, name, args, kwargs, task)
        if options.get("exchange") and not options.get("queue"):
            found.pop("queue", None)  # who names an exchange wants no queue of the route's
        return found

    def draft(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Draft:
        """The message and its address, for options that are routed already.

        Raises `TypeError` or `ValueError` for impossible options and `QueueNotFound` for an unknown queue.
        """
        app = self.app
        conf = app.conf
        args, kwargs = _checked(args, kwargs)
        get = options.get
        task_id = get("task_id") or uuid()
        due = until = eta = lapse = expiration = None
        countdown, at, expires = get("countdown"), get("eta"), get("expires")
        if countdown is not None or at is not None or expires is not None:
            eta, due, lapse, until, expiration = self._times(countdown, at, expires)
        if conf.task_protocol == 1:
            headers, body = messages.protocol1(name, task_id, args, kwargs, options, eta, lapse, conf.enable_utc)
        else:
            headers, body = messages.protocol2(name, task_id, args, kwargs, options, eta, lapse)
        properties: dict[str, Any] = {
            "correlation_id": task_id,
            "reply_to": get("reply_to") or app.thread_oid,
            "delivery_mode": self._delivery_mode(get("delivery_mode") or conf.task_default_delivery_mode),
            "priority": get("priority") or 0,
        }
        if expiration is None:
            expiration = get("expiration")
        if expiration is not None:
            properties["expiration"] = str(max(0, int(expiration * 1000)))
            until = app.clock_time() + expiration if until is None else until
        stamped = get("stamped_headers") or ()
        for key in options:
            if key not in HANDLED and key not in stamped:
                properties[key] = options[key]
        return Draft(
            name, headers, properties, body, self.address(options), get("serializer") or conf.task_serializer,
            get("compression") or conf.task_compression, due, until,
        )  # fmt: skip

    def _times(
        self, countdown: float | None, eta: Any, expires: Any
    ) -> tuple[str | None, float | None, str | None, float | None, float | None]:
        """ETA and expiry, each as text and as Unix time, and the seconds until it expires."""
        now = self.app.clock_time()
        start = due = lapse = until = left = None
        if countdown is not None or eta is not None:
            start, due = messages.moment("countdown" if eta is None else "eta", countdown, eta, now, self._zone)
        if expires is not None:
            dated = isinstance(expires, str) or hasattr(expires, "isoformat")
            lapse, until = messages.moment(
                "expires", None if dated else expires, expires if dated else None, now, self._zone
            )
            left = until - now
            if left < 0:
                logger.warning("A task was sent that has expired %.1f seconds ago: no worker will run it.", -left)
            elif not dated and not isinstance(expires, timedelta):
                left = expires
        return start, due, lapse, until, left

    def encode(self, draft: Draft) -> Outgoing:
        """The draft as bytes, with its address. Raises kombu's `EncodeError` when its arguments do not serialise."""
        headers, properties, address = draft.headers, draft.properties, draft.address
        try:
            content_type, content_encoding, body = dumps(draft.body, draft.serializer)
            if draft.compression:
                body, headers["compression"] = compress(body, draft.compression)
        except EncodeError as error:
            raise import_module("kombu.exceptions").EncodeError(str(error)) from error
        return Outgoing(
            encode_envelope(self.as_message(draft, content_type, content_encoding, body)),
            address.routing_key,
            address.exchange,
            properties.get("priority"),
            draft.due,
            draft.expires,
            properties["correlation_id"],
        )

    def as_message(self, draft: Draft, content_type: str, content_encoding: str, body: bytes) -> Message:
        """The message of a draft whose body was encoded."""
        address, properties = draft.address, draft.properties
        properties["delivery_info"] = {"exchange": address.exchange, "routing_key": address.routing_key}
        return Message(draft.headers, properties, body, content_type, content_encoding)

    def as_task_v2(self, task_id: str, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> task_message:
        """The message of protocol 2 for options as `Task.apply_async` has them (`callbacks` and `errbacks` too)."""
        return self._as_message(messages.protocol2, task_id, name, args, kwargs, options)

    def as_task_v1(self, task_id: str, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> task_message:
        """The message of protocol 1."""
        return self._as_message(messages.protocol1, task_id, name, args, kwargs, options)

    @property
    def create_task_message(self) -> Callable[..., task_message]:
        """`as_task_v2`, or `as_task_v1` where `task_protocol` says so."""
        return self.as_task_v1 if self.app.conf.task_protocol == 1 else self.as_task_v2

    def send_task_message(self, producer: Any, name: str, message: task_message, **options: Any) -> None:
        """Publish what `create_task_message` made for task *name*, with options as `draft` has them: routed already.

        By kombu's *producer* if that leads to another broker, else as all tasks are sent.
        """
        self.app._send_message(producer, name, self._drafted(name, message, options), options)

    def _drafted(self, name: str, message: task_message, options: Mapping[str, Any]) -> Draft:
        """The draft of a message that is made: its times are read from it."""
        get, fields = options.get, message.fields
        due, until = (
            messages.moment(what, None, fields[what], 0, self._zone)[1] if fields.get(what) else None
            for what in ("eta", "expires")
        )
        own = {key: value for key, value in options.items() if key not in HANDLED}
        expiration = get("expiration")
        if expiration is not None:
            own["expiration"] = str(max(0, int(expiration * 1000)))
        mode = self._delivery_mode(get("delivery_mode") or self.app.conf.task_default_delivery_mode)
        return Draft(
            name,
            {**message.headers, **(get("headers") or {})},
            {**message.properties, "delivery_mode": mode, "priority": get("priority") or 0, **own},
            message.body,
            self.address(options),
            get("serializer") or self.app.conf.task_serializer,
            get("compression") or self.app.conf.task_compression,
            due,
            until,
        )

    def _as_message(
        self, build: Any, task_id: str, name: str, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> task_message:
        args, kwargs = _checked(args, kwargs)
        for old, new in (("callbacks", "link"), ("errbacks", "link_error")):
            if old in options:
                options[new] = options.pop(old)
        eta, _, lapse, _, _ = self._times(*(options.pop(key, None) for key in ("countdown", "eta", "expires")))
        options.setdefault("ignore_result", False)
        headers, body = build(name, task_id, args, kwargs, options, eta, lapse)
        event = None
        if options.get("create_sent_event"):
            event = {
                "uuid": task_id, "root_id": options.get("root_id") or task_id, "parent_id": options.get("parent_id"),
                "name": name, "args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr"),
                "retries": options.get("retries", 0), "eta": eta, "expires": lapse,
            }  # fmt: skip
        return task_message(
            headers, {"correlation_id": task_id, "reply_to": options.get("reply_to") or ""}, body, event
        )

    # -- addresses ---------------------------------------------------------------------------------------------------

    def address(self, options: Mapping[str, Any]) -> Address:
        """Where a message with these options goes."""
        queue, exchange, routing_key = options.get("queue"), options.get("exchange"), options.get("routing_key")
        if exchange is None and routing_key is None and (queue is None or isinstance(queue, str)):
            name = queue or self.app.conf.task_default_queue
            known = self._addresses.get(name)
            if known is None:
                known = self._addresses[name] = self._find_address(self._queue(name), None, None, None)
            return known
        if exchange is not None and not isinstance(exchange, str):
            exchange = exchange.name
        if queue is None and exchange:
            return Address(exchange, routing_key or self.app.conf.task_default_routing_key)
        wire = self._queue(queue or self.app.conf.task_default_queue)
        return self._find_address(wire, exchange, routing_key, options.get("exchange_type"))

    @staticmethod
    def _find_address(queue: Queue, exchange: str | None, routing_key: str | None, kind: str | None) -> Address:
        """A queue behind a direct exchange is addressed by its name, which saves a hop."""
        if (kind or queue.exchange.type) == "direct" and not (exchange and routing_key):
            return Address("", queue.name, queue)
        return Address(exchange or queue.exchange.name, routing_key or queue.routing_key, queue)

    def _queue(self, queue: Any) -> Queue:
        if not isinstance(queue, str):
            name = queue.name
            if name not in self.queues:
                self.queues.add(queue)
            queue = name
        try:
            return self.queues.wire(queue)
        except KeyError:
            raise QueueNotFound(f"Queue {queue!r} missing from task_queues") from None

    # -- queues and routes -------------------------------------------------------------------------------------------

    def Queues(  # noqa: N802 - the public name
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
    ) -> QueueTable:
        """Queues with this app's defaults; without any, the default queue."""
        conf = self.app.conf
        default = Exchange(conf.task_default_exchange, conf.task_default_exchange_type)
        made = self.queues_cls(
            queues,
            default,
            conf.task_create_missing_queues if create_missing is None else create_missing,
            create_missing_queue_type or conf.task_create_missing_queue_type,
            create_missing_queue_exchange_type or conf.task_create_missing_queue_exchange_type,
            autoexchange or self.autoexchange,
            conf.task_queue_max_priority if max_priority is None else max_priority,
            conf.task_default_routing_key,
        )
        if not queues and conf.task_default_queue:
            kind = conf.task_default_queue_type
            arguments = {"x-queue-type": kind} if kind and kind != "classic" else None
            made.add_wire(Queue(conf.task_default_queue, default, conf.task_default_routing_key, arguments=arguments))
        return made

    @property
    def queues(self) -> QueueTable:
        """The queues of `task_queues`, or the default one, and those that were added since."""
        if self._queues is None:
            self._queues = self.Queues(self.app.conf.task_queues)
        return self._queues

    @queues.setter
    def queues(self, queues: Any) -> None:
        self._queues = queues if isinstance(queues, QueueTable) else self.Queues(queues)
        self._addresses.clear()
        self.epoch = object()

    @property
    def routes(self) -> tuple[Any, ...]:
        """`task_routes`, prepared."""
        if self._routes is None:
            self.flush_routes()
        assert self._routes is not None
        return self._routes

    def flush_routes(self) -> None:
        """Read `task_routes` again."""
        self._routes = tuple(prepare(self.app.conf.task_routes))
        self._router = None
        self.epoch = object()

    @property
    def router(self) -> TaskRouter:
        """Says where a task goes."""
        if self._router is None:
            self._router = self.Router()
        return self._router

    @router.setter
    def router(self, router: TaskRouter) -> None:
        self._router = router
        self.epoch = object()

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> TaskRouter:  # noqa: N802 - the public name
        """A router over `task_routes` and these queues."""
        conf = self.app.conf
        missing = conf.task_create_missing_queues if create_missing is None else create_missing
        return TaskRouter(self.routes, queues if queues is not None else self.queues, missing, app=self.app)

    @property
    def default_queue(self) -> Any:
        """kombu's queue for `task_default_queue`."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def default_exchange(self) -> Any:
        """kombu's exchange for `task_default_exchange`."""
        conf = self.app.conf
        return import_module("kombu").Exchange(conf.task_default_exchange, conf.task_default_exchange_type)

    @property
    def utc(self) -> bool:
        return bool(self.app.conf.enable_utc)

    def _follow_settings(self, *args: Any, **kwargs: Any) -> None:
        changed = {key for arg in args for key in dict(arg)} | set(kwargs)
        if "task_routes" in changed:
            self.flush_routes()
        if changed & {"task_queues", "task_default_queue", "task_default_exchange", "task_create_missing_queues"}:
            self._queues = None
        self._addresses.clear()
        self.epoch = object()

    def _zone(self) -> tzinfo:
        return self.app.timezone

    @staticmethod
    def _delivery_mode(mode: Any) -> int:
        try:
            return DELIVERY_MODES[mode]
        except (KeyError, TypeError):
            raise ImproperlyConfigured(
                f"{mode!r} is no delivery mode: use 'persistent' (2) or 'transient' (1)."
            ) from None

    # -- kombu, for those who use it ---------------------------------------------------------------------------------

    @property
    def Connection(self) -> Any:  # noqa: N802 - the public name
        """kombu's class."""
        return import_module("kombu").Connection

    BrokerConnection = Connection

    @property
    def Consumer(self) -> Any:  # noqa: N802 - the public name
        """kombu's class."""
        return import_module("kombu").Consumer

    @property
    def Producer(self) -> Any:  # noqa: N802 - the public name
        """kombu's class."""
        return import_module("kombu").Producer

    def TaskConsumer(self, channel: Any, queues: Any = None, accept: Any = None, **kw: Any) -> Any:  # noqa: N802
        """kombu's consumer of this app's queues."""
        accept = self.app.conf.accept_content if accept is None else accept
        sources = list(self.queues.consume_from.values()) if queues is None else queues
        return self.Consumer(channel, accept=accept, queues=sources, **kw)

    @property
    def producer_pool(self) -> Any:
        """kombu's pool of producers for the broker."""
        return self.app.producer_pool

    publisher_pool = producer_pool


def utf8dict(d: Any, encoding: str = "utf-8") -> dict[str, Any]:
    """*d* with text for the keys that are bytes."""
    return {key.decode(encoding) if isinstance(key, bytes) else key: value for key, value in dict(d).items()}


def _checked(args: Any, kwargs: Any) -> tuple[Any, Any]:
    if args is None:
        args = ()
    elif not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if kwargs is None:
        kwargs = {}
    elif not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs


__all__ = ["AMQP", "INT_MIN", "QUEUE_FORMAT", "Address", "Draft", "Queues", "task_message"]
