"""The default strategy: what a worker does with the message of a task; and how protocol 1 reads in protocol 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker.request import Request, create_request_cls

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)

Payload = tuple[Any, Any, dict[str, Any]]
Read = tuple[Payload, dict[str, Any], bool, bool]
"""(args, kwargs, embed), the headers, whether the payload is decoded (it is), whether its times are UTC."""

_HYBRID = (
    "lang", "task", "id", "root_id", "parent_id", "group", "meth", "shadow", "eta", "expires", "retries", "timelimit",
    "argsrepr", "kwargsrepr", "origin",
)  # fmt: skip
_UNSAID = {"retries": 0, "timelimit": (None, None)}


def proto1_to_proto2(message: Any, body: Mapping[str, Any]) -> Read:
    """The decoded *body* of a message of protocol 1, as protocol 2 has it. Raises `InvalidTaskError`."""
    payload = _payload(body)
    headers = {
        **body,
        "argsrepr": saferepr(payload[0]),
        "kwargsrepr": saferepr(payload[1]),
        "headers": message.headers,
    }
    if body.get("taskset"):
        headers["group"] = body["taskset"]
    return payload, headers, True, body.get("utc", True)


def hybrid_to_proto2(message: Any, body: Mapping[str, Any]) -> Read:
    """The same for a body of protocol 1 that has the fields of protocol 2 in it. Raises `InvalidTaskError`."""
    payload = _payload(body)
    headers = {name: body.get(name, _UNSAID.get(name)) for name in _HYBRID}
    return payload, {**headers, **(message.headers or {})}, True, body.get("utc", True)


def _payload(body: Mapping[str, Any]) -> Payload:
    args, kwargs = body.get("args", ()), body.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError("The keyword arguments of a task must be a mapping.")
    embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    return args, kwargs, {**embed, "chain": None}


def as_protocol_2(message: Any, body: Any) -> dict[str, Any]:
    """What a `Request` has to be told of *message*, whose *body* is decoded where it is of protocol 1, else None."""
    if body is None:
        return {}
    payload, headers, decoded, utc = proto1_to_proto2(message, body)
    return {"body": payload, "headers": headers, "decoded": decoded, "utc": utc}


def default(task: Any, app: Celery, consumer: Any, **_: Any) -> Callable[..., Any]:
    """A handler for messages of *task*: they run as all tasks do, and the task's `Request` class is told of it."""
    strategies = consumer.strategies
    Base = symbol_by_name(task.Request)  # noqa: N806 - a class
    Made = create_request_cls(Base, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app)  # noqa: N806

    def task_message_handler(
        message: Any, body: Any, ack: Callable[..., Any], reject: Callable[..., Any], callbacks: Any, **kw: Any
    ) -> Any:
        request = None
        if Base is not Request:
            request = Made(
                message, on_ack=ack, on_reject=reject, connection_errors=consumer.connection_errors,
                **as_protocol_2(message, body),
            ).follow()  # fmt: skip
        strategies.run(message.delivery_tag, request)
        for callback in callbacks or ():
            callback(request)
        return request

    return task_message_handler


__all__ = ["default", "hybrid_to_proto2", "proto1_to_proto2"]
