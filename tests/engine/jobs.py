"""Tasks that any process can import: what prefork children run. In tests they come by the fixture `jobs`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject
from engine.notes import note, noted


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task
def mark(log: str, line: str, seconds: float = 0.0) -> str:
    note(log, line)
    if seconds:
        time.sleep(seconds)
    return line


@shared_task(ignore_result=True)
def mark_only(log: str, line: str) -> None:
    note(log, line)


@shared_task
def fail(message: str) -> None:
    raise ValueError(message)


@shared_task(bind=True, max_retries=5)
def flaky(self: Task[Any, Any], log: str, failures: int, countdown: float) -> int:
    note(log, f"{time.time()}")
    if self.request.retries < failures:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


@shared_task(bind=True, acks_late=True)
def refuse_once(self: Task[Any, Any], log: str) -> bool:
    """Refuses its first delivery; whether the second one says that it is one."""
    note(log, "tried")
    if noted(Path(log))["tried"] == 1:
        raise Reject("not yet", requeue=True)
    return bool(self.request.delivery_info["redelivered"])


@shared_task(acks_late=True)
def reject_once(log: str) -> str:
    note(log, "tried")
    if noted(Path(log))["tried"] == 1:
        raise Reject("not yet", requeue=False)
    return "done"


@shared_task(acks_late=True)
def late(log: str, line: str, seconds: float = 0.0) -> str:
    note(log, line)
    if seconds:
        time.sleep(seconds)
    return line


def pass_gate(log: str, line: str, gate: str) -> str:
    """Note *line*, and end when there is a file *gate*."""
    note(log, line)
    deadline = time.monotonic() + 90
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return line


early_at_gate = shared_task(name="engine.jobs.early_at_gate")(pass_gate)
late_at_gate = shared_task(name="engine.jobs.late_at_gate", acks_late=True)(pass_gate)


@shared_task
def die(log: str) -> None:
    note(log, "began")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(acks_late=True, reject_on_worker_lost=True)
def die_once(log: str) -> str:
    note(log, "began again")
    if noted(Path(log))["began again"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@shared_task
def whoami() -> int:
    return os.getpid()


@shared_task
def length(text: str) -> int:
    return len(text)


@shared_task
def relay(x: int, y: int) -> str:
    """Sends a task itself; its id."""
    return str(add.delay(x, y).id)


@shared_task(bind=True)
def progress(self: Task[Any, Any], log: str) -> str:
    """Says how far it is until somebody has noted that it was seen."""
    self.update_state(state="PROGRESS", meta={"half": True})
    deadline = time.monotonic() + 60
    while not noted(Path(log)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return "whole"
