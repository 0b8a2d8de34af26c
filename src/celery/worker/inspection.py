"""Commands that ask a worker what it is doing."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.panel import ControlState, inspect_command, ok

logger = get_logger(__name__)
DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")


@inspect_command(default_timeout=0.2)
def ping(state: ControlState, **kwargs: Any) -> Any:
    """Ping worker(s)."""
    return ok("pong")


@inspect_command()
def report(state: ControlState, **kwargs: Any) -> Any:
    """Information about the installation, for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", bool)])
def conf(state: ControlState, with_defaults: bool = False, **kwargs: Any) -> Any:
    """Settings."""
    return state.app.conf.table(with_defaults=with_defaults)


@inspect_command(variadic="ids", signature="[id1 [id2 [… [idN]]]]")
def query_task(state: ControlState, ids: Any, **kwargs: Any) -> Any:
    """What this worker knows of tasks, by id."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    active = {request.id for request in state.active()}
    return {
        request.id: ("active" if request.id in active else "reserved", request.info())
        for request in state.consumer.requests()
        if request.id in wanted
    }


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
def scheduled(state: ControlState, **kwargs: Any) -> Any:
    """Tasks that wait for their time: they wait at the broker, so no worker has any."""
    return [
        {"eta": request.eta, "priority": 6, "request": request.info()} for request in worker_state.scheduled_requests
    ]


@inspect_command(alias="dump_reserved")
def reserved(state: ControlState, **kwargs: Any) -> Any:
    """Tasks that were claimed and have not started."""
    return [request.info() for request in state.reserved()]


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
    known = {queue.name: queue for queue in state.app.amqp.queues.consuming()}
    names = state.consumer.source.queues
    return [_describe_queue(known[name]) for name in names if name in known]


def _describe_queue(queue: Any) -> dict[str, Any]:
    """The fields the original has, in its order."""
    exchange = {
        "name": queue.exchange.name,
        "type": queue.exchange.type,
        "arguments": None,
        "durable": queue.exchange.durable,
        "passive": False,
        "auto_delete": False,
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
        "auto_delete": False,
        "no_ack": False,
        "alias": None,
        "bindings": [],
        **rest,
        "max_priority": queue.max_priority,
    }


@inspect_command()
def memsample(state: ControlState, **kwargs: Any) -> Any:
    """The resident memory of the worker's main process now."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return f"{kib / 1024:.2f}MB"
