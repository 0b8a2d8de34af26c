"""Running a task once more: what `Task.retry` does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from celery.app.context import Context
from celery.exceptions import Reject, Retry

if TYPE_CHECKING:
    from celery.app.task import Task
    from celery.canvas.signature import Signature

_limits: WeakKeyDictionary[Context, int] = WeakKeyDictionary()


def limit_of(request: Context) -> int | None:
    """The `max_retries` that this execution has given to `retry`: what retries it by itself must keep to it."""
    return _limits.get(request)


def signature_from_request(
    task: Task[..., Any],
    request: Context,
    args: Any = None,
    kwargs: Any = None,
    queue: str | None = None,
    **extra_options: Any,
) -> Signature[Any]:
    """A signature that sends this execution of *task* once more, to the queue it came from unless *queue* is given."""
    args = request.args if args is None else args
    kwargs = request.kwargs if kwargs is None else kwargs
    options = request.as_execution_options()
    route: Mapping[str, Any] = request.delivery_info or {}
    priority = route.get("priority")
    if priority is not None:
        options["priority"] = priority
    if queue:
        options["queue"] = queue
    elif not route.get("exchange") and route.get("routing_key"):
        options["queue"] = route["routing_key"]
    else:
        options["exchange"], options["routing_key"] = route.get("exchange"), route.get("routing_key")
    options.update(extra_options)
    said = vars(request).get("ignore_result")
    if said is not None:
        options["ignore_result"] = said
    return task.signature(args, kwargs, **options)


def retry_task(
    task: Task[..., Any],
    args: Any,
    kwargs: Any,
    *,
    exc: BaseException | None,
    throw: bool,
    eta: datetime | None,
    countdown: float | None,
    max_retries: int | None,
    **options: Any,
) -> Retry:
    """See `Task.retry`."""
    request = task.request
    limit = task.max_retries if max_retries is None else max_retries
    if max_retries is not None:
        _limits[request] = max_retries
    if request.called_directly:
        # Nobody is there to run it again.
        _raise(exc or Retry("Task can be retried", None))
    if not eta and countdown is None:
        countdown = task.default_retry_delay
    retries = request.retries + 1
    again = task.signature_from_request(request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options)
    if limit is not None and retries > limit:
        if exc:
            _raise(exc)
        raise task.MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
            task_args=again.args,
            task_kwargs=again.kwargs,
        )
    retry = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)
    if not request.is_eager:
        _send(task, request, again)
    if throw:
        raise retry
    return retry


def _raise(exc: BaseException) -> NoReturn:
    """Raise *exc*, with the exception that is being handled as its cause."""
    current = sys.exception()
    if current is None or current is exc:
        raise exc
    raise exc from current


def _send(task: Task[..., Any], request: Context, again: Signature[Any]) -> None:
    """Send the next try; in a worker it waits in the outbox, to be committed with the end of this one."""
    try:
        if request.outbox is None:
            again.apply_async()
        else:
            with task.app.publisher.collect(request.outbox):
                again.apply_async()
    except Exception as error:
        # A try that could not be sent must not end as one that was: the message goes to the dead set.
        raise Reject(error, requeue=False) from error
