"""Which app and which task are current, and the few other things a process has one of.

The *current app* is per thread (`Celery.set_current`), the *default app* per process (`Celery.set_default`).  A thread
that has no current app, where there is no default one, uses the app that became current last, in whatever thread.  The
*task stack* holds the tasks that run in this thread or asyncio task.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from celery.drivers import door
from celery.local import Proxy
from celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task


class _Tls(threading.local):
    current_app: Celery | None = None


default_app: Celery | None = None
"""The app that is used where no app is current. Read it through `current_app`."""

_last_current: weakref.ref[Celery] | None = None
_apps: weakref.WeakSet[Celery] = weakref.WeakSet()
_finalizers: dict[Callable[[Celery], Any], None] = {}
"""In the order they were connected."""
_offers: dict[Callable[[Celery], Any], None] = {}
"""The same for the tasks that one app declares and others get too, while the declaring one lives."""
_task_stack: LocalStack[Any] = LocalStack()
_tls = _Tls()
_lock = threading.RLock()
_join_will_block: ContextVar[bool] = ContextVar("celery_task_join_will_block", default=False)


def connect_on_app_finalize(callback: Callable[[Celery], Any]) -> Callable[[Celery], Any]:
    """Call *callback* with every app that is finalised from now on. Can be used as a decorator."""
    _finalizers[callback] = None
    return callback


def _offer_to_other_apps(callback: Callable[[Celery], Any]) -> None:
    _offers[callback] = None


def _withdraw_offer(callback: Callable[[Celery], Any]) -> None:
    _offers.pop(callback, None)


def _announce_app_finalized(app: Celery) -> None:
    for callback in (*_finalizers, *_offers):
        callback(app)


def _set_task_join_will_block(blocks: bool) -> None:
    _join_will_block.set(blocks)


def task_join_will_block() -> bool:
    """Whether waiting for another task here could wait for ever: true inside a task."""
    return _join_will_block.get()


def set_default_app(app: Celery | None) -> None:
    """Make *app* the one that is used where none is current."""
    global default_app
    default_app = app


def _set_current_app(app: Celery | None) -> None:
    global _last_current
    _tls.current_app = app
    _last_current = None if app is None else weakref.ref(app)


def _get_current_app() -> Celery:
    app = _tls.current_app or default_app
    if app is None and _last_current is not None:
        app = _last_current()
    return app if app is not None else _make_default_app()


def _make_default_app() -> Celery:
    with _lock:
        if default_app is None:
            make = cast("type[Celery]", door("app"))
            set_default_app(
                make(
                    "default",
                    fixups=[],
                    set_as_current=False,
                    loader=os.environ.get("CELERY_LOADER") or "default",
                )
            )
        assert default_app is not None
        return default_app


def get_current_app() -> Celery:
    """The current app of this thread, else the default app; one is made when there is none."""
    return _get_current_app()


def get_current_task() -> Task[..., Any] | None:
    """The task that runs here, None outside of one."""
    task: Task[..., Any] | None = _task_stack.top
    return task


def get_current_worker_task() -> Task[..., Any] | None:
    """The innermost task here that a worker (or `Task.apply`) runs: called as a function, a task is not one."""
    if _task_stack.top is None:
        return None
    for task in reversed(_task_stack.stack):
        if not task.request.called_directly:
            return cast("Task[..., Any]", task)
    return None


def push_current_task(task: Task[..., Any]) -> None:
    """Make *task* the current one until `pop_current_task`."""
    _task_stack.push(task)


def pop_current_task() -> Task[..., Any] | None:
    """Undo the last `push_current_task`; the task it pushed."""
    return cast("Task[..., Any] | None", _task_stack.pop())


def app_or_default(app: Celery | None = None) -> Celery:
    """*app*, or the current one where it is None."""
    return get_current_app() if app is None else app


def enable_trace() -> None:
    """Kept for the API: does nothing."""


def disable_trace() -> None:
    """Kept for the API: does nothing."""


def _register_app(app: Celery) -> None:
    _apps.add(app)


def _deregister_app(app: Celery) -> None:
    _apps.discard(app)


def _get_active_apps() -> Iterable[Celery]:
    return list(_apps)


if TYPE_CHECKING:
    current_app: Celery
    current_task: Task[..., Any]
else:
    current_app = Proxy(get_current_app)
    current_task = Proxy(get_current_task)

__all__ = [
    "app_or_default",
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "default_app",
    "disable_trace",
    "enable_trace",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "pop_current_task",
    "push_current_task",
    "set_default_app",
    "task_join_will_block",
]
