"""The application of the tests that kill the processes of a pool."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from celery import Celery

app = Celery("children")


def count(path: str) -> int:
    """Note an execution; how many there were."""
    with Path(path).open("a") as file:
        file.write("x")
    return Path(path).stat().st_size


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_until(path: str, times: int) -> int:
    executions = count(path)
    if executions < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return executions


@app.task(retry_on_worker_lost=True, default_retry_delay=0.1, max_retries=1)
def die_once(path: str) -> int:
    if count(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Path(path).stat().st_size


@app.task(soft_time_limit=0.3, time_limit=0.8)
def too_long(obstinate: bool) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            time.sleep(deadline - time.monotonic())
        except Exception:
            if not obstinate:
                raise
    return "never"
