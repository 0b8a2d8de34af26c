"""Commands that change a worker's pool."""

from __future__ import annotations

from concurrent.futures import TimeoutError as LoopBusy
from typing import Any

from celery.utils.log import get_logger
from celery.worker.panel import ControlState, control_command, nok, ok, refusal

logger = get_logger(__name__)


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


autoscale = refusal(
    "autoscale",
    "Change the bounds of autoscaling.",
    args=[("max", int), ("min", int)],
    signature="[max [min]]",
)
pool_restart = refusal("pool_restart", "Replace the processes of the pool.")
