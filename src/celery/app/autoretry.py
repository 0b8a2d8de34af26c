"""`autoretry_for`: retrying a task by itself when it raises certain exceptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.app.retry import limit_of
from celery.exceptions import Ignore, Retry
from celery.utils.deferred import deferred
from celery.utils.time import get_exponential_backoff_interval

if TYPE_CHECKING:
    import inspect
else:
    inspect = deferred("inspect")


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Wrap `task.run` so that it is retried for `autoretry_for`, as these options or the task's attributes say.

    `retry_backoff` (a factor in seconds, or True for 1) doubles the delay every time, up to `retry_backoff_max`;
    `retry_jitter` picks a random delay up to that. `retry_kwargs` are given to `retry`.
    """

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    kinds = tuple(option("autoretry_for", ()))
    if not kinds or hasattr(task, "_orig_run"):
        return
    never = tuple(option("dont_autoretry_for", ()))
    retry_kwargs = option("retry_kwargs", {})
    backoff = option("retry_backoff", False)
    factor = 0 if not backoff else float(True if backoff is True else backoff)
    longest = int(option("retry_backoff_max", 600))
    jitter = bool(option("retry_jitter", True))

    def again(exc: BaseException) -> Any:
        """Ask for a retry; returns what the task is to raise."""
        settings = dict(retry_kwargs)
        if factor:
            settings["countdown"] = get_exponential_backoff_interval(
                factor=max(1, int(factor)), retries=task.request.retries, maximum=longest, full_jitter=jitter
            )
        limit = limit_of(task.request)
        if limit is not None:
            settings["max_retries"] = limit
        return task.retry(exc=exc, **settings)

    task._orig_run, task.run = task.run, _retrying(task.run, kinds, never, again)


def _retrying(
    run: Callable[..., Any],
    kinds: tuple[type[BaseException], ...],
    never: tuple[type[BaseException], ...],
    again: Callable[[BaseException], Any],
) -> Callable[..., Any]:
    """*run* with the policy around it; a coroutine function stays one."""
    if inspect.iscoroutinefunction(run):

        @wraps(run)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            try:
                return await run(*args, **kwargs)
            except (Ignore, Retry):
                raise
            except never:
                raise
            except kinds as exc:
                raise again(exc) from exc

        return arun

    @wraps(run)
    def srun(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except (Ignore, Retry):
            raise
        except never:
            raise
        except kinds as exc:
            raise again(exc) from exc

    return srun
