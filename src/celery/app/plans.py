"""Sending a task the short way: what is the same in every message of a task is worked out once.

A plan holds for one task and one set of options.  It is made by `AMQP.draft`, as every message is, from options that
have holes where values differ from message to message, and `wire.stencil` fills those.  Whatever a plan depends on is
compared before it is used: settings, routes and queues, attributes of the task, and the methods that programs, and
packages that trace, put in the place of ours.  What no plan covers (callbacks, headers, stamps, receivers of the
signals, a producer of the caller's and so on) goes the long way through `Celery.send_task`.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Mapping
from operator import attrgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, cast

from celery._state import _task_stack, get_current_worker_task
from celery.app.amqp import AMQP, Address
from celery.app.asyncresult import AsyncResult
from celery.app.limits import check_limit, key_of_plan
from celery.app.parts import Parts
from celery.app.routes import Router
from celery.exceptions import EncodeError, ImproperlyConfigured, QueueNotFound
from celery.signals import after_task_publish, before_task_publish, task_sent
from celery.utils.uuids import uuid, uuid7
from celery.wire.message import Outgoing
from celery.wire.protocol import EMBED, LIMIT
from celery.wire.serialization import dumps, is_replaced
from celery.wire.stencil import Stencil, hole, tail_with

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.settings import Settings

Shape = tuple[Any, ...]

FIXED: Final[Mapping[str, type]] = {
    "queue": str, "priority": int, "serializer": str, "delivery_mode": int, "ignore_result": bool, "retries": int,
    "time_limit": int, "soft_time_limit": int,
}  # fmt: skip
"""Options that a plan is made for, each with the one type it may have: of equal values JSON must have one text."""
TEXT: Final[frozenset[type]] = frozenset({str, NoneType})
NUMBER: Final[frozenset[type]] = frozenset({int, NoneType})
VARYING: Final[Mapping[str, frozenset[type] | None]] = {
    "countdown": None, "eta": None, "expires": None, "root_id": TEXT, "parent_id": TEXT, "group_id": TEXT,
    "group_index": NUMBER, "reply_to": TEXT, "chain": frozenset({list, NoneType}),
}  # fmt: skip
"""Options that are put into holes, with the types they may have; times may be whatever `AMQP.draft` takes."""
REFUSED: Final = (
    *VARYING, "task_id", "argsrepr", "kwargsrepr", "exchange", "routing_key", "retry", "retry_policy",
    "expiration",
)  # fmt: skip
"""Options that no plan is made for when a route (or an attribute of the task) adds them."""
MOST_PLANS = 200
"""For one task. A program that makes options up (a queue for every customer) sends the rest the long way."""
MOST_THREADS = 1000

_read_facts = attrgetter(
    "name",
    "expires",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "AsyncResult",
    "_exec_options",
    "concurrency_limit",
    "concurrency_key",
    "unique",
    "idempotency_key",
)
is_easy_id = re.compile(r"[\w.:-]+", re.ASCII).fullmatch
_tasks_here = _task_stack._items.get
_new = object.__new__
_process = 0


def send(
    task: Any, app: Celery, args: Any, kwargs: Any, task_id: str | None, options: dict[str, Any]
) -> AsyncResult[Any] | None:
    """Send *task* as its plan says; None, and nothing was sent, where it has to be sent the long way.

    Arguments as for `Task.apply_async`, and checked.  Raises what that raises.
    """
    plan = find(task, app, options)
    if plan is None or before_task_publish.receivers or after_task_publish.receivers or task_sent.receivers:
        return None
    if args is None:
        args = ()
    if kwargs is None:
        kwargs = {}
    if (type(args) is not tuple and type(args) is not list) or type(kwargs) is not dict:
        return None
    if not task_id:
        task_id = uuid()
    elif type(task_id) is not str or not is_easy_id(task_id):
        return None
    parent = get_current_worker_task() if _tasks_here() else None
    if parent is not None and (plan.inherits or parent.request.id == task_id):
        return None
    try:
        outgoing = plan.fill(app, args, kwargs, task_id, parent, options)
    except (EncodeError, UnicodeEncodeError, OverflowError):
        return None  # the long way finds a way to write it, or says what is wrong
    if outgoing is None:
        return None
    if not plan.stored and (not plan.ignored or options.get("chain")):
        app.backend.on_task_call(None, task_id)
    app.publisher.publish((outgoing,))
    result_cls = app.AsyncResult
    result: AsyncResult[Any]
    if result_cls is plan.result_cls:
        result = _new(result_cls)
        result.id = task_id
    else:
        result = task.AsyncResult(task_id)
    if plan.ignored:
        result.ignored = True
    if parent is not None:
        parent.add_trail(result)
    return result


def find(task: Any, app: Celery, options: dict[str, Any]) -> Plan | None:
    """The plan that holds now, made if need be; None where there can be none."""
    shape = shape_of(options) if options else ()
    if shape is None:
        return None
    plans = task._plans
    if plans is None:
        plans = task._plans = {}
    plan: Plan | None = plans.get(shape)
    if (
        plan is None
        or plan.facts != _read_facts(task)
        or plan.amqp is not app.amqp
        or plan.epoch is not plan.amqp.epoch
        or plan.conf is not app._settings
        or plan.state is not plan.conf._state
        or plan.send_task != app.send_task
        or plan.process != _process
        or (plan.backend is not None and plan.backend is not app.backend)
    ):
        if plan is None and len(plans) >= MOST_PLANS:
            return None
        plan = plans[shape] = Plan(task, app, options)
    return plan if plan.stencil is not None else None


def shape_of(options: dict[str, Any]) -> Shape | None:
    """What of *options* a plan is made for; None where no plan covers them."""
    varies = False
    shape: list[Any] = []
    for name, value in options.items():
        kind = FIXED.get(name)
        if kind is not None:
            if type(value) is not kind:
                return None
            shape += (name, value)
        elif name in VARYING:
            kinds = VARYING[name]
            if kinds is not None and type(value) not in kinds:
                return None
            if name == "expires":
                shape += (name, value is not None)
            varies = True
        else:
            return None
    return (varies, *shape)


class Plan:
    """How a task is sent with certain options: not at all without a `stencil`."""

    __slots__ = (
        "address", "amqp", "backend", "conf", "content", "epoch", "expires", "facts", "ignored", "inherits",
        "limit_key", "priority", "process", "replies", "result_cls", "send_task", "serializer", "state", "stencil",
        "stored", "varies",
    )  # fmt: skip

    address: Address
    content: tuple[str, str]
    ignored: bool
    priority: int
    result_cls: type[AsyncResult[Any]] | None
    serializer: str
    stored: bool

    def __init__(self, task: Any, app: Celery, options: dict[str, Any]) -> None:
        # First what it depends on: what changes while it is made shows afterwards.
        self.process = _process
        self.amqp = app.amqp
        self.epoch = self.amqp.epoch
        self.conf = cast("Settings", app._settings)  # they were read when `amqp` was made
        self.state = self.conf._state
        self.send_task = app._send_task
        merged = {**task._get_exec_options(), **{name: options[name] for name in FIXED if name in options}}
        self.facts = _read_facts(task)
        if options and merged.get("ignore_result") is None:
            merged["ignore_result"] = task.ignore_result
        for name in ("expires", "time_limit", "soft_time_limit"):
            merged.setdefault(name, getattr(task, name))
        for name in ("retries", "replaced_task_nesting"):
            merged.setdefault(name, 0)
        self.expires = merged.pop("expires")
        self.inherits = self.conf.task_inherit_parent_priority and merged.get("priority") is None
        self.replies: dict[int, str] = {}
        expires = options.get("expires", self.expires) is not None
        self.limit_key = key_of_plan(task)
        self.varies = expires or self.limit_key is not None or any(name in VARYING for name in options)
        self.backend: Any = None
        self.stencil: Stencil | None = None
        if not _is_ordinary(self.amqp, app) or task.unique is not None or task.idempotency_key is not None:
            return
        try:
            stencil = self._cut(task, merged, expires=expires)
        except (EncodeError, ImproperlyConfigured, QueueNotFound, TypeError, ValueError):
            return  # the long way says what is wrong
        if stencil is None:
            return
        self.result_cls = _ordinary_result(task, app)
        self.stored = app.store is not None
        if not self.ignored:
            self.backend = app.backend
        self.stencil = stencil

    def _cut(self, task: Any, options: dict[str, Any], *, expires: bool) -> Stencil | None:
        """Have a message drafted that has holes, and cut the stencil from it; None where that would not do."""
        amqp, name = self.amqp, task.name
        routed = {**amqp.route(options, name, (), {}, task)}
        if any(routed.get(key) is not None for key in REFUSED) or not isinstance(routed.get("queue"), str | None):
            return None
        holes = {key: hole(key) for key in ("root_id", "parent_id", "group_id", "group_index", "reply_to")}
        routed |= {**holes, "task_id": hole("id"), "argsrepr": hole("argsrepr"), "kwargsrepr": hole("kwargsrepr")}
        if expires:
            routed["expires"] = 3600
        if task.concurrency_limit:
            key = name if self.limit_key is None else hole("limit_key")
            routed["headers"] = {LIMIT: [key, check_limit(name, task.concurrency_limit)]}
        draft = amqp.draft(name, (), {}, routed)
        if draft.compression or draft.body[2] != dict.fromkeys(EMBED):
            return None
        if draft.serializer == "json" and is_replaced("json"):
            return None
        headers, properties = draft.headers, draft.properties
        headers["eta"], headers["expires"] = hole("eta"), hole("expires")
        properties["correlation_id"] = hole("correlation_id")
        if expires:
            properties["expiration"] = hole("expiration")
        content_type, content_encoding, body = dumps(draft.body, draft.serializer)
        self.address, self.priority = draft.address, properties["priority"]
        self.ignored = bool(routed.get("ignore_result"))
        self.serializer, self.content = draft.serializer, (content_type, content_encoding)
        stencil = Stencil(amqp.as_message(draft, content_type, content_encoding, body))
        more = ["eta", "expires", "group_id", "group_index", "parent_id"]
        more += ["expiration"] * expires + ["limit_key"] * (self.limit_key is not None)
        return stencil if stencil.fits(*more) else None

    def fill(
        self, app: Celery, args: Any, kwargs: dict[str, Any], task_id: str, parent: Any, options: dict[str, Any]
    ) -> Outgoing | None:
        """The message; None where it has to be written the long way. Raises what JSON raises."""
        stencil, address = self.stencil, self.address
        assert stencil is not None
        if self.serializer == "json":
            if "kombu.serialization" in sys.modules and is_replaced("json"):
                return None
            body, argsrepr, kwargsrepr = stencil.pack(args, kwargs, tail_with(chain=options.get("chain")))
        else:
            embed = {**dict.fromkeys(EMBED), "chain": options.get("chain")}
            content_type, content_encoding, body = dumps((args, kwargs, embed), self.serializer)
            if (content_type, content_encoding) != self.content:
                return None
            argsrepr, kwargsrepr = stencil.show(args, kwargs)
        reply = options.get("reply_to") or self.replies.get(threading.get_ident()) or self._reply(app)
        if parent is None and not self.varies:
            id = task_id.encode()
            return Outgoing(
                stencil.fill_plain(body, id, argsrepr, kwargsrepr, reply.encode(), uuid7().encode()),
                address.routing_key, address.exchange, self.priority, None, None, task_id,
            )  # fmt: skip
        values = {"id": task_id, "correlation_id": task_id, "reply_to": reply, "delivery_tag": uuid7()}
        if self.limit_key is not None:
            values["limit_key"] = self.limit_key(args, kwargs)
        due, until = self._vary(values, options, None if parent is None else parent.request)
        if not {type(values[name]) for name in ("root_id", "parent_id")} <= TEXT:
            return None
        return Outgoing(
            stencil.fill(body, argsrepr, kwargsrepr, values),
            address.routing_key, address.exchange, self.priority, due, until, task_id,
        )  # fmt: skip

    def _vary(self, values: dict[str, Any], options: dict[str, Any], request: Any) -> tuple[float | None, float | None]:
        """Add what the options and the request of the task that sends it say; when it is due, and when it expires."""
        get = options.get
        root, parent = get("root_id"), get("parent_id")
        if request is not None:
            root, parent = root or request.root_id or request.id, parent or request.id
        countdown, at, expires = get("countdown"), get("eta"), get("expires", self.expires)
        eta = due = lapse = until = left = None
        if countdown is not None or at is not None or expires is not None:
            eta, due, lapse, until, left = self.amqp._times(countdown, at, expires)
        if left is not None:
            values["expiration"] = str(max(0, int(left * 1000)))
        values |= {
            "eta": eta, "expires": lapse, "root_id": root or values["id"], "parent_id": parent,
            "group_id": get("group_id"), "group_index": get("group_index"),
        }  # fmt: skip
        return due, until

    def _reply(self, app: Celery) -> str:
        """Where replies to this thread go, noted: threads with one identifier have one address."""
        if len(self.replies) >= MOST_THREADS:
            self.replies.clear()
        reply = self.replies[threading.get_ident()] = app.thread_oid
        return reply


def _is_ordinary(amqp: AMQP, app: Celery) -> bool:
    """Whether all that makes messages is ours, and settings ask for nothing that a plan does not do."""
    conf = app.conf
    return (
        type(amqp) is AMQP
        and app.send_task == app._send_task
        and type(app).thread_oid is Parts.thread_oid
        and not (conf.task_always_eager or conf.task_protocol == 1)
        and (not amqp.routes or (type(amqp.router) is Router and amqp.router.by_name_only))
    )


def _ordinary_result(task: Any, app: Celery) -> type[AsyncResult[Any]] | None:
    """The class of results, if making one is no more than noting its id."""
    cls = app.AsyncResult
    if (
        task.AsyncResult == task._plain_result
        and cls.__init__ is AsyncResult.__init__
        and cls.__new__ is object.__new__
        and cls.app is app
    ):
        return cls
    return None


def _after_fork() -> None:
    global _process
    _process += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
