"""Waiting for many results: every backend is asked once for all of them, and says which have ended as they do."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from celery import states
from celery.app.resulttree import FailureBefore, leaves
from celery.exceptions import TimeoutError  # noqa: A004 - the public name

RECHECK = 5.0
"""Seconds between two looks at the tasks before a result, for which notified waiting is interrupted."""
GUARD = -1
Meta = dict[str, Any]
Owners = dict[str, list[tuple[Any, int]]]
Ended = tuple[Any, list[int]]
"""The result of a task that has ended (None for a group without members), and the positions that are complete by it."""


class Gathering:
    """Members of a set, each complete when the tasks of all results below it have ended.

    *before* are the tasks without which none of them runs: when one of those fails, what it raised is raised.
    """

    def __init__(self, members: Sequence[Any], before: FailureBefore) -> None:
        self._before = before
        self._open = [0] * len(members)
        self._unread: dict[int, tuple[Any, Owners]] = {}
        self._complete: list[Ended] = []
        for position, member in enumerate(members):
            self._add(position, member)

    def _add(self, position: int, member: Any) -> None:
        known = False
        for leaf in leaves([member]):
            if leaf.ignored or leaf._cache is not None:
                known = True
                self._complete.append((leaf, []))
            else:
                self._await(leaf, position)
                self._open[position] += 1
        if not self._open[position]:
            if not known:
                self._complete.append((None, []))
            self._complete[-1][1].append(position)

    def _await(self, leaf: Any, position: int) -> None:
        backend = leaf.backend
        self._unread.setdefault(id(backend), (backend, {}))[1].setdefault(leaf.id, []).append((leaf, position))

    def wait(
        self,
        *,
        timeout: float | None,
        interval: float,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Ended]:
        """Yield what ends, as it ends. Raises `TimeoutError` after *timeout* seconds."""
        yield from self._complete
        if not self._unread:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        self._before()
        self._watch_before()
        options = {"interval": interval, "no_ack": no_ack, "on_message": on_message, "on_interval": on_interval}
        for backend, unread in self._unread.values():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            get_many = getattr(backend, "get_many", None)
            if get_many is None:
                yield from self._one_by_one(unread, left, options)
                continue
            missing = _members(unread)
            for task_id, meta in get_many(list(unread), timeout=left, **options):
                owners = unread.get(task_id, [])
                yield from self._arrived(owners, meta)
                missing -= _members({task_id: owners})
                if not missing:
                    break

    async def await_(self, *, timeout: float | None, interval: float) -> AsyncGenerator[Ended, None]:  # noqa: ASYNC109
        """As `wait`, for asyncio."""
        for ended in self._complete:
            yield ended
        if not self._unread:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._before:
            await import_module("asyncio").to_thread(self._before)
            self._watch_before()
        for backend, unread in self._unread.values():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            arriving = getattr(backend, "each_arrival", None)
            stream = arriving(list(unread), left) if arriving else poll(backend, list(unread), left, interval)
            missing = _members(unread)
            async for task_id, meta in stream:
                owners = unread.get(task_id, [])
                for ended in self._arrived(owners, meta):
                    yield ended
                missing -= _members({task_id: owners})
                if not missing:
                    await stream.aclose()
                    break

    def _watch_before(self) -> None:
        """Wait for the task right before them too: it fails with every one before it in its chain."""
        guard = self._before.nearest
        if guard is not None and id(guard.backend) in self._unread:
            self._await(guard, GUARD)

    def _one_by_one(self, unread: Owners, timeout: float | None, options: dict[str, Any]) -> Iterator[Ended]:
        """From a backend that cannot read many: one after the other."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for owners in unread.values():
            if not _members({"": owners}):
                continue
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            owners[0][0].get(timeout=left, propagate=False, disable_sync_subtasks=False, **options)
            yield from self._arrived(owners, None)

    def _arrived(self, owners: Iterable[tuple[Any, int]], meta: Meta | None) -> Iterator[Ended]:
        for leaf, position in owners:
            if meta is not None:
                leaf._maybe_set_cache(meta)
            if position == GUARD:
                leaf.maybe_throw()
                continue
            self._open[position] -= 1
            yield leaf, [] if self._open[position] else [position]


def _members(unread: Owners) -> int:
    return sum(position != GUARD for owners in unread.values() for _, position in owners)


def value_of(member: Any, propagate: bool) -> Any:
    """The value of a result that is complete: of a group, those of its members."""
    members = getattr(member, "results", None)
    if members is not None:
        return [value_of(below, propagate) for below in members]
    return None if member.ignored else member.maybe_throw(propagate=propagate)


def follow(
    result: Any, interval: float, on_interval: Callable[[], Any] | None
) -> tuple[float, Callable[[], Any] | None]:
    """Interval and `on_interval` for a waiting that ends when a task before *result* has failed.

    Looks at once, and raises what that task raised.
    """
    before = FailureBefore(result)
    if not before:
        return interval, on_interval
    before()
    if on_interval is None:
        # A failure is stored for the rest of the chain too, of which who waits is told: this is a safety net.
        notified = getattr(result.backend, "is_async", False)
        return max(interval, RECHECK) if notified else interval, before

    def step() -> None:
        before()
        on_interval()

    return interval, step


async def poll(
    backend: Any,
    task_ids: list[str],
    timeout: float | None,  # noqa: ASYNC109 - as in `get`
    interval: float,
) -> AsyncGenerator[tuple[str, Meta], None]:
    """`(task id, meta)` of tasks as they end, from a backend that can only be looked at, each look on a thread."""
    asyncio = import_module("asyncio")  # not at the top: most programs that send tasks never need it
    deadline = None if timeout is None else time.monotonic() + timeout
    missing = dict.fromkeys(task_ids)
    while True:
        for task_id in list(missing):
            meta = await asyncio.to_thread(backend.get_task_meta, task_id)
            if meta["status"] in states.READY_STATES:
                del missing[task_id]
                yield task_id, meta
        if not missing:
            return
        if deadline is not None and time.monotonic() + interval > deadline:
            raise TimeoutError(f"{len(missing)} of the results were not there after {timeout} s.")
        await asyncio.sleep(interval)


__all__ = ["RECHECK", "Ended", "Gathering", "follow", "poll", "value_of"]
