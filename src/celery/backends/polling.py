"""Waiting for results of a backend that cannot tell when there is one: look, sleep, look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from celery import states
from celery.backends.backend import Backend, Meta
from celery.exceptions import TimeoutError  # noqa: A004 - the public name

if TYPE_CHECKING:
    from celery.result import AsyncResult, ResultSet


class SyncBackendMixin:
    """`wait_for_pending` and `iter_native` by looking every `interval` seconds."""

    def wait_for_pending(
        self,
        result: AsyncResult[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Block until *result* is there, and give its value or raise its exception."""
        meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval, no_ack=no_ack)
        if on_message is not None:
            on_message(meta)
        result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Meta:
        """Block until the task has ended; its meta. Raises `TimeoutError` after *timeout* seconds."""
        backend = cast("Backend", self)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            meta = backend.get_task_meta(task_id)
            if meta["status"] in states.READY_STATES:
                return meta
            if on_interval is not None:
                on_interval()
            pause = interval
            if deadline is not None:
                pause = min(pause, deadline - time.monotonic())
                if pause <= 0:
                    raise TimeoutError(f"No result of task {task_id} within {timeout} s.")
            backend._sleep(pause)

    def iter_native(
        self,
        result: ResultSet,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield `(task id, meta)` of every result of the set as it is there."""
        if not result.results:
            return iter(())
        get_many = cast("Callable[..., Iterable[tuple[str, Meta]]]", cast("Any", self).get_many)
        ids = {member.id for member in result.results}
        return iter(
            get_many(
                ids, timeout=timeout, interval=interval, no_ack=no_ack, on_message=on_message, on_interval=on_interval
            )
        )

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """*result* is about to be waited for. A backend that must subscribe beforehand overrides this."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """*result* is not waited for any more."""
        return result

    @property
    def is_async(self) -> bool:
        """Whether results arrive by themselves."""
        return False


class BaseBackend(Backend, SyncBackendMixin):
    """A backend that is waited for by looking at intervals."""


class BaseDictBackend(BaseBackend):
    """As `BaseBackend`; kept for the classes that subclass it."""


__all__ = ["BaseBackend", "BaseDictBackend", "SyncBackendMixin"]
