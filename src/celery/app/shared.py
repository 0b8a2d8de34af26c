"""`shared_task`: tasks of reusable modules, which do not know the app they will belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from celery._state import _get_active_apps, connect_on_app_finalize, get_current_app
from celery.local import Proxy

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:

    @overload
    def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def shared_task(
        *, bind: Literal[True], **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
    @overload
    def shared_task(*, bind: Literal[False] = False, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def shared_task(*args: Any, **kwargs: Any) -> Any:
    """A task of every app: `@shared_task` or `@shared_task(options…)`.

    Using it means the task of the current app at that moment.  The app may be made before or after.
    """

    def share(fun: Callable[..., Any], **options: Any) -> Any:
        name = options.get("name")

        def make_for(app: Celery) -> Any:
            return app._task_from_fun(fun, **options)

        connect_on_app_finalize(make_for)
        for app in _get_active_apps():
            if app.finalized:
                with app._finalize_lock:
                    make_for(app)

        def find() -> Any:
            app = get_current_app()
            return app.tasks[name or app.gen_task_name(fun.__name__, fun.__module__)]

        return Proxy(find)

    def decorate(**options: Any) -> Callable[[Callable[..., Any]], Any]:
        return lambda fun: share(fun, **options)

    if len(args) == 1 and callable(args[0]):
        return share(args[0], **kwargs)
    if args:
        raise TypeError(f"shared_task takes a function and keyword options, not {args!r}")
    return decorate(**kwargs)
