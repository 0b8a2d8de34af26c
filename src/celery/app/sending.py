"""Sending a task by name: where it goes, what it inherits from the task that sends it, and who is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack, get_current_worker_task
from celery.app.limits import OPTIONS as LIMITS
from celery.app.limits import apply_limits, has_limits
from celery.exceptions import AlwaysEagerIgnored, BackendError
from celery.signals import after_task_publish, before_task_publish, task_sent
from celery.utils import uuid
from celery.wire.protocol import UNIQUE

if TYPE_CHECKING:
    from celery.app.amqp import Draft
    from celery.app.base import Celery
    from celery.result import AsyncResult
    from celery.wire.message import Outgoing, Unique


class _Unset:
    """Stands for an option that was not given, where None means something."""

    def __repr__(self) -> str:
        return "<not given>"


UNSET: Any = _Unset()
FOLLOWERS = "chain", "link", "link_error", "chord"
"""Options that say what follows on a task."""


def send_task(
    app: Celery,
    name: str,
    args: Any,
    kwargs: Any,
    options: dict[str, Any],
    *,
    task_type: Any = None,
    result_cls: Any = None,
    add_to_parent: bool = True,
    route_name: str | None = None,
    router: Any = None,
    producer: Any = None,
) -> AsyncResult[Any]:
    """See `Celery.send_task`. *options* are the caller's to give away."""
    task = app.registration.tasks.get(name) if task_type is None else task_type
    for key in ("expires", "time_limit", "soft_time_limit"):
        if options[key] is UNSET:
            options[key] = None if task is None else getattr(task, key, None)
    if task_type is None:
        if task is not None and options.get("priority") is None:
            options["priority"] = task.priority
        if app.conf.task_always_eager:
            warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=3)
    task_id = options.get("task_id")
    if not task_id:
        task_id = options["task_id"] = uuid()
    unique = None
    if (task is not None and has_limits(task)) or not LIMITS.isdisjoint(options):
        unique = apply_limits(app, task, name, args, kwargs, options)
    amqp = app.amqp
    if router is not None:
        options = router.route(options, route_name or name, args, kwargs, task_type)
    elif amqp.routes:
        options = amqp.route(options, route_name or name, args, kwargs, task_type)
    parent = None
    if _task_stack.top is not None:
        parent = get_current_worker_task()
        if parent is not None:
            _inherit(app, parent.request, options)
    draft = amqp.draft(name, args, kwargs, options)
    if before_task_publish.receivers:
        _announce(app, draft, options)
    ignored = options.get("ignore_result")
    # Somebody may wait for what follows on a task whose own result is ignored.
    if app.store is None and (not ignored or any(options.get(name) for name in FOLLOWERS)):
        app.backend.on_task_call(producer, task_id)
    holder = _publish(app, draft, unique, producer, options)
    if holder == task_id and (after_task_publish.receivers or task_sent.receivers):
        _tell_sent(draft, args, kwargs, options)
    result: AsyncResult[Any] = (result_cls or app.AsyncResult)(holder)
    if ignored:
        result.ignored = True
    if add_to_parent and parent is not None:
        parent.add_trail(result)
    return result


def send_message(app: Celery, producer: Any, draft: Draft, options: Mapping[str, Any]) -> None:
    """See `AMQP.send_task_message`."""
    fields = draft.headers if "task" in draft.headers else draft.body
    options = {**options, "task_id": fields["id"], "group_id": fields.get("group") or fields.get("taskset")}
    if before_task_publish.receivers:
        _announce(app, draft, options)
    _publish(app, draft, None, producer, options)
    if after_task_publish.receivers or task_sent.receivers:
        args, kwargs = draft.body[:2] if fields is draft.headers else (fields["args"], fields["kwargs"])
        _tell_sent(draft, args, kwargs, options)


def _publish(app: Celery, draft: Draft, unique: Unique | None, producer: Any, options: Mapping[str, Any]) -> str:
    """Hand the message over; the id of the task that it is for, or of the one that keeps it from being sent."""
    if unique is not None:
        return send_once(app, app.amqp.encode(draft), unique, options)
    if producer is not None and app.connections.is_foreign(producer):
        app.connections.publish(producer, draft, options)
    else:
        app.publisher.publish(
            (app.amqp.encode(draft),), retry=options.get("retry"), policy=options.get("retry_policy"),
            eventer=options.get("event_dispatcher"),
        )  # fmt: skip
    return str(options["task_id"])


def _tell_sent(draft: Draft, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
    """Send `after_task_publish`, and `task_sent`, which it replaced long ago."""
    address = draft.address
    after_task_publish.send(
        sender=draft.name, body=draft.body, headers=draft.headers or draft.body, exchange=address.exchange,
        routing_key=address.routing_key,
    )  # fmt: skip
    fields = draft.headers if "task" in draft.headers else draft.body  # of protocol 2, of protocol 1
    task_sent.send(
        sender=draft.name, task_id=options["task_id"], task=draft.name, args=args or (), kwargs=kwargs or {},
        eta=fields["eta"], taskset=options.get("group_id"),
    )  # fmt: skip


def send_once(app: Celery, message: Outgoing, unique: Unique, options: Mapping[str, Any]) -> str:
    """Send a message that must hold a key; the id of the task that holds it.

    At once, also where an outbox is open: it has to be known now.  Who holds it may have ended without its worker
    saying so (one of original Celery): its result tells.
    """

    def send(instead_of: str = "") -> str:
        return app.publisher.insist(
            lambda: app.broker.publish_once(message, unique, instead_of),
            retry=options.get("retry"),
            policy=options.get("retry_policy"),
        )

    holder = send()
    while holder != message.task_id and UNIQUE.encode() in message.envelope and _has_ended(app, holder):
        former, holder = holder, send(holder)
        if holder == former:
            break
    if holder == message.task_id and app.conf.task_send_sent_event:
        app.events.announce((message,), eventer=options.get("event_dispatcher"))
    return holder


def _has_ended(app: Celery, task_id: str) -> bool:
    try:
        return bool(app.AsyncResult(task_id).ready())
    except (BackendError, NotImplementedError):
        return False  # who cannot tell keeps to the key


def _inherit(app: Celery, request: Any, options: dict[str, Any]) -> None:
    """Place the new task under the one that sends it; a retry keeps the place it had."""
    if request.id == options["task_id"]:
        return
    options["root_id"] = options.get("root_id") or request.root_id or request.id
    options["parent_id"] = options.get("parent_id") or request.id
    if app.conf.task_inherit_parent_priority and options.get("priority") is None:
        priority = (request.delivery_info or {}).get("priority")
        if priority is not None:
            options["priority"] = priority


def _announce(app: Celery, draft: Draft, options: dict[str, Any]) -> None:
    """Send `before_task_publish`: what receivers change in the headers and properties goes to the wire."""
    queue = draft.address.queue
    policy = {**(app.conf.task_publish_retry_policy or {}), **(options.get("retry_policy") or {})}
    before_task_publish.send(
        sender=draft.name, body=draft.body, exchange=draft.address.exchange, routing_key=draft.address.routing_key,
        declare=[] if queue is None else [app.amqp.queues[queue.name]], headers=draft.headers,
        properties=draft.properties, retry_policy=policy,
    )  # fmt: skip
