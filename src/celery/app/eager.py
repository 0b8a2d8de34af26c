"""Running a task here and now, as a worker would: `Task.apply`, and everything with `task_always_eager`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery.drivers import door
from celery.exceptions import EncodeError, Retry
from celery.result import EagerResult
from celery.states import SUCCESS
from celery.utils import uuid
from celery.utils.functional import maybe_list
from celery.utils.nodenames import gethostname
from celery.wire.serialization import dumps, loads

if TYPE_CHECKING:
    from celery.app.task import Task

_FIELDS = (
    ("root_id", "root_id"),
    ("parent_id", "parent_id"),
    ("group_id", "group"),
    ("group_index", "group_index"),
    ("chord", "chord"),
    ("chain", "chain"),
    ("shadow", "shadow"),
    ("replaced_task_nesting", "replaced_task_nesting"),
)


def apply_eagerly(
    task: Task[..., Any],
    args: Any = None,
    kwargs: Any = None,
    *,
    task_id: str | None = None,
    retries: int | None = None,
    throw: bool | None = None,
    **options: Any,
) -> EagerResult[Any]:
    """See `Task.apply`. Retries run at once, one inside the other; their countdown is not waited for."""
    app = task.app
    task_id = task_id or uuid()
    retries = retries or 0
    request = _request(task, task_id, retries, options)
    # By its name on the module, for every task: monitoring packages replace it there.
    build_tracer = door("tracer")
    trace = build_tracer(task.name, task, eager=True, propagate=app.either("task_eager_propagates", throw), app=app)
    traced = trace(task_id, args or (), kwargs or {}, request)
    value, traceback = traced.retval, None
    if hasattr(value, "exception") and hasattr(value, "traceback"):
        value, traceback = value.exception, value.traceback
    if isinstance(value, Retry) and value.sig is not None:
        again: EagerResult[Any] = value.sig.apply(retries=retries + 1)
        return again
    state = SUCCESS if traced.info is None else traced.info.state
    return EagerResult(task_id, value, state, traceback=traceback, name=task.name)


def _request(task: Task[..., Any], task_id: str, retries: int, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the request, as a message would have brought them."""
    get = options.get
    request: dict[str, Any] = {
        "id": task_id,
        "task": task.name,
        "retries": retries,
        "is_eager": True,
        "logfile": get("logfile"),
        "loglevel": get("loglevel") or 0,
        "hostname": gethostname(),
        "callbacks": maybe_list(get("link")),
        "errbacks": maybe_list(get("link_error")),
        "headers": get("headers"),
        "ignore_result": get("ignore_result", False),
        "delivery_info": {
            "is_eager": True,
            "exchange": get("exchange"),
            "routing_key": get("routing_key"),
            "priority": get("priority"),
        },
    }
    request.update({field: options[option] for option, field in _FIELDS if get(option) is not None})
    stamped = get("stamped_headers")
    if stamped:
        request["stamped_headers"] = list(stamped)
        request["stamps"] = {name: maybe_list(get(name, [])) for name in stamped}
        request.update({name: options[name] for name in stamped if name in options})
    request.update(get("headers") or {})
    return request


def through_serializer(args: Any, kwargs: Any, serializer: str) -> tuple[Any, Any]:
    """The arguments as a worker would get them: what would not survive the way must not seem to work here."""
    try:
        content_type, content_encoding, data = dumps((args or (), kwargs or {}), serializer)
    except EncodeError as error:
        raise import_module("kombu.exceptions").EncodeError(str(error)) from error
    args, kwargs = loads(data, content_type, content_encoding, frozenset({content_type}))
    return args, kwargs
