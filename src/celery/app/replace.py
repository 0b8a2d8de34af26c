"""A task that lets another one take its place, or adds one to its chord: `Task.replace`, `Task.add_to_chord`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from celery.backends.chords import ChordParts
from celery.canvas.composite import kind, link_all
from celery.canvas.ids import fixed_ids
from celery.canvas.signature import Signature, maybe_signature
from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celery.app.context import Context
    from celery.app.task import Task


def replace_task(task: Task[..., Any], sig: Any, visitor: Any = None) -> Any:
    """See `Task.replace`. What is sent is an effect of the execution, and the same if that is repeated."""
    request = task.request
    with fixed_ids(f"{request.id}:{request.retries}:replace"):
        substitute = _with_one_end(task, maybe_signature(sig, app=task.app, clone=True))
        if visitor is not None:
            substitute.stamp(visitor=visitor)
        if not request.is_eager:  # here the value is returned, and this execution goes on with it
            _take_the_place(substitute, request)
        request.replaced = True
        with _collecting(task, request):
            return task.on_replace(substitute)


def _with_one_end(task: Task[..., Any], sig: Any) -> Any:
    """*sig*, or where it has several results at its end, one that has the list of them as its only one."""
    if kind(sig) == "chain" and not sig.tasks:
        raise ImproperlyConfigured("A task cannot be replaced by an empty chain: there would be no result.")
    last = sig
    while kind(last) in {"chain", "chord"}:
        last = last.tasks[-1] if kind(last) == "chain" else last.body
    if kind(last) == "group":
        return sig | task.app.tasks["celery.accumulate"].s(index=0)
    return sig


def _take_the_place(sig: Signature[Any], request: Context) -> None:
    link_all(sig, request.callbacks, request.errbacks)
    place = {
        "chain": request.chain, "chord": request.chord, "group_id": request.group, "group_index": request.group_index,
        "root_id": request.root_id, "parent_id": request.id,
    }  # fmt: skip
    sig.set(**{name: value for name, value in place.items() if value is not None})
    sig.set(replaced_task_nesting=request.replaced_task_nesting + 1)
    sig.options.setdefault("task_id", request.id)


def add_to_chord(task: Task[..., Any], sig: Any, lazy: bool = False) -> Any:
    """See `Task.add_to_chord`."""
    request = task.request
    group_id = request.group
    if not request.chord or not group_id:
        raise ValueError("This task is in the header of no chord, so nothing can be added to it.")
    added: Any = maybe_signature(sig, app=task.app)
    request._added += 1
    with fixed_ids(f"{request.id}:{request.retries}:add {request._added}"), _collecting(task, request):
        result = added.freeze(group_id=group_id, chord=request.chord, root_id=request.root_id)
        # Its place is behind those of all others: a number that no other part of the chord has.
        added.set(group_index=(1 << 32) + int(result.id.replace("-", "")[:12], 16) if _is_hex(result.id) else None)
        if lazy and isinstance(task.backend, ChordParts):
            # Whoever sends it may do so at once, and it must not arrive before the chord waits for it.
            task.backend.add_to_chord(group_id, result, at_once=True)
            return added
        task.backend.add_to_chord(group_id, result)
        return added if lazy else added.delay()


def _collecting(task: Task[..., Any], request: Context) -> Any:
    """In this block, what is sent is an effect of the execution, where a worker executes it."""
    return nullcontext() if request.outbox is None else task.app.publisher.collect(request.outbox)


def _is_hex(task_id: str) -> bool:
    try:
        int(task_id.replace("-", "")[:12], 16)
    except ValueError:
        return False
    return True


__all__ = ["add_to_chord", "replace_task"]
