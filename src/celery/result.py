"""Results: what a sender holds while its tasks run elsewhere.

`AsyncResult` is one task, `GroupResult` a group with an id, `ResultSet` any collection, `EagerResult` the outcome of a
task that ran here.  None of them does I/O when it is made or garbage-collected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery import states
from celery._state import app_or_default
from celery.app.asyncresult import (
    E_WOULDBLOCK,
    AsyncResult,
    ResultBase,
    allow_join_result,
    assert_will_not_block,
    control_options,
    denied_join_result,
    importable_class,
    result_from_tuple,
)
from celery.exceptions import TimeoutError  # noqa: A004 - the public name

if TYPE_CHECKING:
    from celery.app.base import Celery

R = TypeVar("R")
Meta = dict[str, Any]
Callback = Callable[[str, Any], Any]


class EagerResult(AsyncResult[R]):
    """The result of a task that has run here (`Task.apply`, `task_always_eager`)."""

    def __init__(
        self,
        id: str | None,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        self.id = cast("str", id)
        self.app = None
        self.parent = None
        self.ignored = False
        self._backend = None
        self._cache = {"status": state, "result": ret_value, "traceback": traceback, "task_id": id, "name": name}

    def _get_task_meta(self) -> Meta:
        return cast("Meta", self._cache)

    def __reduce_args__(self) -> tuple[Any, ...]:
        meta = self._get_task_meta()
        return self.id, meta["result"], meta["status"], meta["traceback"], meta["name"]

    def __copy__(self) -> EagerResult[R]:
        return type(self)(*self.__reduce_args__())

    def ready(self) -> bool:
        return True

    def get(  # type: ignore[override]  # the waiting options of the base have no meaning here
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True, **kwargs: Any
    ) -> R:
        """The value, or the exception raised. Does not block."""
        if disable_sync_subtasks:
            assert_will_not_block()
        meta = self._get_task_meta()
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            error = meta["result"]
            raise error if isinstance(error, BaseException) else RuntimeError(str(error))
        return cast("R", meta["result"])

    wait = get  # type: ignore[assignment]

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        propagate: bool = True,
        interval: float = 0.5,
    ) -> R:
        return self.get(propagate=propagate)

    def forget(self) -> None:
        """Nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Say that it was revoked, although it has run."""
        self._get_task_meta()["status"] = states.REVOKED

    @property
    def supports_native_join(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


class ResultSet(ResultBase):
    """Several results in one. Not thread-safe while members are added."""

    results: list[Any]

    def __init__(
        self, results: Iterable[Any], app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any
    ) -> None:
        self._app = app
        self.results = list(results)
        self._on_ready: list[tuple[Callable[[Any], Any], Callable[[Any], Any] | None]] = []

    @property
    def app(self) -> Celery:
        """The app of the results."""
        if self._app is None:
            self._app = app_or_default(self.results[0].app if self.results else None)
        return self._app

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """The result backend of the members."""
        return self.app.backend if self.app else self.results[0].backend

    # -- members --------------------------------------------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Add *result* unless it is a member."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove *result* (or the member of that id); KeyError if it is no member."""
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove *result* if it is a member."""
        try:
            self.remove(result)
        except KeyError:
            return

    def update(self, results: Iterable[Any]) -> None:
        """Add every one of *results* that is no member."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its members change

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result.id) for result in self.results)}]>"

    # -- state ----------------------------------------------------------------------------------------------------

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return not self._look() and all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Whether one has failed."""
        running = self._look()
        return any(result.failed() for result in self.results if id(result) not in running)

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return bool(self._look()) or any(not result.ready() for result in self.results)

    def ready(self) -> bool:
        """Whether all have ended."""
        return not self._look() and all(result.ready() for result in self.results)

    def completed_count(self) -> int:
        """How many have succeeded."""
        running = self._look()
        return sum(int(result.successful()) for result in self.results if id(result) not in running)

    def _look(self) -> set[int]:
        """Read the members that have not ended, in one step where the backend can; which of them run on (by `id()`)."""
        read = getattr(self.backend, "read", None) if len(self.results) > 1 else None
        if read is None:
            return set()
        members = [
            result
            for result in self.results
            if isinstance(result, AsyncResult) and result._cache is None and result.backend is self.backend
        ]
        for member, meta in zip(members, read([member.id for member in members]), strict=True):
            member._maybe_set_cache(meta)
        return {id(member) for member in members if member._cache is None}

    @property
    def supports_native_join(self) -> bool:
        """Whether the members can be read in one step."""
        return bool(self.results) and all(result.supports_native_join for result in self.results)

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the exception of a member that has failed."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def _failed_join_report(self) -> Iterator[Any]:
        return (
            result
            for result in self.results
            if self.backend.is_cached(result.id) and result.state in states.PROPAGATE_STATES
        )

    # -- waiting --------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """Block until all have ended; their values in the order of the members. Raises as `AsyncResult.get` does."""
        join = self.join_native if self.supports_native_join else self.join
        return join(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        propagate: bool = True,
        interval: float = 0.5,
    ) -> list[Any]:
        """As `get`, for asyncio: waits for all at once without blocking the event loop."""
        waits = [result.aget(timeout=timeout, propagate=propagate, interval=interval) for result in self.results]
        return list(await import_module("asyncio").gather(*waits))

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """As `get`, one member after the other."""
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"Not all results were there after {timeout} s.")
            value = result.get(
                timeout=left,
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                disable_sync_subtasks=disable_sync_subtasks,
                on_interval=on_interval,
            )
            if callback is None:
                values.append(value)
            else:
                callback(result.id, value)
        return values

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Any], Any] | None = None, weak: bool = False
    ) -> ResultSet:
        """Call *callback* with this set when its last member has succeeded, *on_error* once when one has not."""
        self._on_ready.append((callback, on_error))
        for result in self.results:
            result.then(self._member_ended, self._member_ended)
        return self

    def _member_ended(self, _: Any) -> None:
        if not self._on_ready or any(result._cache is None for result in self.results):
            return
        waiting, self._on_ready = self._on_ready, []
        for callback, on_error in waiting:
            if self.successful():
                callback(self)
            elif on_error is not None:
                on_error(self)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield `(task id, meta)` of the members as they end."""
        return cast(
            "Iterator[tuple[str, Meta]]",
            self.backend.iter_native(
                self,
                timeout=timeout,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
            ),
        )

    _iter_meta = iter_native

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """As `get`, reading all members at once."""
        if disable_sync_subtasks:
            assert_will_not_block()
        members = {result.id: result for result in self.results}
        values: dict[str, Any] = {}
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            member = members[task_id]
            if isinstance(member, AsyncResult):
                member._maybe_set_cache(meta)
                value = member.maybe_throw(propagate=propagate)
            else:
                value = member.get(propagate=propagate)
            if callback is not None:
                callback(task_id, value)
            values[task_id] = value
        return [] if callback is not None else [values[result.id] for result in self.results]

    # -- acting on them -------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the results of all members."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke all members in one message."""
        self.app.control.revoke(
            [result.id for result in self.results], **control_options(connection, terminate, signal, wait, timeout)
        )


class GroupResult(ResultSet):
    """The results of a group: a `ResultSet` with an id, which can be saved and restored by it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: ResultBase | None = None,
        **kwargs: Any,
    ) -> None:
        self.id = id
        self.parent = parent
        super().__init__(results or (), **kwargs)

    def save(self, backend: Any = None) -> Any:
        """Store which results the group has, so that `restore` finds them."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Forget what `save` stored."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> GroupResult | None:
        """The group that was saved under *id*, None if there is none."""
        bound = getattr(cls, "app", None)
        app = app_or_default(app or (None if isinstance(bound, property) else bound))
        return cast("GroupResult | None", (backend or app.backend).restore_group(id))

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        return (self.id, self.parent and self.parent.as_tuple()), [result.as_tuple() for result in self.results]

    def __reduce__(self) -> tuple[Any, ...]:
        return importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results, self.parent

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(other.id == self.id and other.results == self.results and other.parent == self.parent)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    __hash__ = None

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"


__all__ = [
    "E_WOULDBLOCK",
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
