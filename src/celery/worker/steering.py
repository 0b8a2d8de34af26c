"""Commands that change what a worker does: its queues, the limits of its tasks, its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.log import get_logger
from celery.worker.panel import ControlState, control_command, nok, ok

logger = get_logger(__name__)
AFTERWARDS = ", as soon as the task on the worker's own thread has ended"


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


@control_command()
def shutdown(state: ControlState, msg: str = "Got shutdown from remote", **kwargs: Any) -> Any:
    """Stop the worker warmly."""
    logger.warning(msg)
    state.controller.stop()
    return ok("shutting down")


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
    queues, consumer = state.app.amqp.queues, state.consumer
    name = queues.name_of(queue)
    if name in queues:
        queues.select_add(queues[name])
    else:
        given: Mapping[str, Any] = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
        wanted = {key: value for key, value in {**given, **options}.items() if value is not None}
        queues.select_add(name, **{"exchange": name, "routing_key": name, **wanted})
    consumer.broker.declare(queues.apart([name]))
    done = state.tell(lambda: consumer.add_queue(name))
    logger.info("Started consuming from %s%s", queue, "" if done else AFTERWARDS)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: ControlState, queue: str, **kwargs: Any) -> Any:
    """Consume from a queue no longer."""
    queues = state.app.amqp.queues
    name = queues.name_of(queue)
    if name in queues.consume_from:
        queues.deselect(name)
    done = state.tell(lambda: state.consumer.cancel_queue(name))
    logger.info("Canceling queue %s%s", queue, "" if done else AFTERWARDS)
    return ok(f"no longer consuming from {queue}")
