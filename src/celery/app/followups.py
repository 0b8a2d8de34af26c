"""What a task that failed makes happen: its error callbacks are called, and what was to follow it has failed too."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.app.context import Context, request_field
from celery.drivers import door
from celery.utils.functional import arity_greater, maybe_list

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = logging.getLogger("celery.app.trace")


def call_errbacks(app: Celery, request: Any, exc: BaseException, traceback: Any) -> None:
    """Run the `link_error` tasks of *request*.

    One that takes `(request, exc, traceback)` and is registered here is called at once; others, and chains, groups and
    chords, are sent with the id of the failed task.  What an error callback raises is logged: the task has failed
    already.
    """
    task_id = request_field(request, "id")
    eager = request_field(request, "is_eager") or app.conf.task_always_eager
    sent: list[Any] = []
    for errback in maybe_list(request_field(request, "errbacks")) or ():
        signature = app.signature(errback)
        if signature.subtask_type or not takes_exception(app.tasks.get(signature.task)):
            sent.append(signature)
            continue
        try:
            signature(request, exc, traceback)
        except Exception:
            logger.exception("Task %s failed, and so did its error callback %s.", task_id, signature.task)
    for signature in sent:
        try:
            send = signature.apply if eager else signature.apply_async
            send((task_id,), parent_id=task_id, root_id=request_field(request, "root_id") or task_id)
        except Exception:
            logger.exception("Task %s failed, and so did its error callback %s.", task_id, signature.task)


def takes_exception(task: Any) -> bool:
    """Whether an error callback takes more than the id of the failed task."""
    return task is not None and arity_greater(task.run, 1)


def propagate_to_chain(app: Celery, request: Any) -> Iterator[Context]:
    """The requests of the tasks that will not run because that of *request* failed: the rest of its chain, in order.

    Blocks for the result store where parts of the chain are there.
    """
    yield from never_follow(app, request_field(request, "chain"), request)


def never_follow(app: Celery, chain: Sequence[Any] | None, cause: Any, *, inside: bool = False) -> Iterator[Context]:
    """As `never_run`, for the steps of *chain*, an option of the step before them, in the order they would have had.

    Blocks for the result store where parts of the chain are there.
    """
    if chain:
        for step in door("walk_chain")(app, chain, request_field(cause, "records")):
            yield from never_run(app, step, cause, inside=inside)


def never_run(app: Celery, step: Mapping[str, Any], cause: Any, *, inside: bool = False) -> Iterator[Context]:
    """The requests of all tasks of the signature *step*, of which none will run because the task of *cause* has failed.

    A group, chain or chord is all the tasks in it.  *inside*: these are in the header of a chord that will not run
    either, so nobody waits for them there.  What was to follow the step, by its option `chain`, will not run either.
    """
    parts: Mapping[str, Any] = step.get("kwargs") or {}
    match step.get("subtask_type"):
        case "chain" | "group":
            for part in parts.get("tasks") or ():
                yield from never_run(app, part, cause, inside=inside)
        case "chord":
            header = parts.get("header") or ()
            for part in header["kwargs"]["tasks"] if isinstance(header, Mapping) else header:
                yield from never_run(app, part, cause, inside=True)
            if parts.get("body"):
                yield from never_run(app, parts["body"], cause, inside=inside)
        case _:
            request = not_started(app, step, cause)
            if inside:
                request.chord = None
            if request.id is not None:
                yield request
    yield from never_follow(app, (step.get("options") or {}).get("chain"), cause, inside=inside)


def not_started(app: Celery, step: Mapping[str, Any], cause: Any) -> Context:
    """The request that the task of the signature *step* would have had; its effects go where those of *cause* go."""
    options: Mapping[str, Any] = step.get("options") or {}
    ignored = options.get("ignore_result")
    if ignored is None:
        task = app.tasks.get(str(step.get("task")))
        ignored = task is not None and task.ignore_result
    return Context(
        id=options.get("task_id"),
        task=step.get("task"),
        args=step.get("args"),
        kwargs=step.get("kwargs"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        chord=options.get("chord"),
        chain=options.get("chain"),
        errbacks=options.get("link_error"),
        stamped_headers=options.get("stamped_headers"),
        root_id=request_field(cause, "root_id"),
        reply_to=options.get("reply_to") or request_field(cause, "reply_to"),
        delivery_info=request_field(cause, "delivery_info"),
        ignore_result=bool(ignored),
        called_directly=False,
        is_eager=bool(request_field(cause, "is_eager")),
        outbox=request_field(cause, "outbox"),
        records=request_field(cause, "records"),
        arrivals=cause.collected_arrivals() if isinstance(cause, Context) else None,
        writer=request_field(cause, "writer") or "",
    )


__all__ = ["call_errbacks", "never_follow", "never_run", "not_started", "propagate_to_chain", "takes_exception"]
