"""`xmap`: a task for every item of a collection, in which a failure costs one item, not all of them.

`from celery.contrib import xmap` has it.  Items are tried by workers, beside each other; what raises is tried again by
itself, later and later, and what fails for good is an `ItemError` in the place of its value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery import states
from celery._state import app_or_default
from celery.app.asyncresult import assert_will_not_block
from celery.app.itemwise import NAME, OK
from celery.app.resultset import Order, check_order
from celery.canvas.ids import new_id
from celery.canvas.signature import maybe_signature
from celery.exceptions import CeleryError
from celery.result import GroupResult
from celery.utils.saferepr import saferepr
from celery.wire.errors import exception_from_data

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.canvas.signature import Signature
    from celery.result import ResultBase


class ItemError(CeleryError):
    """The *item* at *index* failed for good, with *exception*."""

    def __init__(self, index: int, item: Any, exception: BaseException) -> None:
        super().__init__(index, item, exception)
        self.index = index
        self.item = item
        self.exception = exception
        self.__cause__ = exception

    def __str__(self) -> str:
        return f"Item {self.index}, {saferepr(self.item, maxlen=200)}, failed: {self.exception!r}"


class XMapResult(GroupResult):
    """The results of `xmap`: as those of a group, but with a value, or an `ItemError`, for every item."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: ResultBase | None = None,
        items: Sequence[Any] = (),
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(id, results, parent, **kwargs)
        self.items = items
        self.chunk = chunk

    def __reduce_args__(self) -> tuple[Any, ...]:
        return *super().__reduce_args__(), self.items, self.chunk

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = False,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
        order: Order = "submission",
    ) -> Any:
        """Block until every item has a value or has failed for good; the list of values and `ItemError`s, in order.

        With *propagate* the first `ItemError` that is found is raised.  Otherwise as `GroupResult.get`.
        """
        check_order(order)
        if disable_sync_subtasks:
            assert_will_not_block()
        options = {"timeout": timeout, "interval": interval, "no_ack": no_ack,
                   "on_message": on_message, "on_interval": on_interval}  # fmt: skip
        found = self._each(propagate, options)
        if callback is not None:
            for task_id, _, value in found:
                callback(task_id, value)
            return None
        if order == "completion":
            return (value for _, _, value in found)
        values = {index: value for _, index, value in found}
        return [values[index] for index in sorted(values)]

    join = join_native = get  # type: ignore[assignment]

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        propagate: bool = False,
        interval: float = 0.5,
        order: Order = "submission",
    ) -> Any:
        """As `get`, for asyncio."""
        check_order(order)
        found = self._aeach(timeout, propagate, interval)
        if order == "completion":
            return (value async for _, value in found)
        values = {index: value async for index, value in found}
        return [values[index] for index in sorted(values)]

    ajoin = aget

    def errors(self, **options: Any) -> list[ItemError]:
        """Wait for all; what failed for good. *options* as for `get`."""
        return [value for value in self.get(**options) if isinstance(value, ItemError)]

    def successful(self) -> bool:
        """Whether every item has a value."""
        return super().successful() and not self.errors(disable_sync_subtasks=False)

    def failed(self) -> bool:
        """Whether an item has failed for good."""
        if super().failed():
            return True
        ended = [position for position, result in enumerate(self.results) if result.ready()]
        return any(isinstance(value, ItemError) for position in ended for _, value in self._values(position))

    def _each(self, propagate: bool, options: dict[str, Any]) -> Iterator[tuple[str, int, Any]]:
        """`(task id, index, value or error)` of items, as they are there."""
        for position, _ in self._complete(False, options):
            for index, value in self._values(position):
                if propagate and isinstance(value, ItemError):
                    raise value
                yield self.results[position].id, index, value

    async def _aeach(
        self,
        timeout: float | None,  # noqa: ASYNC109 - as in `get`
        propagate: bool,
        interval: float,
    ) -> AsyncIterator[tuple[int, Any]]:
        async for position, _ in self._acomplete(timeout, False, interval):
            for index, value in self._values(position):
                if propagate and isinstance(value, ItemError):
                    raise value
                yield index, value

    def _values(self, position: int) -> list[tuple[int, Any]]:
        """Index and value of the items that the task at *position* had."""
        result = self.results[position]
        size = self.chunk or 1
        items = list(enumerate(self.items[position * size : (position + 1) * size], position * size))
        if result.state != states.SUCCESS:
            return [(index, ItemError(index, item, result._error(result.result))) for index, item in items]
        if self.chunk is None:
            return [(position, result.result)]
        return [
            (index, value if word == OK else ItemError(index, item, _error(value)))
            for (index, item), (word, value) in zip(items, result.result, strict=True)
        ]


def _error(data: Any) -> BaseException:
    error = exception_from_data(data)
    return RuntimeError(str(data)) if error is None else error


def xmap(
    task: Signature[Any] | Mapping[str, Any] | Any,
    items: Iterable[Any],
    max_retries: int = 3,
    countdown: float | None = None,
    chunk: int | None = None,
    app: Celery | None = None,
    **options: Any,
) -> XMapResult:
    """Send *task* (a signature, or a task) for each of *items*; a result whose `get()` is the list of their values.

    An item whose task raises is tried again by itself, *max_retries* times: *countdown* seconds later, or, without it,
    after pauses that grow from about a second.  One that fails for good is an `ItemError` in the list.  With *chunk*,
    so many items share a message, for tasks that are done in no time.  *options* are those of `Task.apply_async`.
    """
    signature: Any = maybe_signature(task) if isinstance(task, Mapping) else task.s()
    app = app or (signature.app if signature._app is not None or signature._type is not None else app_or_default(None))
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk!r}: a message has at least one item.")
    listed = list(items)
    group_id = options.pop("group_id", None) or new_id()
    bare = signature.replace(options={})
    shared = {"shadow": f"xmap({signature.task})", **_limits(app, signature.task, chunk or 1), **signature.options,
              **options, "group_id": group_id, "ignore_result": False, "route_name": signature.task}  # fmt: skip
    policy = {"max_retries": max_retries, "countdown": countdown, "alone": chunk is None}
    numbered = [[index, item] for index, item in enumerate(listed)]
    send = app.tasks[NAME].apply_async
    results = []
    with app.bulk():
        for place, start in enumerate(range(0, len(numbered), chunk or 1)):
            part = numbered[start : start + (chunk or 1)]
            results.append(send((), {"task": bare, "items": part, **policy}, **shared, group_index=place))
    return XMapResult(group_id, results, items=listed, chunk=chunk, app=app)


def _limits(app: Celery, name: str, count: int) -> dict[str, float]:
    """The time limits of the task, where it is known here, for *count* calls."""
    task = app.tasks.get(name)
    limits = {limit: getattr(task, limit, None) for limit in ("time_limit", "soft_time_limit")}
    return {limit: seconds * count for limit, seconds in limits.items() if seconds is not None}


__all__ = ["ItemError", "XMapResult", "xmap"]
