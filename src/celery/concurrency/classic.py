"""Pools as they were written for Celery before: subclasses of `BasePool` with hooks named `on_*`.

`celery.concurrency.adapter` has our worker use them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerLostError, WorkerShutdown, WorkerTerminate
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    from celery.utils import timer2
else:
    timer2 = deferred("celery.utils.timer2")


def apply_target(
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    pid: int | None = None,
    getpid: Callable[[], int] = os.getpid,
    propagate: tuple[type[BaseException], ...] = (),
    monotonic: Callable[[], float] = time.monotonic,
    **_: Any,
) -> None:
    """Run *target* here: tell *accept_callback* that it begins, and *callback* what it returned.

    What ends a process, and is neither an Exception nor a way to end the worker, becomes a WorkerLostError.
    """
    if accept_callback is not None:
        accept_callback(pid or getpid(), monotonic())
    try:
        value = target(*args, **(kwargs or {}))
    except (Exception, WorkerShutdown, WorkerTerminate):
        raise
    except propagate:
        raise
    except BaseException as exc:  # noqa: BLE001 - told to the callback, as what has ended the slot
        value = WorkerLostError(repr(exc))
        value.__cause__ = exc
        value.__traceback__ = sys.exc_info()[2]
    if callback is not None:
        callback(value)


class _Timer:
    """The class of timers, imported when somebody wants one."""

    def __get__(self, pool: BasePool | None, owner: type) -> Any:
        return timer2.Timer


class BasePool:
    """What a pool of a user's derives from. Override `on_apply`, and what else your pool needs to be told.

    `on_apply(target, args, kwargs, callback, accept_callback, **options)` has *target* called, in whatever place: tells
    `accept_callback(pid, time)` first and `callback(value)` last, from any thread.  Among the options are
    `error_callback`, `timeout_callback`, `soft_timeout`, `timeout` and `correlation_id`.
    """

    RUN, CLOSE, TERMINATE = 0x1, 0x2, 0x3
    Timer: Any = _Timer()
    signal_safe = True
    is_green = False
    uses_semaphore = False
    task_join_will_block = True
    body_can_be_buffer = False
    _state: int | None = None
    _pool: Any = None

    def __init__(
        self,
        limit: int | None = None,
        putlocks: bool = True,
        forking_enable: bool = True,
        callbacks_propagate: tuple[type[BaseException], ...] = (),
        app: Any = None,
        **options: Any,
    ) -> None:
        self.limit = limit
        self.putlocks = putlocks
        self.forking_enable = forking_enable
        self.callbacks_propagate = callbacks_propagate
        self.app = app
        self.options = options

    # -- hooks -----------------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """The pool starts."""

    def did_start_ok(self) -> bool:
        """Whether it could start."""
        return True

    def flush(self) -> None:
        """Let go of what has not been handed out."""

    def on_stop(self) -> None:
        """The pool stops: wait for what runs."""

    def register_with_event_loop(self, loop: Any) -> None:
        """Kept for the API: our loop does without."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Have a target called."""

    def on_terminate(self) -> None:
        """The pool is terminated: end what runs."""

    def on_soft_timeout(self, job: Any) -> None:
        """A soft time limit has passed."""

    def on_hard_timeout(self, job: Any) -> None:
        """A hard time limit has passed."""

    def on_close(self) -> None:
        """No more targets come."""

    def maintain_pool(self, *args: Any, **kwargs: Any) -> None:
        """Replace who is missing."""

    # -- what a worker calls ---------------------------------------------------------------------------------------

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End what runs in process *pid*. Raises NotImplementedError where the pool cannot."""
        raise NotImplementedError(f"{type(self)} does not implement kill_job")

    def restart(self) -> None:
        """Replace every slot. Raises NotImplementedError where the pool cannot."""
        raise NotImplementedError(f"{type(self)} does not implement restart")

    def start(self) -> None:
        self.on_start()
        self._state = self.RUN

    def stop(self) -> None:
        self.on_stop()
        self._state = self.TERMINATE

    def terminate(self) -> None:
        self._state = self.TERMINATE
        self.on_terminate()

    def close(self) -> None:
        self._state = self.CLOSE
        self.on_close()

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Have `target(*args, **kwargs)` called by the pool."""
        return self.on_apply(
            target,
            args or [],
            kwargs or {},
            waitforslot=self.putlocks,
            callbacks_propagate=self.callbacks_propagate,
            **options,
        )

    def _get_info(self) -> dict[str, Any]:
        return {"implementation": f"{type(self).__module__}:{type(self).__name__}", "max-concurrency": self.limit}

    @property
    def info(self) -> dict[str, Any]:
        """For `inspect stats`."""
        return self._get_info()

    @property
    def active(self) -> bool:
        return self._state == self.RUN

    @property
    def num_processes(self) -> int | None:
        """How many slots there are."""
        return self.limit


__all__ = ["BasePool", "apply_target"]
