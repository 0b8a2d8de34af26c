"""What a cluster consists of, as its events show it: workers and tasks."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from time import time
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from celery import states
from celery.utils.log import get_logger

C = TypeVar("C", bound=type)

HEARTBEAT_EXPIRE_WINDOW = 200
"""Per cent of the time between two heartbeats after which a worker that was not heard of is offline."""
HEARTBEAT_DRIFT_MAX = 16
"""Seconds by which the clock of a worker may differ from ours before somebody should look after it."""
HEARTBEATS_KEPT = 4
UNKNOWN_FREQ = 60
DRIFT_WARNING = (
    "The clock of %s is %s seconds away from the clock here: tasks may be shown in the wrong order. "
    "[its time: %s, received at: %s]"
)
R_WORKER = "<Worker: {0.hostname} ({0.status_string} clock:{0.clock})>"
R_TASK = "<Task: {0.name}({0.uuid}) {0.state} clock:{0.clock}>"

logger = get_logger("celery.events.state")
warn = logger.warning

TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}
"""The state that a task is in after an event `task-...`; after one that is not listed it is in a state of its name."""


class Cluster(Protocol):
    """What a task must know of the picture that it is in."""

    tasks: Any
    """Id -> task."""


def with_unique_field(attr: str) -> Callable[[C], C]:
    """A class decorator: objects are equal when they have the same *attr*."""

    def decorate(cls: C) -> C:
        def __eq__(self: Any, other: object) -> bool:  # noqa: N807 - it becomes the class's
            if isinstance(other, self.__class__):
                return bool(getattr(self, attr) == getattr(other, attr))
            return NotImplemented

        def __hash__(self: Any) -> int:  # noqa: N807 - it becomes the class's
            return hash(getattr(self, attr))

        cls.__eq__ = __eq__  # type: ignore[method-assign, assignment]
        cls.__hash__ = __hash__  # type: ignore[method-assign, assignment]
        return cls

    return decorate


def peek(cache: Any, key: str) -> Any:
    """What *cache* has under *key*, without that counting as a use."""
    return getattr(cache, "data", cache).get(key)


def heartbeat_expires(timestamp: float, freq: float = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW) -> float:
    """When a worker whose last heartbeat came at *timestamp*, one every *freq* seconds, counts as offline."""
    return float(timestamp) + float(freq) * (expire_window / 100)


def _warn_drift(hostname: str | None, drift: float, local_received: float, timestamp: float) -> None:
    warn(DRIFT_WARNING, hostname, drift, timestamp, local_received)


@with_unique_field("hostname")
class Worker:
    """A worker as its events show it. Whatever an event says becomes an attribute."""

    heartbeat_max = HEARTBEATS_KEPT
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver",
        "sw_sys",
    )  # fmt: skip

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = UNKNOWN_FREQ,
        heartbeats: Iterable[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        self.heartbeats: list[float] = [] if heartbeats is None else list(heartbeats)
        """When it was heard of, the last few times, by the clock here."""
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        max_drift: float = HEARTBEAT_DRIFT_MAX,
    ) -> None:
        """Take in an event `worker-...`, or (None) only that it was heard of."""
        if fields:
            for name, value in fields.items():
                if name not in _FIXED_OF_WORKER:
                    setattr(self, name, value)
        if type_ == "offline":
            self.heartbeats.clear()
        elif local_received and timestamp:
            drift = abs(int(local_received) - int(timestamp))
            if drift > max_drift:
                _warn_drift(self.hostname, drift, local_received, timestamp)
            heartbeats = self.heartbeats
            if len(heartbeats) >= self.heartbeat_max:
                del heartbeats[: len(heartbeats) - self.heartbeat_max + 1]
            insort(heartbeats, local_received)

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set attributes."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as offline if nothing is heard of it."""
        return heartbeat_expires(self.heartbeats[-1], self.freq or UNKNOWN_FREQ, self.expire_window)

    @property
    def alive(self) -> bool:
        return bool(self.heartbeats) and time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Name and process id."""
        return f"{self.hostname}.{self.pid}"

    def __repr__(self) -> str:
        return R_WORKER.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, tuple(getattr(self, name) for name in self._fields)


@with_unique_field("uuid")
class Task:
    """A task as its events show it. Whatever an event says becomes an attribute; `sent`, `started` and so on are times.

    `worker` is the worker that had it last, `client` the name of who sent it.
    """

    name: str | None = None
    state: str = states.PENDING
    received: float | None = None
    sent: float | None = None
    started: float | None = None
    rejected: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    args: str | None = None
    kwargs: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int | None = None
    worker: Worker | None = None
    result: str | None = None
    exception: str | None = None
    timestamp: float | None = None
    runtime: float | None = None
    traceback: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    client: str | None = None
    clock: int = 0

    _fields = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried", "revoked",
        "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp", "runtime",
        "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent", "parent_id", "children",
    )  # fmt: skip
    _info_fields = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key",
        "root_id", "parent_id",
    )  # fmt: skip
    merge_rules: Mapping[str, tuple[str, ...]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires"),
    }
    """State -> what an event that comes late, when the task is past that state, still tells of it."""

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: Cluster | None = None,
        children: Iterable[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        self.children: WeakSet[Task] = WeakSet()
        """The tasks that this one has sent, of those that are known."""
        for child in children or ():
            task = self._of_cluster(child) if isinstance(child, str) else child
            if task is not None:
                self.children.add(task)
        for name, value in kwargs.items():
            if name not in _MADE_OF_TASK:
                setattr(self, name, value)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in an event `task-...`."""
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is not None:
            setattr(self, type_, timestamp)
        else:
            state = type_.upper()
        told: Mapping[str, Any] = fields or {}
        if _is_past(state, self.state):
            kept = self.merge_rules.get(state)
            if kept is not None:
                told = {name: told[name] for name in kept if name in told}
        else:
            self.state = state
        plain = type(self) is Task  # of which the names are known that are not to be set
        if plain:
            attributes = dict(told)
            for name in _FIXED_OF_TASK.intersection(attributes):
                del attributes[name]
            vars(self).update(attributes)
        else:
            for name, value in told.items():
                if name not in _FIXED_OF_TASK:
                    setattr(self, name, value)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """What is known of the more interesting attributes, or of *fields*, and of *extra* ones."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        values = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All attributes, other tasks by their ids."""
        by_id = {"root": self.root_id, "parent": self.parent_id, "children": [task.uuid for task in self.children]}
        return {name: by_id[name] if name in by_id else getattr(self, name) for name in self._fields}

    @property
    def id(self) -> str | None:
        return self.uuid

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    @property
    def origin(self) -> str | None:
        """Who has it: the worker, or as long as there is none the client."""
        return self.client if self.worker is None else self.worker.id

    @property
    def parent(self) -> Task | None:
        """The task that sent it, if that is known."""
        return self._of_cluster(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The task with which it all began, if that is known."""
        return self._of_cluster(self.root_id)

    def _of_cluster(self, uuid: str | None) -> Task | None:
        return None if uuid is None or self.cluster_state is None else peek(self.cluster_state.tasks, uuid)

    def __repr__(self) -> str:
        return R_TASK.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        told = {name: value for name, value in vars(self).items() if name != "cluster_state"}
        return _depickle_task, (self.__class__, {**told, **self.as_dict()})


@lru_cache(1024)
def _is_past(state: str, now: str) -> bool:
    """Whether a task that is in the state *now* has left *state* behind. A retry begins anew."""
    return states.RETRY not in {state, now} and states.precedence(state) > states.precedence(now)


def _depickle_task(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)


def _fixed(cls: type, *more: str) -> frozenset[str]:
    """Attributes of *cls* that are no events' business: methods and the like."""
    plain = (str, int, tuple, type(None))
    return frozenset({*more, *(name for name in dir(cls) if not isinstance(getattr(cls, name), plain))})


_FIXED_OF_WORKER = _fixed(Worker, "heartbeats", "_fields")
_MADE_OF_TASK = _fixed(Task, "_fields")
_FIXED_OF_TASK = _MADE_OF_TASK | {"uuid", "state", "worker", "client", "children", "cluster_state"}


__all__ = [
    "DRIFT_WARNING",
    "HEARTBEAT_DRIFT_MAX",
    "HEARTBEAT_EXPIRE_WINDOW",
    "R_TASK",
    "R_WORKER",
    "TASK_EVENT_TO_STATE",
    "Task",
    "Worker",
    "heartbeat_expires",
    "peek",
    "with_unique_field",
]
