"""Sending many messages of one task the short way: what is the same in all of them is encoded once.

A courier holds for one group, or one header of a chord, that is being sent.  Whatever it does not cover goes through
`Task.apply_async`, message by message.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery._state import get_current_worker_task
from celery.app.plans import Plan, find, is_easy_id
from celery.exceptions import EncodeError
from celery.signals import after_task_publish, before_task_publish, task_sent
from celery.utils.uuids import uuid7
from celery.wire.message import Outgoing
from celery.wire.serialization import encode_json, is_replaced
from celery.wire.stencil import tail_with

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task


def courier_of(task: Task[..., Any], app: Celery, options: dict[str, Any], chord: Any) -> Courier | None:
    """A courier for *task* sent with these *options* (among them `group_id`); None where there can be none."""
    if before_task_publish.receivers or after_task_publish.receivers or task_sent.receivers:
        return None
    if not _is_ordinary(task) or options.get("chain") or options.get("reply_to"):
        return None
    plan = find(task, app, {**options, "group_index": 0})
    if plan is None or plan.serializer != "json" or ("kombu.serialization" in sys.modules and is_replaced("json")):
        return None
    parent = get_current_worker_task()
    if parent is not None and plan.inherits:
        return None
    try:
        return Courier(task, app, plan, options, chord, parent)
    except (EncodeError, TypeError, ValueError, OverflowError):
        return None  # the long way says what is wrong


def _is_ordinary(task: Task[..., Any]) -> bool:
    """Whether nothing that `Task.apply_async` does was replaced for it."""
    cls: Any = type(task)
    return (
        cls.apply_async is cls._plain_apply_async
        and cls.shadow_name is cls._plain_shadow_name
        and task._dump_pydantic_arguments is None
    )


class Courier:
    """Makes the messages of one task for one group. One thread."""

    def __init__(self, task: Any, app: Celery, plan: Plan, options: dict[str, Any], chord: Any, parent: Any) -> None:
        self.task = task
        self.app = app
        self.plan = plan
        self.check = task.__header__ if task.typing else None
        values: dict[str, Any] = {"id": None, "reply_to": plan._reply(app)}
        self.due, self.until = plan._vary(values, options, None if parent is None else parent.request)
        for name in ("id", "group_index", *(() if values["root_id"] else ("root_id",))):
            values.pop(name)
        if not {type(value) for value in values.values()} <= {str, type(None)}:
            raise TypeError("An id is no text.")
        assert plan.stencil is not None
        self.tail = tail_with(chord)
        self.pack = plan.stencil.pack
        self.fill = plan.stencil.narrowed(values).fill_encoded

    def message(self, args: tuple[Any, ...], kwargs: dict[str, Any], task_id: str, index: int) -> Outgoing | None:
        """The message of one task; None where it has to be written the long way. Raises as `Task.apply_async` does."""
        if self.check is not None:
            self.check(*args, **kwargs)
        if not is_easy_id(task_id):
            return None
        try:
            body, argsrepr, kwargsrepr = self.pack(args, kwargs, self.tail)
        except (EncodeError, UnicodeEncodeError, OverflowError):
            return None  # the long way finds a way to write it, or says what is wrong
        name = b'"%b"' % task_id.encode()
        plan = self.plan
        values = {
            "id": name, "root_id": name, "correlation_id": name, "argsrepr": argsrepr, "kwargsrepr": kwargsrepr,
            "group_index": b"%d" % index, "delivery_tag": b'"%b"' % uuid7().encode(),
        }  # fmt: skip
        if plan.limit_key is not None:
            values["limit_key"] = encode_json(plan.limit_key(args, kwargs))
        envelope = self.fill(body, values)
        if not plan.stored:
            self.app.backend.on_task_call(None, task_id)
        address = plan.address
        return Outgoing(envelope, address.routing_key, address.exchange, plan.priority, self.due, self.until, task_id)


__all__ = ["Courier", "courier_of"]
