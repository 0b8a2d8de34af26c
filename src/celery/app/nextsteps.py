"""What a task that succeeded makes happen: its callbacks, and the next step of its chain.

Whatever is sent here is an effect of the task's settlement.  Ids that its sender did not fix follow from the task, so
that a task which is executed again after a crash sends the same steps, not others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app.context import request_field
from celery.canvas import group
from celery.canvas.ids import fixed_ids
from celery.canvas.shelf import EMBED, Remainder, is_reference, unfold_chain
from celery.utils.functional import maybe_list

if TYPE_CHECKING:
    from celery.app.base import Celery


def send_callbacks(app: Celery, request: Any, retval: Any) -> None:
    """Send the `link` tasks with *retval* as their first argument, and the next step of the chain.

    Several callbacks are sent as a group.  A step may be a group, a chain or a chord: all that it begins with is sent.
    Blocks for the result store where the chain goes on there.
    """
    task_id = request_field(request, "id")
    place = {"parent_id": task_id, "root_id": request_field(request, "root_id") or task_id}
    with fixed_ids(cause_of(request)):
        callbacks = request_field(request, "callbacks")
        for signature in _prepared(app, callbacks) if callbacks else ():
            signature.apply_async((retval,), **place)
        chain = request_field(request, "chain")
        if chain:
            *rest, step = unfold_chain(app, chain, request_field(request, "effects"))
            if not is_reference(chain[-1]) and 0 < (request_field(request, "_body_size") or 0) <= EMBED:
                rest = Remainder(rest)
            app.signature(step).apply_async((retval,), chain=rest, **place)


def cause_of(request: Any, role: str = "") -> str:
    """What the ids of steps follow from that this execution of a task sends in some *role*."""
    return f"{request_field(request, 'id')}:{request_field(request, 'retries') or 0}{role}"


def _prepared(app: Celery, callbacks: Any) -> list[Any]:
    signatures = [app.signature(callback) for callback in maybe_list(callbacks) or ()]
    plain = [signature for signature in signatures if not signature.subtask_type]
    if len(plain) < 2:
        return signatures
    return [*(signature for signature in signatures if signature.subtask_type), group(plain, app=app)]


__all__ = ["cause_of", "send_callbacks"]
