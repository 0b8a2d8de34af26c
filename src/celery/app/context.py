"""`task.request`: what a task knows of the message that started it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from celery.wire.message import Arrival, Outgoing, Record
from celery.wire.protocol import LIMIT, UNIQUE

if TYPE_CHECKING:
    from datetime import datetime

X_DEATH_HEADERS = frozenset({
    "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-last-death-exchange",
    "x-last-death-queue", "x-last-death-reason",
})  # fmt: skip
"""What RabbitMQ writes on a message that it has moved to a dead letter exchange."""
NOT_CUSTOM = frozenset({
    "lang", "task", "argsrepr", "kwargsrepr", "compression", "id", "args", "kwargs", "embed", "outbox", "records",
    "arrivals", "effects", "celeriac_once", LIMIT, UNIQUE, "replays", "writer", "priority", "task_id", "redelivered",
    "x-delivery-count", *X_DEATH_HEADERS,
})  # fmt: skip
"""Names of a request that are not headers of the user, besides the attributes of `Context`."""

_EXECUTION_OPTIONS = (
    ("task_id", "id"),
    ("root_id", "root_id"),
    ("parent_id", "parent_id"),
    ("group_id", "group"),
    ("group_index", "group_index"),
    ("shadow", "shadow"),
    ("chord", "chord"),
    ("chain", "chain"),
    ("link", "callbacks"),
    ("link_error", "errbacks"),
    ("expires", "expires"),
    ("soft_time_limit", "soft_time_limit"),
    ("time_limit", "time_limit"),
    ("headers", "headers"),
    ("retries", "retries"),
    ("reply_to", "reply_to"),
    ("replaced_task_nesting", "replaced_task_nesting"),
    ("origin", "origin"),
)


class _Derived:
    """An attribute that is worked out when it is read, unless it was set."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, request: Context | None, owner: type) -> Any:
        return None if request is None else request._derive(self.name)


