"""Running a task here and now, as a worker would: `Task.apply`, and everything with `task_always_eager`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.drivers import door
from celery.exceptions import Retry
from celery.result import EagerResult
from celery.states import SUCCESS
from celery.utils import uuid
from celery.utils.functional import maybe_list
from celery.utils.nodenames import gethostname

if TYPE_CHECKING:
    from celery.app.task import Task


def apply_eagerly(
    task: Task[..., Any],
    args: Any = None,
    kwargs: Any = None,
    *,
    link: Any = None,
    link_error: Any = None,
    task_id: str | None = None,
    retries: int | None = None,
    throw: bool | None = None,
    logfile: str | None = None,
    loglevel: int | None = None,
    headers: dict[str, Any] | None = None,
    **options: Any,
) -> EagerResult[Any]:
    """See `Task.apply`. Retries run at once, one inside the other; their countdown is not waited for."""
    app = task.app
    args, kwargs = args or (), kwargs or {}
    task_id = task_id or uuid()
    retries = retries or 0
    throw = app.either("task_eager_propagates", throw)
    request: dict[str, Any] = {
        "id": task_id,
        "task": task.name,
        "retries": retries,
        "is_eager": True,
        "logfile": logfile,
        "loglevel": loglevel or 0,
        "hostname": gethostname(),
        "callbacks": maybe_list(link),
        "errbacks": maybe_list(link_error),
        "headers": headers,
        "ignore_result": options.get("ignore_result", False),
        "delivery_info": {
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        },
    }
    for key in ("root_id", "parent_id", "group_index", "chord", "chain", "shadow", "replaced_task_nesting"):
        if options.get(key) is not None:
            request[key] = options[key]
    if options.get("group_id"):
        request["group"] = options["group_id"]
    if options.get("stamped_headers"):
        names = list(options["stamped_headers"])
        request["stamped_headers"] = names
        request["stamps"] = {name: maybe_list(options.get(name, [])) for name in names}
        request.update({name: options[name] for name in names if name in options})
    if headers:
        request.update(headers)

    # By its name on the module, for every task: monitoring packages replace it there.
    tracer = door("tracer")(task.name, task, eager=True, propagate=throw, app=app)
    traced = tracer(task_id, args, kwargs, request)
    value, traceback = traced.retval, None
    if hasattr(value, "exception") and hasattr(value, "traceback"):
        value, traceback = value.exception, value.traceback
    if isinstance(value, Retry) and value.sig is not None:
        again: EagerResult[Any] = value.sig.apply(retries=retries + 1)
        return again
    state = SUCCESS if traced.info is None else traced.info.state
    return EagerResult(task_id, value, state, traceback=traceback, name=task.name)
