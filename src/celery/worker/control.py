"""Remote control, the worker's side: the commands, and the decorators that add more.

A command is a function of the control state (`app`, `hostname`, `consumer`, …) and its arguments; what it returns is
the node's answer, by convention `{"ok": …}` or `{"error": …}`.  Commands run on the mailbox's thread; what touches the
loop goes through `state.loop`.
"""

from __future__ import annotations

import os
import resource
import signal as signal_module
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as LoopBusy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from celery.concurrency.base import Running
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.request import Request

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.consumer import Consumer
    from celery.worker.controller import WorkController

__all__ = ("Panel",)
DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")
logger = get_logger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])
Arguments = Sequence[tuple[str, Callable[[str], Any]]]
LATER = "is not in this version of Celeriac"


class controller_info_t(NamedTuple):  # noqa: N801 - the public name
    """What is known of a command."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Arguments | None
    variadic: str | None


def ok(value: Any) -> dict[str, Any]:
    """A good answer."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """An answer that says what is wrong."""
    return {"error": value}


class ControlState:
    """What commands are given: this node. Commands of users find the attributes of the original here."""

    def __init__(self, app: Celery, hostname: str, consumer: Consumer, controller: WorkController) -> None:
        self.app = app
        self.hostname = hostname
        self.consumer = consumer
        self.controller = controller
        self.tset = set

    def running(self) -> dict[int, Running]:
        """What is in the pool, by tag; without start times while the loop itself runs a task."""
        try:
            found = self.consumer.ask(self.consumer.pool.running, timeout=0.5)
        except LoopBusy:
            return {request.tag: Running(request.tag, os.getpid(), request.time_start) for request in self.inside()}
        return {running.tag: running for running in found}

    def inside(self) -> list[Request]:
        return list(self.consumer.inside.values())

    def active(self) -> list[Request]:
        """Requests that run now."""
        running = self.running()
        found = []
        for request in self.inside():
            slot = running.get(request.tag)
            if slot is not None and slot.started is not None:
                request.time_start, request.worker_pid = slot.started, slot.pid
                found.append(request)
        return found

    def reserved(self) -> list[Request]:
        """Requests that were claimed and do not run yet."""
        active = {request.tag for request in self.active()}
        return [request for request in self.consumer.requests() if request.tag not in active]


class Panel:
    """The commands of a worker, by name."""

    data: dict[str, Callable[..., Any]] = {}
    meta: dict[str, controller_info_t] = {}

    @classmethod
    def register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Arguments | None = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        """A decorator that adds a command; see `control_command`."""

        def add(fun: Command) -> Command:
            control_name = name or fun.__name__
            said = help or (fun.__doc__ or "").strip().split("\n")[0]
            cls.data[control_name] = fun
            cls.meta[control_name] = controller_info_t(
                alias, type, visible, default_timeout, said, signature, args, variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return add


def control_command(**kwargs: Any) -> Callable[[Command], Command]:
    """A decorator for a command that changes something.

    Options: `name`, `type`, `args` (pairs of name and type, for the command line), `signature`, `help`, `visible`,
    `default_timeout`, `alias`, `variadic`.
    """
    return Panel.register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Callable[[Command], Command]:
    """A decorator for a command that only asks."""
    return Panel.register(type="inspect", **kwargs)


# --- asking -----------------------------------------------------------------------------------------------------------


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


# --- telling ----------------------------------------------------------------------------------------------------------


@control_command(variadic="task_id", signature="[id1 [id2 [… [idN]]]]")
def revoke(state: ControlState, task_id: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any) -> Any:
    """These tasks must not run here; with *terminate* those that do are killed."""
    ids = {task_id} if isinstance(task_id, str) else set(task_id)
    name = signal or "SIGTERM"
    number = _signal_number(name)
    if number is None:
        return nok(f"there is no signal {name!r}: use TERM, KILL, INT, QUIT, USR1 or a number")
    worker_state.revoked.update(ids)
    if not terminate:
        logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(ids)))
        return ok(f"tasks {ids} flagged as revoked")
    killed = _kill(state, ids, name, number)
    return ok(f"terminate: {', '.join(sorted(killed))}") if killed else ok("terminate: tasks unknown")


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [… [idN]]]]")
def terminate(state: ControlState, signal: str, task_id: Any, **kwargs: Any) -> Any:
    """Kill running tasks, by id."""
    return revoke(state, task_id, terminate=True, signal=signal)


def _kill(state: ControlState, ids: set[str], name: str, number: int) -> list[str]:
    """Send the signal to the processes that run these tasks; what waits in the pool is dropped there and then."""

    def kill() -> list[str]:
        killed = []
        for request in state.inside():
            if request.id in ids:
                logger.info("Terminating %s (%s)", request.id, number)
                request.killed, request.signum = "revocation", name
                if not state.consumer.pool.kill(request.tag, number):
                    request.killed = None
                killed.append(request.id)
        return killed

    try:
        return state.consumer.ask(kill)
    except LoopBusy:
        logger.warning("Cannot terminate %s: the pool runs its task on the worker's own thread", ", ".join(ids))
        return []


def _signal_number(name: str) -> int | None:
    text = str(name).upper()
    if text.isdecimal():
        return int(text)
    return signal_module.Signals.__members__.get(text if text.startswith("SIG") else f"SIG{text}")


@control_command(args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft> [hard]")
def time_limit(
    state: ControlState, task_name: str | None = None, hard: Any = None, soft: Any = None, **kwargs: Any
) -> Any:
    """Change the time limits of a task, in seconds."""
    task = state.app.tasks.get(task_name) if task_name else None
    if task is None or task_name is None:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.soft_time_limit = soft
    task.time_limit = hard
    state.consumer.facts.forget(task_name)
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: ControlState, n: int = 1, **kwargs: Any) -> Any:
    """Give the pool more slots."""
    return _resize(state, int(n), "pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: ControlState, n: int = 1, **kwargs: Any) -> Any:
    """Give the pool less slots."""
    return _resize(state, -int(n), "pool will shrink")


def _resize(state: ControlState, change: int, said: str) -> Any:
    pool = state.consumer.pool
    size = pool.size + change
    if size < 1:
        return nok(f"the pool has {pool.size} slots: it cannot shrink by {-change}")
    try:
        state.consumer.ask(lambda: pool.resize(size))
    except LoopBusy:
        logger.info("The pool is resized when the task on the worker's own thread has ended")
    return ok(said)


@control_command()
def shutdown(state: ControlState, msg: str = "Got shutdown from remote", **kwargs: Any) -> Any:
    """Stop the worker warmly."""
    logger.warning(msg)
    state.controller.stop()


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: ControlState,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> Any:
    """Consume from one more queue."""
    given: Mapping[str, Any] = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
    wanted = {key: value for key, value in {**given, **options}.items() if value is not None}
    queues = state.app.amqp.queues
    queues.select_add(queue, **wanted) if exchange else queues.select_add(queue)
    state.consumer.broker.declare([queues.wire(queue)])
    state.consumer.ask(lambda: state.consumer.add_queue(queue), timeout=5.0)
    logger.info("Started consuming from %s", queue)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: ControlState, queue: str, **kwargs: Any) -> Any:
    """Consume from a queue no longer."""
    logger.info("Canceling queue %s", queue)
    state.consumer.ask(lambda: state.consumer.cancel_queue(queue), timeout=5.0)
    return ok(f"no longer consuming from {queue}")


# --- what later versions do -------------------------------------------------------------------------------------------


def _refuse(name: str, help: str, **meta: Any) -> Callable[..., Any]:
    def command(state: ControlState, **kwargs: Any) -> Any:
        return nok(f"{name} {LATER}")

    command.__name__, command.__doc__ = name, help
    control_command(**meta)(command)
    return command


rate_limit = _refuse(
    "rate_limit",
    "Change the rate limit of a task.",
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
autoscale = _refuse(
    "autoscale",
    "Change the bounds of autoscaling.",
    args=[("max", int), ("min", int)],
    signature="[max [min]]",
)
enable_events = _refuse("enable_events", "Send task events.")
disable_events = _refuse("disable_events", "Send no task events.")
heartbeat = _refuse("heartbeat", "Send a heartbeat now.")
election = _refuse("election", "Hold an election.", visible=False)
pool_restart = _refuse("pool_restart", "Replace the processes of the pool.")
revoke_by_stamped_headers = _refuse("revoke_by_stamped_headers", "Revoke the tasks that carry some stamps.")
