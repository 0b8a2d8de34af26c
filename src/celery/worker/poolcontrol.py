"""Commands that change a worker's pool."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import TimeoutError as LoopBusy
from typing import Any

from celery.utils.log import get_logger
from celery.worker.panel import ControlState, control_command, nok, ok

logger = get_logger(__name__)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: ControlState, n: int = 1, **kwargs: Any) -> Any:
    """Give the pool more slots."""
    return _resize(state, "pool_grow", int(n), "pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: ControlState, n: int = 1, **kwargs: Any) -> Any:
    """Give the pool less slots."""
    return _resize(state, "pool_shrink", -int(n), "pool will shrink")


def _resize(state: ControlState, command: str, change: int, said: str) -> Any:
    if state.controller.autoscaler is not None:
        return nok(f"{command} is not supported with autoscale. Adjust autoscale range instead.")
    pool = state.consumer.pool
    size = pool.size + change
    if size < 1:
        return nok(f"the pool has {pool.size} slots: it cannot shrink by {-change}")
    try:
        state.consumer.ask(lambda: pool.resize(size))
    except LoopBusy:
        logger.info("The pool is resized when the task on the worker's own thread has ended")
    return ok(said)


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: ControlState, max: int | None = None, min: int | None = None, **kwargs: Any) -> Any:
    """Change the bounds of autoscaling."""
    autoscaler = state.controller.autoscaler
    if autoscaler is None:
        raise ValueError("Autoscale not enabled")
    bounds = [None if bound is None else int(bound) for bound in (max, min)]
    most, least = autoscaler.update(*bounds)
    return ok(f"autoscale now max={most} min={least}")


@control_command()
def pool_restart(
    state: ControlState,
    modules: Iterable[str] | None = None,
    reload: bool = False,
    reloader: Any = None,
    **kwargs: Any,
) -> Any:
    """Replace the slots of the pool, with the modules imported (anew, with *reload*)."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    state.controller.reload(modules, reload, reloader=reloader)
    return ok("reload started")
