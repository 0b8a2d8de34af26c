"""Commands that ask a worker what it is doing."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib import import_module
from typing import Any

from celery.brokers.base import Entry
from celery.exceptions import DecodeError
from celery.utils import debug
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.utils.serialization import jsonify, strtobool
from celery.wire.message import Delivery
from celery.wire.protocol import peek
from celery.worker import state as worker_state
from celery.worker.claimed import Claimed
from celery.worker.decisions import Facts
from celery.worker.panel import ControlState, inspect_command, nok, ok

logger = get_logger(__name__)
DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")
MOST_DELAYED = 1000
"""Delayed messages that are looked at for one answer, those due first."""
ETA_PRIORITY = 6
"""What the original's timer says of every task that waits for its time."""


@inspect_command(default_timeout=0.2)
def ping(state: ControlState, **kwargs: Any) -> Any:
    """Who is there."""
    return ok("pong")


@inspect_command()
def report(state: ControlState, **kwargs: Any) -> Any:
    """Information about the installation, for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)])
def conf(state: ControlState, with_defaults: bool = False, **kwargs: Any) -> Any:
    """Settings."""
    table = state.app.conf.table(with_defaults=with_defaults)
    return jsonify(table, keyfilter=lambda key: isinstance(key, str), unknown_type_filter=_as_plain)


def _as_plain(value: Any) -> Any:
    as_dict = getattr(value, "as_dict", None)  # of kombu's queues and exchanges
    return saferepr(value) if as_dict is None or isinstance(value, type) else as_dict(recurse=True)


@inspect_command(variadic="ids", signature="[id1 [id2 [… [idN]]]]")
def query_task(state: ControlState, ids: Any, **kwargs: Any) -> Any:
    """What this worker knows of tasks, by id."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    active = {request.id for request in state.active()}
    found = {
        request.id: ["active" if request.id in active else "reserved", request.info()]
        for request in state.consumer.requests()
        if request.id in wanted
    }
    if len(found) < len(wanted):
        delayed = ((request.id, request) for request, _ in _delayed(state))
        found |= {id: ["scheduled", request.info()] for id, request in delayed if id in wanted and id not in found}
    return found


@inspect_command()
def clock(state: ControlState, **kwargs: Any) -> Any:
    """The logical clock."""
    return {"clock": state.app.control.clock.value}


@inspect_command(visible=False)
def hello(state: ControlState, from_node: str, revoked: Any = None, **kwargs: Any) -> Any:
    """What a worker that starts asks its neighbours."""
    if from_node == state.hostname:
        return None
    logger.info("sync with %s", from_node)
    if revoked:
        worker_state.revoked.update(list(revoked))  # its clock, by which it dates them, is not ours
    return {"revoked": list(worker_state.revoked), "clock": state.app.control.clock.forward()}


@inspect_command()
def stats(state: ControlState, **kwargs: Any) -> Any:
    """Counts, pool, broker and resource usage."""
    return state.controller.stats()


@inspect_command(alias="dump_schedule")
def scheduled(state: ControlState, safe: bool | None = False, **kwargs: Any) -> Any:
    """Tasks that wait for their time: they wait at the broker, and are shown by every worker of their queue."""
    zone = state.app.timezone
    return [
        {
            "eta": datetime.fromtimestamp(due, zone).isoformat(),
            "priority": ETA_PRIORITY,
            "request": request.info(safe=bool(safe)),
        }
        for request, due in _delayed(state)
    ]


def _delayed(state: ControlState) -> Iterator[tuple[Claimed, float]]:
    """What waits at the broker in the queues of this worker, and when it is due (Unix time); soonest first."""
    consumer = state.consumer
    for entry in consumer.broker.entries("delayed", consumer.source.queues, MOST_DELAYED):
        request = _request(state, entry)
        if request is not None:
            yield request, entry.due or entry.since


def _request(state: ControlState, entry: Entry) -> Claimed | None:
    try:
        head = peek(entry.envelope)
    except DecodeError:
        return None  # whoever claims it says so
    delivery = Delivery(entry.tag, entry.queue, entry.envelope, 0, entry.deliveries, redelivered=entry.deliveries > 0)
    return Claimed(head, delivery, state.consumer.facts.get(head.task) or Facts(head.task), 0, state.hostname)


