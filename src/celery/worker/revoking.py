"""Commands that keep tasks from running, and end those that run."""

from __future__ import annotations

import signal as signal_module
from collections.abc import Mapping
from concurrent.futures import TimeoutError as LoopBusy
from typing import Any

from celery.app.withdrawing import withdraw
from celery.utils.log import get_logger
from celery.worker import stamps
from celery.worker import state as worker_state
from celery.worker.panel import ControlState, control_command, nok, ok

logger = get_logger(__name__)


@control_command(variadic="task_id", signature="[id1 [id2 [… [idN]]]]")
def revoke(state: ControlState, task_id: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any) -> Any:
    """These tasks must not run: recorded at the broker, whoever asks; with *terminate* those that do are killed."""
    ids = {task_id} if isinstance(task_id, str) else set(task_id)
    name = signal or "SIGTERM"
    number = _signal_number(name)
    if number is None:
        return nok(f"there is no signal {name!r}: use TERM, KILL, INT, QUIT, USR1 or a number")
    worker_state.revoked.update(ids)
    _record(state, ids)
    if not terminate:
        logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(ids)))
        return ok(f"tasks {ids} flagged as revoked")
    killed = _kill(state, ids, number)
    return ok(f"terminate: {', '.join(sorted(killed))}") if killed else ok("terminate: tasks unknown")


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [… [idN]]]]")
def terminate(state: ControlState, signal: str, task_id: Any, **kwargs: Any) -> Any:
    """Kill running tasks, by id."""
    return revoke(state, task_id, terminate=True, signal=signal)


def _record(state: ControlState, ids: set[str]) -> None:
    """Clients of the original only tell the workers there are: this one sees to it that later ones know as well."""
    state.consumer.broker.revoke(sorted(ids), worker_state.REVOKE_EXPIRES, worker_state.REVOKES_MAX)
    withdraw(state.app, sorted(ids))


def _kill(state: ControlState, ids: set[str], number: int) -> list[str]:
    """Send the signal to the processes that run these tasks; what waits in the pool is dropped there and then.

    A loop that is busy, with the broker for example, does it as soon as it turns; what it then finds is said now.
    """

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
        if state.consumer.pool.name != "solo":
            return [request.id for request in state.inside() if request.id in ids]
        logger.warning("Cannot terminate %s: the pool runs its task on the worker's own thread", ", ".join(ids))
        return []


def _signal_number(name: str) -> int | None:
    text = str(name).upper()
    if text.isdecimal():
        return int(text)
    return signal_module.Signals.__members__.get(text if text.startswith("SIG") else f"SIG{text}")


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [… [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: ControlState, headers: Any, terminate: bool = False, signal: str | None = None, **kwargs: Any
) -> Any:
    """Tasks with one of these stamps must not run here; with *terminate* those that do are killed."""
    wanted = _pairs(headers)
    if wanted is None:
        return nok(f"headers are pairs of name and value, not {headers!r}: write name=value")
    name = signal or "SIGTERM"
    number = _signal_number(name)
    if number is None:
        return nok(f"there is no signal {name!r}: use TERM, KILL, INT, QUIT, USR1 or a number")
    broker = state.consumer.broker
    if broker.can.withdraws:
        values = {header: stamps.texts(value) for header, value in wanted.items()}
        broker.revoke_stamps(values, worker_state.REVOKE_EXPIRES, worker_state.REVOKES_MAX)
    stamps.note(wanted)
    known = {header: stamps.texts(value) for header, value in wanted.items()}
    found = {request.id for request in state.consumer.requests() if stamps.concern(request.stamps, known)}
    if found:
        _record(state, found)
    if not terminate:
        logger.info("Header(s) %s flagged as revoked", wanted)
        return ok(f"headers {wanted} flagged as revoked, but not terminated")
    killed = _kill(state, found, number)
    return ok(f"headers {wanted} revoked: {', '.join(sorted(killed))}" if killed else f"headers {wanted} revoked")


def _pairs(headers: Any) -> dict[str, Any] | None:
    """Headers as a map: from a map, or from words `name=value` of the command line."""
    if isinstance(headers, Mapping):
        return dict(headers)
    found: dict[str, Any] = {}
    for word in [headers] if isinstance(headers, str) else headers:
        name, equals, value = str(word).partition("=")
        if not equals:
            return None
        found.setdefault(name, []).append(value)
    return found
