"""`ResultSet`: the results of several tasks, waited for and read together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

from celery import states
from celery._state import app_or_default
from celery.app.asyncresult import assert_will_not_block, control_options
from celery.app.callbacks import Callbacks
from celery.app.gathering import Ended, Gathering, value_of
from celery.app.resulttree import FailureBefore, ResultBase, forget, leaves, look

if TYPE_CHECKING:
    from celery.app.base import Celery

Meta = dict[str, Any]
Callback = Callable[[str, Any], Any]
Options = dict[str, Any]
Order = Literal["submission", "completion"]


class ResultSet(ResultBase):
    """Several results in one; a member can be a set itself. Not thread-safe while members are added."""

    results: list[Any]

    def __init__(
        self, results: Iterable[Any], app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any
    ) -> None:
        self._app = app
        self.results = list(results)
        if ready_barrier is not None:
            self.then(lambda _: ready_barrier())

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
        known = {result.id for result in self.results}
        for result in results:
            if result.id not in known:
                known.add(result.id)
                self.results.append(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
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

    def _ids(self) -> list[str]:
        return list(dict.fromkeys(id for result in self.results for id in result.as_list()))

    # -- state ----------------------------------------------------------------------------------------------------

    def successful(self) -> bool:
        """Whether all have succeeded."""
        return not look(self.results) and all(result.successful() for result in leaves(self.results))

    def failed(self) -> bool:
        """Whether one has failed."""
        running = look(self.results)
        return any(result.failed() for result in leaves(self.results) if id(result) not in running)

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return bool(look(self.results)) or any(not result.ready() for result in leaves(self.results))

    def ready(self) -> bool:
        """Whether all have ended."""
        return not look(self.results) and all(result.ready() for result in leaves(self.results))

    def completed_count(self) -> int:
        """How many members have succeeded."""
        running = look(self.results)
        return sum(
            all(id(below) not in running and below.successful() for below in leaves([result]))
            for result in self.results
        )

    @property
    def supports_native_join(self) -> bool:
        """Whether the members can be read in one step."""
        return bool(self.results) and all(result.supports_native_join for result in self.results)

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the exception of a member that has failed; *callback* is called with the id and value of each."""
        look(self.results)
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
        order: Order = "submission",
    ) -> Any:
        """Block until all have ended; their values in the order of the members. Raises as `AsyncResult.get` does.

        With *order* `"completion"`: an iterator of the values, each as soon as it is there.  *callback* is called
        with `(id, value)` of every member, as they end; then nothing is returned.  *propagate* raises the exception
        of the first task that is found to have failed, without waiting for the others.
        """
        options: Options = {"timeout": timeout, "interval": interval, "no_ack": no_ack,
                            "on_message": on_message, "on_interval": on_interval}  # fmt: skip
        check_order(order)
        if disable_sync_subtasks:
            assert_will_not_block()
        if order == "completion" and callback is None:
            return (value for _, value in self._complete(propagate, options))
        join = self.join_native if self.supports_native_join else self.join
        return join(propagate=propagate, callback=callback, disable_sync_subtasks=False, **options)

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
        """As `get`, strictly in the order of the members: in it *callback* is called, and failures are raised."""
        if disable_sync_subtasks:
            assert_will_not_block()
        options: Options = {"timeout": timeout, "interval": interval, "no_ack": no_ack,
                            "on_message": on_message, "on_interval": on_interval}  # fmt: skip
        values: list[Any] = []
        there: set[int] = set()
        at = 0
        for _, positions in self._wait(options):
            there.update(positions)
            while at in there:
                there.discard(at)
                member = self.results[at]
                value = value_of(member, propagate)
                if callback is None:
                    values.append(value)
                else:
                    callback(member.id, value)
                at += 1
        return values

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
    ) -> Any:
        """As `get` in the order of submission."""
        if disable_sync_subtasks:
            assert_will_not_block()
        options: Options = {"timeout": timeout, "interval": interval, "no_ack": no_ack,
                            "on_message": on_message, "on_interval": on_interval}  # fmt: skip
        values: list[Any] = [None] * len(self.results)
        for position, value in self._complete(propagate, options):
            if callback is None:
                values[position] = value
            else:
                callback(self.results[position].id, value)
        return values if callback is None else None

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield `(task id, meta)` of the members as they end; of a group `(its id, its results)`."""
        options: Options = {"timeout": timeout, "interval": interval, "no_ack": no_ack,
                            "on_message": on_message, "on_interval": on_interval}  # fmt: skip
        for _, positions in self._wait(options):
            for position in positions:
                member = self.results[position]
                members = getattr(member, "results", None)
                yield member.id, members if members is not None else member._get_task_meta()

    _iter_meta = iter_native

    def _wait(self, options: Options) -> Iterator[Ended]:
        """What ends, as it ends; raises what a task before this set raised, for then nothing will."""
        return Gathering(self.results, FailureBefore(self)).wait(**options)

    def _complete(self, propagate: bool, options: Options) -> Iterator[tuple[int, Any]]:
        """The positions and values of members, as they end."""
        for leaf, positions in self._wait(options):
            if propagate and leaf is not None:
                value_of(leaf, propagate)
            for position in positions:
                yield position, value_of(self.results[position], propagate)

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        propagate: bool = True,
        interval: float = 0.5,
        order: Order = "submission",
    ) -> Any:
        """As `get`, for asyncio: waits for all at once without blocking the event loop.

        With *order* `"completion"`: an asynchronous iterator of the values, each as soon as it is there.
        """
        check_order(order)
        if order == "completion":
            return (value async for _, value in self._acomplete(timeout, propagate, interval))
        values: list[Any] = [None] * len(self.results)
        async for position, value in self._acomplete(timeout, propagate, interval):
            values[position] = value
        return values

    ajoin = aget

    async def _acomplete(
        self,
        timeout: float | None,  # noqa: ASYNC109 - as in `get`
        propagate: bool,
        interval: float,
    ) -> AsyncIterator[tuple[int, Any]]:
        gathering = Gathering(self.results, FailureBefore(self))
        async for leaf, positions in gathering.await_(timeout=timeout, interval=interval):
            if propagate and leaf is not None:
                value_of(leaf, propagate)
            for position in positions:
                yield position, value_of(self.results[position], propagate)

    def then(
        self,
        callback: Callable[[Any], Any],
        on_error: Callable[[BaseException], Any] | None = None,
        weak: bool = False,
    ) -> ResultSet:
        """Call *callback* with this set when its last task has succeeded, *on_error* once with what one raised.

        On the thread that reads a final state of the task in question; at once where they are all there.
        """
        tasks = list(leaves(self.results))
        ending = Callbacks()
        ending.add(callback, on_error, weak)
        left = len(tasks)

        def succeeded(_: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                ending.succeeded(self)

        for result in tasks:
            result.then(succeeded, ending.failed)
        if not tasks:
            ending.succeeded(self)
        return self

    # -- acting on them -------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the results of all members, and of what is before them in their chains."""
        forget(self.results)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep all tasks of it from starting, told in one message; with *terminate*, kill those that run."""
        ids = [result.id for result in leaves(self.results)]
        if ids:
            self.app.control.revoke(ids, **control_options(connection, terminate, signal, wait, timeout))


def check_order(order: str) -> None:
    """Raise `ValueError` for an order that there is not."""
    if order not in {"submission", "completion"}:
        raise ValueError(f'order={order!r}: results come in the order of "submission" or of "completion".')


__all__ = ["Order", "ResultSet", "check_order"]
