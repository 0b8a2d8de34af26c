"""`AsyncResult`: what the sender of a task holds while it runs elsewhere.

No I/O when it is made or garbage-collected.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from celery import states
from celery._state import _set_task_join_will_block, app_or_default, task_join_will_block
from celery.app.callbacks import Callbacks
from celery.app.gathering import follow, poll
from celery.app.resulttree import FailureBefore, ResultBase, ResultTree, ancestors, forget
from celery.exceptions import TimeoutError  # noqa: A004 - the public name
from celery.utils.iso8601 import parse_iso8601
from celery.wire.errors import with_remote_traceback

if TYPE_CHECKING:
    from celery.app.base import Celery

R = TypeVar("R")
Meta = dict[str, Any]

E_WOULDBLOCK = (
    "Never call result.get() within a task! It waits for another task while it keeps the slot that task may need, so"
    " that both wait for ever. Link the tasks (`chain`, `link`) instead, or, where it is safe, call"
    " get(disable_sync_subtasks=False) or use `with allow_join_result():`."
)


def assert_will_not_block() -> None:
    """Raise RuntimeError inside a task: waiting there for another one can wait for ever."""
    if task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow waiting for results inside a task."""
    before = task_join_will_block()
    _set_task_join_will_block(False)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Refuse waiting for results, as inside a task."""
    before = task_join_will_block()
    _set_task_join_will_block(True)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


def importable_class(result: ResultBase) -> type:
    """The class of *result* that can be pickled: an app, for one, makes subclasses that no module has."""
    lineage: tuple[type, ...] = type(result).__mro__
    for cls in lineage:
        importable: Any = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
        if issubclass(cls, ResultBase) and importable is cls:
            return cls
    return AsyncResult


def control_options(
    connection: Any, terminate: bool, signal: str | None, wait: bool, timeout: float | None
) -> dict[str, Any]:
    """Options for `app.control`, those left out that were not given."""
    options = {"connection": connection, "signal": signal, "timeout": timeout}
    return {
        "terminate": terminate,
        "reply": wait,
        **{name: value for name, value in options.items() if value is not None},
    }


class AsyncResult(ResultTree, Generic[R]):
    """The result of a task by its id. Thread-safe for reading; asks the backend until the task has ended."""

    app: Celery | None = None
    TimeoutError: ClassVar[type[TimeoutError]] = TimeoutError
    ignored: bool = False
    """Whether the task was sent to store no result."""
    stored: ClassVar[bool] = True
    """Whether a backend keeps it."""
    _backend: Any = None
    _cache: Meta | None = None

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult needs the id of a task; got None.")
        # One is made for every task that is sent: what the class says already is not written again.
        self.id: str = id
        if app is not None or self.app is None:
            self.app = app_or_default(app)
        if backend is not None:
            self._backend = backend
        if parent is not None:
            self.parent = parent

    @property
    def backend(self) -> Any:
        """The result backend that is asked."""
        if self._backend is None:
            self._backend = cast("Celery", self.app).backend
        return self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    # -- waiting --------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Iterable[str] = states.EXCEPTION_STATES,  # noqa: N803 - the public name
        PROPAGATE_STATES: Iterable[str] = states.PROPAGATE_STATES,  # noqa: N803 - the public name
    ) -> R:
        """Block until the task has ended and return its result, or raise what it raised.

        Raises `TimeoutError` after *timeout* seconds, and, with *follow_parents*, what a task before this one in its
        chain raised.  With *propagate* false an exception is returned.  *callback* is called with `(id, result)`,
        *on_interval* now and then while waiting.  *interval* in seconds counts only for backends that cannot notify.
        """
        if self.ignored:
            return cast("R", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._cache is not None:
            return cast("R", self.maybe_throw(propagate=propagate, callback=callback))
        if follow_parents and propagate and self.parent is not None:
            interval, on_interval = follow(self, interval, on_interval)
        self.backend.add_pending_result(self)
        value = self.backend.wait_for_pending(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=on_interval,
            no_ack=no_ack,
            propagate=propagate,
            callback=callback,
            on_message=on_message,
        )
        return cast("R", value)

    wait = get

    async def aget(  # as `get`: a timeout is part of its contract
        self,
        timeout: float | None = None,  # noqa: ASYNC109
        propagate: bool = True,
        interval: float = 0.5,
        follow_parents: bool = True,
    ) -> R:
        """As `get`, for asyncio: waits without blocking the event loop."""
        if self.ignored:
            return cast("R", None)
        if self._cache is None:
            before = FailureBefore(self)
            if before and propagate and follow_parents:
                await import_module("asyncio").to_thread(before)
            arrival: Callable[[str, float | None], Awaitable[Meta]] | None = getattr(self.backend, "arrival", None)
            if arrival is not None:
                meta = await arrival(self.id, timeout)
            else:
                _, meta = await anext(poll(self.backend, [self.id], timeout, interval))
            self._maybe_set_cache(meta)
        return cast("R", self.maybe_throw(propagate=propagate))

    def then(
        self,
        callback: Callable[[AsyncResult[R]], Any],
        on_error: Callable[[BaseException], Any] | None = None,
        weak: bool = False,
    ) -> AsyncResult[R]:
        """Call *callback* with this result when the task has succeeded, *on_error* with its exception when it has not.

        At once if it has ended; else on the thread that next reads a final state.  *weak*: only while something else
        holds the functions.
        """
        callbacks: Callbacks = self.__dict__.setdefault("_callbacks", Callbacks())
        callbacks.add(callback, on_error, weak)
        self._call_callbacks()
        return self

    def _call_callbacks(self) -> None:
        callbacks: Callbacks | None = self.__dict__.get("_callbacks")
        if callbacks is None or self._cache is None:
            return
        if self._cache["status"] == states.SUCCESS:
            callbacks.succeeded(self)
        else:
            callbacks.failed(self._error(self._cache["result"]))

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the exception of a failed task, else return the value."""
        meta = self._get_task_meta() if self._cache is None else self._cache
        value = meta["result"]
        if meta["status"] in states.PROPAGATE_STATES and propagate:
            self.throw(value, meta.get("traceback"))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, exc: Any = None, traceback: Any = None, *args: Any) -> Any:
        """Raise *exc* with the traceback of where it was raised as its cause."""
        raise with_remote_traceback(self._error(exc), traceback if isinstance(traceback, str) else None)

    def _error(self, exc: Any) -> BaseException:
        return exc if isinstance(exc, BaseException) else RuntimeError(f"Task {self.id} failed: {exc!r}")

    def _maybe_reraise_parent_error(self) -> None:
        FailureBefore(self)()

    def _parents(self) -> Iterator[Any]:
        return ancestors(self)

    # -- state ----------------------------------------------------------------------------------------------------

    def _get_task_meta(self) -> Meta:
        if self._cache is not None:
            return self._cache
        return self._maybe_set_cache(self.backend.get_task_meta(self.id))

    def _maybe_set_cache(self, meta: Meta | None) -> Meta:
        if meta and meta["status"] in states.READY_STATES:
            return self._set_cache(meta)
        return meta or {"status": states.PENDING, "result": None}

    def _set_cache(self, meta: Meta) -> Meta:
        children = meta.get("children")
        if children:
            made = [self._child(child) for child in children]
            meta = {**meta, "children": made}
        self._cache = meta
        if "_callbacks" in self.__dict__:
            self._call_callbacks()
        return meta

    def _child(self, child: Any) -> Any:
        return child if isinstance(child, ResultBase) else result_from_tuple(child, self.app)

    def _iter_meta(self, **kwargs: Any) -> Iterator[Meta]:
        return iter([self._get_task_meta()])

    @property
    def state(self) -> str:
        """The state of the task; PENDING also where the backend knows nothing of it."""
        return cast("str", self._get_task_meta()["status"])

    status = state

    @property
    def result(self) -> R | Any:
        """The result, or the exception of a failed task; None while there is none."""
        return self._get_task_meta().get("result")

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task as text."""
        return self._get_task_meta().get("traceback")

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC."""
        done = self._get_task_meta().get("date_done")
        return parse_iso8601(done) if isinstance(done, str) else done

    @property
    def name(self) -> str | None:
        """The name of the task, where `result_extended` is on."""
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """Its arguments, where `result_extended` is on."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments, where `result_extended` is on."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The worker that ran it, where `result_extended` is on."""
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How often it was retried, where `result_extended` is on."""
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue it came from, where `result_extended` is on."""
        return self._get_task_meta().get("queue")

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task has succeeded."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task has failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether the backend knows anything of the task."""
        return bool(self.backend.task_result_exists(self.id))

    @property
    def supports_native_join(self) -> bool:
        """Whether many results can be read in one step."""
        return bool(self.backend.supports_native_join)

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.id

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    # -- what it sent ---------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that this one has sent."""
        children = self._get_task_meta().get("children")
        return None if children is None else [self._child(child) for child in children]

    # -- acting on it ---------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the result, and those of the tasks before it in its chain."""
        forget([self])

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep the task from starting; with *terminate*, kill it if it runs. See `app.control.revoke`."""
        control = cast("Celery", self.app).control
        control.revoke(self.id, **control_options(connection, terminate, signal, wait, timeout))

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke every task that carries one of these stamps."""
        control = cast("Celery", self.app).control
        control.revoke_by_stamped_headers(headers, **control_options(connection, terminate, signal, wait, timeout))

    # -- as data --------------------------------------------------------------------------------------------------

    def _as_tuple(self, parent: Any) -> tuple[Any, Any]:
        return (self.id, parent), None

    def __reduce__(self) -> tuple[Any, ...]:
        return importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, None, None, None, self.parent

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, None, self.app, self.parent)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """The result that `as_tuple` made *r* of: a `GroupResult` where it has members, else an `AsyncResult`."""
    if isinstance(r, ResultBase):
        return r
    app = app_or_default(app)
    found: list[tuple[str, Any]] = []
    while r:
        if isinstance(r, ResultBase):
            break
        head, members = r
        id, r = head if isinstance(head, (list, tuple)) else (head, None)
        found.append((id, members))
    result = r or None
    for id, members in reversed(found):
        if members is None:
            result = app.AsyncResult(id, parent=result)
        else:
            result = app.GroupResult(id, [result_from_tuple(member, app) for member in members], parent=result)
    return result


__all__ = [
    "E_WOULDBLOCK",
    "AsyncResult",
    "ResultBase",
    "ResultTree",
    "allow_join_result",
    "assert_will_not_block",
    "control_options",
    "denied_join_result",
    "importable_class",
    "result_from_tuple",
]
