"""Remote control, the worker's side: the panel with all its commands, and the decorators that add more."""

from __future__ import annotations

from celery.utils.log import get_logger
from celery.worker.eventcontrol import disable_events, election, enable_events, heartbeat
from celery.worker.inspection import (
    DEFAULT_TASK_INFO_ITEMS,
    active,
    active_queues,
    clock,
    conf,
    hello,
    memdump,
    memsample,
    objgraph,
    ping,
    query_task,
    registered,
    report,
    reserved,
    revoked,
    scheduled,
    stats,
)
from celery.worker.limitcontrol import pause, rate_limit, resume
from celery.worker.panel import (
    ControlState,
    Panel,
    control_command,
    controller_info_t,
    inspect_command,
    nok,
    ok,
)
from celery.worker.poolcontrol import autoscale, pool_grow, pool_restart, pool_shrink
from celery.worker.revoking import revoke, revoke_by_stamped_headers, terminate
from celery.worker.steering import add_consumer, cancel_consumer, shutdown, time_limit

logger = get_logger(__name__)

__all__ = (
    "DEFAULT_TASK_INFO_ITEMS",
    "ControlState",
    "Panel",
    "active",
    "active_queues",
    "add_consumer",
    "autoscale",
    "cancel_consumer",
    "clock",
    "conf",
    "control_command",
    "controller_info_t",
    "disable_events",
    "election",
    "enable_events",
    "heartbeat",
    "hello",
    "inspect_command",
    "logger",
    "memdump",
    "memsample",
    "nok",
    "objgraph",
    "ok",
    "pause",
    "ping",
    "pool_grow",
    "pool_restart",
    "pool_shrink",
    "query_task",
    "rate_limit",
    "registered",
    "report",
    "reserved",
    "resume",
    "revoke",
    "revoke_by_stamped_headers",
    "revoked",
    "scheduled",
    "shutdown",
    "stats",
    "terminate",
    "time_limit",
)
