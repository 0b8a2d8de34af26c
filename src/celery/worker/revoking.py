"""Commands that keep tasks from running, and end those that run."""

from __future__ import annotations

import signal as signal_module
from concurrent.futures import TimeoutError as LoopBusy
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.panel import ControlState, control_command, nok, ok, refusal

logger = get_logger(__name__)


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
    killed = _kill(state, ids, number)
    return ok(f"terminate: {', '.join(sorted(killed))}") if killed else ok("terminate: tasks unknown")


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [… [idN]]]]")
def terminate(state: ControlState, signal: str, task_id: Any, **kwargs: Any) -> Any:
    """Kill running tasks, by id."""
    return revoke(state, task_id, terminate=True, signal=signal)


def _kill(state: ControlState, ids: set[str], number: int) -> list[str]:
    """Send the signal to the processes that run these tasks; what waits in the pool is dropped there and then."""

    def kill() -> list[str]:
        killed = []
        for request in state.inside():
            if request.id in ids:
                logger.info("Terminating %s (%s)", request.id, number)
                request.killed, request.signum = "revocation", number
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


revoke_by_stamped_headers = refusal("revoke_by_stamped_headers", "Revoke the tasks that carry some stamps.")