class Context:
    """The request of a running task: every header of its message is an attribute, and so are these.

    Reading a field that the message has not gives its default, reading an unknown name raises AttributeError
    (`get` does not).  One thread.
    """

    args: Any = None
    callbacks: list[Any] | None = None
    called_directly: bool = True
    """The task was called as a function: no worker, no message."""
    chain: list[Any] | None = None
    chord: Any = None
    correlation_id: str | None = None
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: str | float | datetime | None = None
    group: str | None = None
    group_index: int | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager: bool = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    retries: int = 0
    reply_to: str | None = None
    replaced_task_nesting: int = 0
    root_id: str | None = None
    shadow: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    utc: bool | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None

    outbox: list[Outgoing] | None = None
    """Where messages wait to be sent together with the settlement of this task; None: they are sent at once."""
    effects: list[Record] | None = None
    """Results to store together with the settlement; None: they are stored at once."""
    arrivals: list[Arrival] | None = None
    """Parts of chords that have ended, to be counted together with the settlement; see `collected_arrivals`."""
    records: list[Record] | None = None
    """While this is a list, what the result backend stores for this request goes there and not to the store."""
    writer: str = ""
    """Names the message that is executed, so that of two executions one result stands (see `Record`)."""

    replaced: bool = False
    """Another task has taken the place of this execution: what follows it follows that one."""

    _added: int = 0
    """How many tasks this execution has added to its chord."""
    _children: list[Any] | None = None
    _protected: int = 0
    """Whether `Task.__call__` was reached in this execution: from then on a call is one of its own."""

    _body_size: int = 0
    """Bytes of the body of its message; 0 where that is not known."""
    _redelivered: bool = False

    if TYPE_CHECKING:
        delivery_info: dict[str, Any] | None
        headers: dict[str, Any] | None
        time_limit: float | None
        soft_time_limit: float | None

        def __getattr__(self, name: str) -> Any: ...
    else:
        delivery_info = _Derived("delivery_info")
        headers = _Derived("headers")
        time_limit = _Derived("time_limit")
        soft_time_limit = _Derived("soft_time_limit")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields, as `dict.update` does."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Give every field its default."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """The field *key*, or *default* where there is no such field."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    def collected_arrivals(self) -> list[Arrival] | None:
        """`arrivals`, where this is executed by a worker, which commits them with its settlement; else None."""
        if self.arrivals is None and self.effects is not None:
            self.arrivals = []
        return self.arrivals

    @property
    def children(self) -> list[Any]:
        """The results of the tasks this one has sent."""
        if self._children is None:
            self._children = []
        return self._children

    def _derive(self, name: str) -> Any:
        if name == "headers":
            return self._custom_headers()
        if name == "delivery_info":
            return self._route()
        limits = self.timelimit
        if not isinstance(limits, (list, tuple)) or len(limits) != 2:
            return None
        return limits[0 if name == "time_limit" else 1]

    def _route(self) -> dict[str, Any] | None:
        """How the message came here; None where there was none."""
        properties = self.properties
        if properties is None:
            return None
        route = properties.get("delivery_info") or {}
        info = self.__dict__["delivery_info"] = {
            "exchange": route.get("exchange"),
            "routing_key": route.get("routing_key"),
            "priority": properties.get("priority", 0),
            "redelivered": self._redelivered or bool(route.get("redelivered")),
        }
        return info

    def _custom_headers(self) -> dict[str, Any] | None:
        """The headers that users put beside those of the protocol."""
        stamped = self.stamped_headers or ()
        custom = {
            name: value
            for name, value in self.__dict__.items()
            if name not in NOT_CUSTOM and name not in _FIELDS and name not in stamped
        }
        return custom or None

    def as_execution_options(self) -> dict[str, Any]:
        """Options for `apply_async` that send this task again as it was sent."""
        options = {option: getattr(self, field) for option, field in _EXECUTION_OPTIONS}
        limits = {name: self.__dict__[name] for name in (LIMIT, UNIQUE) if name in self.__dict__}
        if limits:
            options["headers"] = {**(options["headers"] or {}), **limits}
        if self.stamped_headers:
            options["stamped_headers"] = self.stamped_headers
            stamps = self.stamps or {}
            for name in self.stamped_headers:
                options[name] = self.__dict__.get(name, stamps.get(name))
        return options

    @classmethod
    def from_message(
        cls,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
        body: tuple[Any, Any, Mapping[str, Any]],
        *,
        hostname: str | None = None,
        redelivered: bool = False,
    ) -> Context:
        """The request of a message; *body* as `celery.wire.protocol.split_body` gives it."""
        self = cls.__new__(cls)
        args, kwargs, embed = body
        get = embed.get
        self.__dict__ = {
            **headers,
            "args": args,
            "kwargs": kwargs,
            "callbacks": get("callbacks"),
            "errbacks": get("errbacks"),
            "chain": get("chain"),
            "chord": get("chord"),
            "called_directly": False,
            "hostname": hostname,
            "correlation_id": properties.get("correlation_id"),
            "reply_to": properties.get("reply_to"),
            "properties": properties,
            "_redelivered": redelivered,
        }
        return self


_FIELDS = frozenset(name for name in vars(Context) if not name.startswith("__")) | frozenset(
    {"delivery_info", "headers", "time_limit", "soft_time_limit"}
)


def is_result_ignored(task: Any, req: Any = None) -> bool:
    """Whether nobody wants the result: the message says so, and where it does not, the task."""
    if req is not None:
        said = vars(req).get("ignore_result")
        if said is not None:
            return bool(said)
    return bool(task.ignore_result)


get_actual_ignore_result = is_result_ignored


def request_field(request: Any, name: str) -> Any:
    """Field *name* of a request that may be ours, another object or a mapping; None where it has none."""
    if request.__class__ is not Context and isinstance(request, Mapping):
        return cast("Mapping[str, Any]", request).get(name)
    return getattr(request, name, None)


__all__ = ["Context", "get_actual_ignore_result", "is_result_ignored", "request_field"]
