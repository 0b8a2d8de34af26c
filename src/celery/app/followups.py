"""What a task that ended makes happen: its callbacks, the next step of its chain, its error callbacks.

A follow-up whose id was not fixed by its sender gets one worked out from the task that causes it, so that a task
which is executed again after a crash sends the same follow-ups, not others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celery.app.context import Context, request_field
from celery.utils.digests import uuid5
from celery.utils.functional import arity_greater, maybe_list

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = logging.getLogger("celery.app.trace")

_NAMESPACE = UUID("5d0d8b9e-3c0f-5f0c-9d5e-6a1f6c0b7a11")


def send_callbacks(app: Celery, request: Any, retval: Any) -> None:
    """Send the `link` tasks with *retval* as their first argument, and the next task of the chain."""
    task_id = request_field(request, "id")
    options = {
        "parent_id": task_id,
        "root_id": request_field(request, "root_id") or task_id,
        "priority": (request_field(request, "delivery_info") or {}).get("priority"),
    }
    for index, callback in enumerate(maybe_list(request_field(request, "callbacks")) or ()):
        signature = app.signature(callback)
        _fix_id(signature, request, f"link:{index}")
        signature.apply_async((retval,), **options)
    chain = request_field(request, "chain")
    if chain:
        signature = app.signature(chain[-1])
        _fix_id(signature, request, "next")
        signature.apply_async((retval,), chain=chain[:-1], **options)


def _fix_id(signature: Any, request: Any, role: str) -> None:
    if "task_id" not in signature.options:
        cause = f"{request_field(request, 'id')}:{request_field(request, 'retries') or 0}:{role}"
        signature.options["task_id"] = str(uuid5(_NAMESPACE, cause))


def call_errbacks(app: Celery, request: Any, exc: BaseException, traceback: Any) -> None:
    """Run the `link_error` tasks of *request*.

    One that takes `(request, exc, traceback)` and is registered here is called at once; one that takes the id of the
    failed task only is sent as a task.  What an error callback raises is logged: the task has failed already.
    """
    task_id = request_field(request, "id")
    eager = request_field(request, "is_eager") or app.conf.task_always_eager
    for index, errback in enumerate(maybe_list(request_field(request, "errbacks")) or ()):
        signature = app.signature(errback)
        try:
            if takes_exception(app.tasks.get(signature.task)):
                signature(request, exc, traceback)
                continue
            _fix_id(signature, request, f"link_error:{index}")
            send = signature.apply if eager else signature.apply_async
            send((task_id,), parent_id=task_id, root_id=request_field(request, "root_id") or task_id)
        except Exception:
            logger.exception("Task %s failed, and so did its error callback %s.", task_id, signature.task)


def takes_exception(task: Any) -> bool:
    """Whether an error callback takes more than the id of the failed task."""
    return task is not None and arity_greater(task.run, 1)


def propagate_to_chain(request: Any) -> list[Context]:
    """The requests of the tasks that will not run because this one failed: the rest of its chain, next one first."""
    later: list[Context] = []
    for element in reversed(request_field(request, "chain") or ()):
        options: Mapping[str, Any] = element.get("options") or {}
        if options.get("task_id") is None and "chord" not in options:
            continue
        later.append(
            Context(
                options,
                id=options.get("task_id"),
                task=element.get("task"),
                args=element.get("args"),
                kwargs=element.get("kwargs"),
                group=options.get("group_id"),
                root_id=request_field(request, "root_id"),
                called_directly=False,
                records=request_field(request, "records"),
                writer=request_field(request, "writer") or "",
            )
        )
    return later


__all__ = ["call_errbacks", "propagate_to_chain", "send_callbacks", "takes_exception"]
