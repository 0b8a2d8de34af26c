"""Commands about limits: the rate of a task, and queues that pause."""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger
from celery.utils.time import rate
from celery.worker.panel import ControlState, control_command, nok, ok

logger = get_logger(__name__)


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: ControlState, task_name: str, rate_limit: Any, **kwargs: Any) -> Any:
    """Change the rate limit of a task; 0 for none."""
    try:
        rate(rate_limit)
    except ValueError as error:
        return nok(f"Invalid rate limit string: {error!r}")
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.rate_limit = rate_limit
    state.tell(lambda: _read_anew(state, task_name))
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


def _read_anew(state: ControlState, task_name: str) -> None:
    state.consumer.facts.forget(task_name)
    state.consumer.limiter.forget(task_name)


@control_command(args=[("queue", str)], signature="<queue>")
def pause(state: ControlState, queue: str, **kwargs: Any) -> Any:
    """Have no worker claim from a queue, until it is resumed; needs no worker to be up."""
    state.consumer.broker.pause([queue])
    logger.info("Queue %s is paused", queue)
    return ok(f"queue {queue} is paused")


@control_command(args=[("queue", str)], signature="<queue>")
def resume(state: ControlState, queue: str, **kwargs: Any) -> Any:
    """End the pause of a queue; needs no worker to be up."""
    state.consumer.broker.resume([queue])
    logger.info("Queue %s is resumed", queue)
    return ok(f"queue {queue} is resumed")