@inspect_command(alias="dump_reserved")
def reserved(state: ControlState, safe: bool | None = False, **kwargs: Any) -> Any:
    """Tasks that were claimed and have not started."""
    return [request.info(safe=bool(safe)) for request in state.reserved()]


@inspect_command(alias="dump_active")
def active(state: ControlState, safe: bool | None = False, **kwargs: Any) -> Any:
    """Tasks that run now."""
    return [request.info(safe=bool(safe)) for request in state.active()]


@inspect_command(alias="dump_revoked")
def revoked(state: ControlState, **kwargs: Any) -> Any:
    """Ids of revoked tasks."""
    return sorted({*worker_state.revoked, *state.consumer.broker.revoked()})


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [… [attrN]]]]")
def registered(
    state: ControlState, taskinfoitems: Iterable[str] | None = None, builtins: bool = False, **kwargs: Any
) -> Any:
    """Names of the registered tasks, with some of their attributes."""
    tasks = state.app.tasks
    items = list(taskinfoitems or DEFAULT_TASK_INFO_ITEMS)

    def describe(name: str) -> str:
        values = {item: getattr(tasks[name], item, None) for item in items}
        said = [f"{item}={value}" for item, value in values.items() if value is not None]
        return f"{name} [{' '.join(said)}]" if said else name

    return [describe(name) for name in sorted(tasks) if builtins or not name.startswith("celery.")]


@inspect_command()
def active_queues(state: ControlState, **kwargs: Any) -> Any:
    """The queues that are consumed from."""
    queues = state.app.amqp.queues
    found, paused = [], state.consumer.broker.paused()
    for name in state.consumer.source.queues:
        given = queues.given(name)
        described = _describe_queue(queues.wire(name)) if given is None else given.as_dict(recurse=True)
        found.append({**described, "paused": True} if name in paused else described)
    return found


def _describe_queue(queue: Any) -> dict[str, Any]:
    """The fields the original has, in its order."""
    exchange = {
        "name": queue.exchange.name,
        "type": queue.exchange.type,
        "arguments": None,
        "durable": queue.exchange.durable,
        "passive": False,
        "auto_delete": queue.exchange.auto_delete,
        "delivery_mode": None,
        "no_declare": False,
    }
    nothing = dict.fromkeys(("binding_arguments", "consumer_arguments"))
    rest = dict.fromkeys(("no_declare", "expires", "message_ttl", "max_length", "max_length_bytes"))
    return {
        "name": queue.name,
        "exchange": exchange,
        "routing_key": queue.routing_key,
        "queue_arguments": queue.arguments,
        **nothing,
        "durable": queue.durable,
        "exclusive": False,
        "auto_delete": queue.auto_delete,
        "no_ack": False,
        "alias": None,
        "bindings": [],
        **rest,
        "max_priority": queue.max_priority,
    }


@inspect_command()
def memsample(state: ControlState, **kwargs: Any) -> Any:
    """Remember the resident memory of the worker's main process, and tell it."""
    return debug.sample_mem()


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: ControlState, samples: int = 10, **kwargs: Any) -> Any:
    """The memory as `memsample` remembered it, and now."""
    out = io.StringIO()
    debug.memdump(int(samples), out)
    return out.getvalue()


@inspect_command(
    default_timeout=60.0,
    signature="[object_type=Request] [num=200 [max_depth=10]]",
    args=[("type", str), ("num", int), ("max_depth", int)],
)
def objgraph(state: ControlState, num: int = 200, max_depth: int = 10, type: str = "Request", **kwargs: Any) -> Any:
    """Draw what keeps objects of a type alive, into a file on the worker's machine (package objgraph)."""
    try:
        graphs = import_module("objgraph")
    except ImportError:
        return nok("objgraph needs the package objgraph: pip install objgraph")
    objects = list(itertools.islice(graphs.by_type(type), int(num)))
    shown = set(map(id, objects))
    # Graphviz draws; where it is not, what it would have been told is better than an empty picture.
    suffix = ".png" if import_module("shutil").which("dot") else ".dot"
    handle, name = import_module("tempfile").mkstemp(prefix="celery-objects-", suffix=suffix)
    os.close(handle)
    logger.info("Drawing what keeps %s objects of type %r alive: %s", len(objects), type, name)
    graphs.show_backrefs(objects, max_depth=int(max_depth), highlight=lambda value: id(value) in shown, filename=name)
    return {"filename": name}
