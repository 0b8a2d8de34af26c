"""Waiting for tasks from a program that tests a cluster: `Manager(app).join(result)`.

Everything is asked for again and again, with pauses that grow, until it holds or the tries are used up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from celery import states
from celery.exceptions import TimeoutError  # noqa: A004 - the public name
from celery.result import AsyncResult, ResultSet
from celery.utils.text import truncate
from celery.utils.time import humanize_seconds as _humanize_seconds

if TYPE_CHECKING:
    from celery.app.base import Celery

E_STILL_WAITING = "Not there yet: {0}; the next look is {when}. The last one said {exc!r}"
ACCEPTED = frozenset({"active"})
RECEIVED = frozenset({"reserved", "active"})
BEGUN = frozenset({states.STARTED, states.SUCCESS})

humanize_seconds = partial(_humanize_seconds, microseconds=True)


class Sentinel(Exception):
    """What is waited for does not hold (yet)."""


def pauses(start: float, step: float, most: float) -> Iterator[float]:
    """Seconds between tries: from *start*, by *step* longer each, at most *most*."""
    pause = start
    while True:
        yield min(pause, most)
        pause += step


class ManagerMixin:
    """What a manager does. It needs `app`, and `_init_manager` to be called."""

    app: Celery

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.block_timeout = block_timeout
        self.no_join = no_join
        self.progress: Any = None

    def remark(self, s: str, sep: str = "-") -> None:
        """Write a line with a mark in front."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: str) -> None:
        """Write a line as a warning."""
        self.remark(s, sep="!")

    # -- results ---------------------------------------------------------------------------------------------------

    def missing_results(self, r: Sequence[AsyncResult[Any]]) -> list[str]:
        """Ids of those that have no result yet."""
        return [result.id for result in r if not result.ready()]

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        errback: Callable[..., Any] | None = None,
        max_retries: int = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call *fun* until it raises none of *catch*; what it returns. The last error is raised after *max_retries*.

        With *emit_warning* each failure is told; *errback*, called with the error, the pauses and the number of
        tries, may give another pause.
        """
        intervals = pauses(interval_start, interval_step, interval_max)
        retries = 0
        while True:
            try:
                return fun(*args, **(kwargs or {}))
            except catch as error:
                if retries >= max_retries:
                    raise
                pause = next(intervals)
                if errback is not None:
                    pause = errback(error, intervals, retries) or pause
                retries += 1
                if emit_warning:
                    self.warn(E_STILL_WAITING.format(desc, when=humanize_seconds(pause, "in", " "), exc=error))
                time.sleep(pause)

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Raise `AssertionError` if *fun* stops raising *catch* within *max_retries* looks."""
        looks = pauses(interval_start, interval_step, interval_max)
        for _ in range(max_retries):
            try:
                fun()
            except catch:
                time.sleep(next(looks))
            else:
                raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        """As `wait_for`."""
        return self.wait_for(*args, **kwargs)

    def join(
        self, r: AsyncResult[Any] | ResultSet, propagate: bool = False, max_retries: int = 10, **kwargs: Any
    ) -> Any:
        """The value of a result, or those of a set; looked for *max_retries* times. Raises `AssertionError` then.

        Keyword arguments are those of `get`: `timeout` seconds for each look, 30 minutes unless given otherwise.
        """
        if self.no_join:
            return None
        results = [r] if not isinstance(r, ResultSet) else list(r.results)
        kwargs.setdefault("timeout", self.block_timeout)
        for retry in range(1, max_retries + 1):
            try:
                return r.get(propagate=propagate, **kwargs)
            except TimeoutError:
                missing = self.missing_results(results)
                text = truncate(", ".join(missing))
                self.remark(f"{len(missing)} of {len(results)} results are missing: {text} (look {retry})")
        raise AssertionError(f"The results were not there after {max_retries} looks")

    # -- workers ---------------------------------------------------------------------------------------------------

    def inspect(self, timeout: float = 3.0) -> Any:
        """Questions to all workers."""
        return self.app.control.inspect(timeout=timeout)

    def query_tasks(self, ids: Iterable[str], timeout: float = 0.5) -> Iterator[tuple[str, Any]]:
        """(node, {id: [state, request]}) of every worker that answers."""
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Iterable[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """State in a worker (`reserved`, `active`, …) -> ids of the tasks in it."""
        found: dict[str, set[str]] = {}
        for _, reply in self.query_tasks(ids, timeout):
            for task_id, (state, _) in reply.items():
                found.setdefault(state, set()).add(task_id)
        return found

    def _ids_matches_state(self, expected_states: Iterable[str], ids: Iterable[str], timeout: float = 0.5) -> bool:
        ids = list(ids)
        known = self.query_task_states(ids, timeout=timeout)
        there = set().union(*(known.get(state, set()) for state in expected_states))
        return set(ids) <= there

    def is_accepted(self, ids: Iterable[str], **kwargs: Any) -> bool:
        """Whether workers run all of these tasks now."""
        return self._ids_matches_state(ACCEPTED, ids, **kwargs)

    def is_received(self, ids: Iterable[str], **kwargs: Any) -> bool:
        """Whether workers have all of these tasks, running or not."""
        return self._ids_matches_state(RECEIVED, ids, **kwargs)

    @staticmethod
    def is_result_task_in_progress(results: Iterable[AsyncResult[Any]], **kwargs: Any) -> bool:
        """Whether all of these tasks have begun (which the setting `task_track_started` records) or succeeded."""
        return all(result.state in BEGUN for result in results)

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What *fun* returns; raises `Sentinel` if that is false."""
        value = fun(*args, **kwargs)
        if not value:
            raise Sentinel
        return value

    def assert_received(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "waiting for tasks to be received", **policy: Any
    ) -> Any:
        """Wait until workers have these tasks."""
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_accepted(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "waiting for tasks to be accepted", **policy: Any
    ) -> Any:
        """Wait until workers run these tasks."""
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Iterable[AsyncResult[Any]],
        interval: float = 0.5,
        desc: str = "waiting for tasks to be started or completed",
        **policy: Any,
    ) -> Any:
        """Wait until these tasks have begun or succeeded."""
        fun = self.is_result_task_in_progress
        return self.assert_task_state_from_result(fun, async_results, interval=interval, desc=desc, **policy)

    def assert_task_state_from_result(
        self, fun: Callable[..., Any], results: Iterable[AsyncResult[Any]], interval: float = 0.5, **policy: Any
    ) -> Any:
        """Wait until *fun* holds of these results."""
        look = partial(self.true_or_raise, fun, list(results), timeout=interval)
        return self.wait_for(look, (Sentinel,), **policy)

    def assert_task_worker_state(
        self, fun: Callable[..., Any], ids: Iterable[str], interval: float = 0.5, **policy: Any
    ) -> Any:
        """Wait until *fun*, which asks workers for *interval* seconds, holds of these ids."""
        look = partial(self.true_or_raise, fun, list(ids), timeout=interval)
        return self.wait_for(look, (Sentinel,), **policy)

    def wait_until_idle(self) -> None:
        """Wait until no worker runs a task. Needs one worker at least, or raises `Sentinel` in the end."""

        def is_idle() -> bool:
            active = self.inspect().active()
            return bool(active) and not any(active.values())

        self.wait_for(partial(self.true_or_raise, is_idle), (Sentinel,), desc="idle workers", max_retries=60)


class Manager(ManagerMixin):
    """Waits for tasks of *app*. Options: `block_timeout`, `no_join`, `stdout`, `stderr`."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)


__all__ = ["E_STILL_WAITING", "Manager", "ManagerMixin", "Sentinel", "humanize_seconds"]
