"""Commands about events."""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger
from celery.worker.panel import ControlState, control_command, nok, ok

logger = get_logger(__name__)

NO_EVENTS = "this broker passes no events"


@control_command()
def enable_events(state: ControlState, **kwargs: Any) -> Any:
    """Send task events."""
    monitoring = state.consumer.monitoring
    if monitoring is None:
        return nok(NO_EVENTS)
    if not monitoring.enable_tasks():
        return ok("task events already enabled")
    logger.info("Events of group {task} enabled by remote.")
    return ok("task events enabled")


@control_command()
def disable_events(state: ControlState, **kwargs: Any) -> Any:
    """Send no task events."""
    monitoring = state.consumer.monitoring
    if monitoring is None:
        return nok(NO_EVENTS)
    if not monitoring.disable_tasks():
        return ok("task events already disabled")
    logger.info("Events of group {task} disabled by remote.")
    return ok("task events disabled")


@control_command()
def heartbeat(state: ControlState, **kwargs: Any) -> Any:
    """Send a heartbeat now."""
    monitoring = state.consumer.monitoring
    if monitoring is not None and monitoring.heart is not None:
        logger.debug("Heartbeat requested by remote.")
        monitoring.heart.beat()


@control_command(visible=False)
def election(
    state: ControlState, id: str, topic: str, action: Any = None, type: str | None = None, **kwargs: Any
) -> Any:
    """Hold an election."""
    monitoring = state.consumer.monitoring
    if monitoring is not None and monitoring.gossip is not None:
        monitoring.gossip.election(id, topic, action)
