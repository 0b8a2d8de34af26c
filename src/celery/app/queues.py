"""The queues an app knows, by name.

Users give kombu's `Queue` and `Exchange`, dictionaries or names, and read kombu's objects back.  Inside, a queue is
our own `celery.wire.message.Queue`, so that sending a task needs nothing of kombu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from importlib import import_module
from textwrap import indent as indent_text
from typing import Any, Literal, cast

from msgspec.structs import replace

from celery.exceptions import ImproperlyConfigured
from celery.wire.message import Binding, Exchange, Queue

ExchangeType = Literal["direct", "topic", "fanout", "headers"]

QUEUE_FORMAT = ".> {0:<16} exchange={1}({2}) key={3}"


class Queues(MutableMapping[str, Any]):
    """Name to queue. Reading a name that is missing adds it where *create_missing*, else raises `KeyError`.

    Values read are kombu queues (kombu is imported then); `wire` gives ours.
    """

    def __init__(
        self,
        queues: Mapping[str, Any] | Iterable[Any] | None = None,
        default_exchange: Any = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        self.default_exchange = exchange_of(default_exchange) if default_exchange is not None else None
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.autoexchange = autoexchange
        self.max_priority = max_priority
        self._wire: dict[str, Queue] = {}
        self._given: dict[str, Any] = {}
        self._aliases: dict[str, str] = {}
        """Other names of queues that are made up anew in each process (kombu's `Broadcast`)."""
        self._selected: dict[str, None] | None = None
        """In the order in which they were asked for."""
        if isinstance(queues, Mapping):
            for name, queue in queues.items():
                self._add(dict(queue, queue=name) if isinstance(queue, Mapping) else queue)
        else:
            for queue in queues or ():
                if isinstance(queue, tuple | list) and len(queue) == 2 and isinstance(queue[1], Mapping):
                    queue = dict(queue[1], queue=queue[0])  # noqa: PLW2901 - a pair, as in a mapping
                self._add(queue)

    def wire(self, name: str) -> Queue:
        """Our value for the queue *name*, or of that alias; raises `KeyError` where `[]` does."""
        name = self.name_of(name)
        queue = self._wire.get(name)
        if queue is None:
            if not self.create_missing:
                raise KeyError(name)
            queue = self._wire[name] = self._make_missing(name)
        return queue

    def name_of(self, name: str) -> str:
        """The name of the queue that has *name* as its alias; else *name*."""
        return self._aliases.get(name, name)

    def given(self, name: str) -> Any:
        """kombu's queue *name* if it was given, or has been read; else None."""
        return self._given.get(name)

    def apart(self, names: Iterable[str] | None = None) -> list[Queue]:
        """Those of these names, or all that a worker consumes from, once for each of their bindings."""
        wanted = self._consumed() if names is None else names
        return [one for name in wanted for one in self.wire(name).apart()]

    def consuming(self) -> list[Queue]:
        """What a worker consumes from: the selected queues, or all."""
        return [self._wire[name] for name in self._consumed()]

    def add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue: kombu's, ours, a dictionary of options, or a name with options. Returns kombu's queue."""
        return self[self._add(queue, **kwargs)]

    def _add(self, queue: Any, **kwargs: Any) -> str:
        if isinstance(queue, Mapping):
            kwargs = {**queue, **kwargs}
            queue = kwargs.pop("queue", None) or kwargs.pop("name", None)
        if isinstance(queue, str):
            name = queue
            self._wire[name] = self._from_options(name, kwargs)
            self._given.pop(name, None)
        elif getattr(queue, "name", None):
            name = cast("str", queue.name)
            if alias := getattr(queue, "alias", None):
                self._aliases[alias] = name
            self._wire[name] = self._with_defaults(queue_of(queue))
            self._given.pop(name, None)
            if not isinstance(queue, Queue):
                self._given[name] = self._completed(queue, self._wire[name])
        else:
            raise ImproperlyConfigured(
                f"task_queues has {queue!r}: give kombu Queue objects, names, or dictionaries with the key 'queue'."
            )
        return name

    def add_wire(self, queue: Queue) -> None:
        """Add ours, without asking kombu."""
        self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Any:
        """Add *name* with options as a dictionary would give them."""
        return self.add(name, **options)

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The consumed queues, one a line, as the worker's banner shows them."""
        lines = [
            QUEUE_FORMAT.format(queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key)
            for queue in sorted(self.consuming(), key=lambda queue: queue.name)
        ]
        text = indent_text("\n".join(lines), " " * indent)
        return text if indent_first else text.lstrip(" ")

    def select(self, include: str | Iterable[str]) -> None:
        """Consume only from *include*: names, or a string of names with commas between them."""
        if include:
            names = [self.name_of(name) for name in split_names(include)]
            for name in names:
                self.wire(name)
            self._selected = dict.fromkeys(names)

    def select_add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue and consume from it too, although others were selected."""
        name = self._add(queue, **kwargs)
        if self._selected is not None:
            self._selected[name] = None
        return self[name]

    def deselect(self, exclude: str | Iterable[str]) -> None:
        """Do not consume from *exclude*."""
        if exclude:
            names = [self.name_of(name) for name in split_names(exclude)]
            unknown = [name for name in names if name not in self._wire]
            if unknown and self._selected is None and not self.create_missing:
                raise KeyError(unknown[0])
            self._selected = {name: None for name in self._consumed() if name not in names}

    def new_missing(self, name: str) -> Any:
        """kombu's queue for a *name* that is not in `task_queues`."""
        return to_kombu(self._make_missing(name))

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues a worker consumes from."""
        return {name: self[name] for name in self._consumed()}

    def __getitem__(self, name: str) -> Any:
        queue = self.wire(name)
        name = queue.name
        given = self._given.get(name)
        if given is None:
            given = self._given[name] = to_kombu(queue)
        return given

    def __setitem__(self, name: str, queue: Any) -> None:
        self._add({**queue, "queue": name} if isinstance(queue, Mapping) else queue)

    def __delitem__(self, name: str) -> None:
        del self._wire[name]
        self._given.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._wire))

    def __len__(self) -> int:
        return len(self._wire)

    def __contains__(self, name: object) -> bool:
        return name in self._wire

    def __repr__(self) -> str:
        return f"<Queues: {', '.join(sorted(self._wire))}>"

    def _consumed(self) -> list[str]:
        if self._selected is None:
            return list(self._wire)
        return [name for name in self._selected if name in self._wire]

    def _make_missing(self, name: str) -> Queue:
        kind = self.create_missing_queue_exchange_type or (
            self.default_exchange.type if self.default_exchange else "direct"
        )
        arguments = None
        if self.create_missing_queue_type and self.create_missing_queue_type != "classic":
            arguments = {"x-queue-type": self.create_missing_queue_type}
        exchange = (
            exchange_of(self.autoexchange(name)) if self.autoexchange else Exchange(name, cast("ExchangeType", kind))
        )
        return self._with_priority(
            Queue(name=name, exchange=exchange, routing_key=name, max_priority=self.max_priority, arguments=arguments)
        )

    def _from_options(self, name: str, options: dict[str, Any]) -> Queue:
        """A queue from the options of `task_queues` given as a dictionary."""
        given = options.get("exchange")
        exchange = self.default_exchange or Exchange(name)
        if given is not None:
            exchange = exchange_of(given, options.get("exchange_type"))
            if isinstance(given, str):
                exchange = replace(
                    exchange,
                    durable=_flag(options, "durable", "exchange_", default=True),
                    auto_delete=_flag(options, "auto_delete", "exchange_"),
                )
        key = options.get("binding_key") or options.get("routing_key", name)
        auto_delete = _flag(options, "auto_delete", "queue_") or bool(options.get("exclusive"))
        return self._with_priority(
            Queue(
                name=name,
                exchange=exchange,
                routing_key=name if key is None else key or self.default_routing_key or name,
                durable=_flag(options, "durable", "queue_", default=True),
                max_priority=options.get("max_priority"),
                arguments=_arguments(options.get("queue_arguments"), options.get),
                auto_delete=auto_delete,
                bindings=tuple(_binding(way) for way in options.get("bindings") or ()),
                binding_arguments=options.get("binding_arguments") or None,
            )
        )

    def _with_defaults(self, queue: Queue) -> Queue:
        exchange, routing_key = queue.exchange, queue.routing_key
        if not exchange.name and self.default_exchange is not None:
            exchange = self.default_exchange
        if not routing_key:
            routing_key = self.default_routing_key or queue.name
        return self._with_priority(replace(queue, exchange=exchange, routing_key=routing_key))

    def _with_priority(self, queue: Queue) -> Queue:
        given = (queue.arguments or {}).get("x-max-priority", queue.max_priority)
        wanted = self.max_priority if given is None else given
        if wanted == queue.max_priority:
            return queue
        return replace(queue, max_priority=wanted)

    @staticmethod
    def _completed(given: Any, queue: Queue) -> Any:
        """The user's own kombu queue, with the defaults it left open filled in."""
        if not getattr(given.exchange, "name", ""):
            given.exchange = to_kombu_exchange(queue.exchange)
        if not given.routing_key:
            given.routing_key = queue.routing_key
        return given


OPTIONS = (
    ("expires", "x-expires", 1000),
    ("message_ttl", "x-message-ttl", 1000),
    ("max_length", "x-max-length", 1),
    ("max_length_bytes", "x-max-length-bytes", 1),
)


def split_names(names: str | Iterable[str]) -> list[str]:
    """Names from a list, or from a string with commas between them."""
    if isinstance(names, str):
        names = names.split(",")
    return [name.strip() for name in names if name.strip()]


def exchange_of(value: Any, kind: str | None = None) -> Exchange:
    """Our exchange from kombu's, ours, a dictionary or a name."""
    if isinstance(value, Exchange):
        return value
    if isinstance(value, str):
        return Exchange(value, cast("ExchangeType", kind or "direct"))
    if isinstance(value, Mapping):
        return Exchange(
            value.get("name", ""),
            cast("ExchangeType", value.get("type") or kind or "direct"),
            value.get("durable", True),
            value.get("auto_delete", False),
        )
    return Exchange(value.name or "", value.type or "direct", bool(value.durable), bool(value.auto_delete))


def queue_of(value: Any) -> Queue:
    """Our queue from kombu's or ours."""
    if isinstance(value, Queue):
        return value
    return Queue(
        name=value.name,
        exchange=exchange_of(value.exchange) if value.exchange is not None else Exchange(),
        routing_key=value.routing_key or "",
        durable=bool(value.durable),
        max_priority=value.max_priority,
        arguments=_arguments(value.queue_arguments, lambda name: getattr(value, name, None)),
        bindings=tuple(
            _binding(way)
            for way in sorted(value.bindings or (), key=lambda way: (way.exchange.name, way.routing_key or ""))
        ),
        binding_arguments=value.binding_arguments or None,
        auto_delete=bool(value.auto_delete),
    )


def _binding(way: Any) -> Binding:
    """One more way into a queue: kombu's `binding`, ours, a dictionary, or a pair of exchange and routing key."""
    if isinstance(way, Binding):
        return way
    if isinstance(way, Mapping):
        exchange = exchange_of(way.get("exchange") or "", way.get("exchange_type"))
        return Binding(exchange, way.get("routing_key") or "", way.get("arguments") or None)
    if isinstance(way, tuple | list) and len(way) == 2:
        return Binding(exchange_of(way[0]), way[1] or "")
    if getattr(way, "exchange", None) is None:
        raise ImproperlyConfigured(
            f"A binding of a queue in task_queues is {way!r}: give kombu's binding(exchange, routing_key=…), a"
            f" dictionary with these keys, or a pair of them."
        )
    return Binding(exchange_of(way.exchange), way.routing_key or "", way.arguments or None)


def _flag(options: Mapping[str, Any], name: str, prefix: str, *, default: bool = False) -> bool:
    """*name* with *prefix*, which is for the queue or the exchange alone, else without."""
    own = options.get(prefix + name)
    return bool(options.get(name, default) if own is None else own)


def _arguments(given: Mapping[str, Any] | None, option: Callable[[str], Any]) -> dict[str, Any] | None:
    """Those *given*, and those that a queue has as options by names of kombu's, times in seconds there."""
    found = dict(given or {})
    for name, argument, factor in OPTIONS:
        value = option(name)
        if value is not None:
            found.setdefault(argument, int(value * factor))
    return found or None


def to_kombu_exchange(exchange: Exchange) -> Any:
    """kombu's exchange for ours."""
    return import_module("kombu").Exchange(
        exchange.name, type=exchange.type, durable=exchange.durable, auto_delete=exchange.auto_delete
    )


def to_kombu(queue: Queue) -> Any:
    """kombu's queue for ours."""
    kombu = import_module("kombu")
    ways = [
        kombu.binding(to_kombu_exchange(way.exchange), way.routing_key, arguments=way.arguments)
        for way in queue.bindings
    ]
    return kombu.Queue(
        queue.name,
        exchange=to_kombu_exchange(queue.exchange),
        routing_key=queue.routing_key,
        durable=queue.durable,
        max_priority=queue.max_priority,
        queue_arguments=queue.arguments,
        auto_delete=queue.auto_delete,
        bindings=ways or None,
        binding_arguments=queue.binding_arguments,
    )
