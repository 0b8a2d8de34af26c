"""Waiting for results that arrive by themselves: everything that follows from `get_many`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from celery.backends.backend import Meta
from celery.exceptions import TimeoutError  # noqa: A004 - the public name

if TYPE_CHECKING:
    from celery.result import AsyncResult, ResultSet


class WaitsByMany:
    """For backends whose `get_many` is woken when a result is there."""

    get_many: Callable[..., Generator[tuple[str, Meta], None, None]]

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Kept for the API: nothing has to be prepared before the waiting begins."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Kept for the API."""
        return result

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
        on_message: Callable[[Meta], Any] | None = None,
    ) -> Meta:
        """Block until the task has ended; its meta. Raises `TimeoutError` after *timeout* seconds."""
        many = self.get_many(
            [task_id], timeout=timeout, interval=interval, on_interval=on_interval, on_message=on_message
        )
        try:
            return next(many)[1]
        except TimeoutError:
            raise TimeoutError(f"No result of task {task_id} within {timeout} s.") from None
        finally:
            many.close()  # else it listens until it is collected

    def wait_for_pending(
        self,
        result: AsyncResult[Any],
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """Block until *result* is there, and give its value or raise its exception."""
        meta = self.wait_for(result.id, timeout, interval, on_interval=on_interval, on_message=on_message)
        result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def iter_native(
        self,
        result: ResultSet,
        no_ack: bool = True,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield `(task id, meta)` of every result of the set as it is there."""
        return result.iter_native(timeout, interval, no_ack, on_message, on_interval)


__all__ = ["WaitsByMany"]
