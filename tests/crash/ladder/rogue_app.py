"""The application of the tests with tasks that misbehave."""

from __future__ import annotations

import os
import signal
import sys
import time

from celery import Celery

app = Celery("rogue")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fork(how: str) -> str:
    """Let a copy of this process leave the task, by *how*."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent"
    if how == "exit":
        sys.exit(0)
    if how == "raise":
        raise ValueError("raised in the copy")
    return "child"


@app.task
def leave_process_and_die() -> None:
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def break_process(what: str) -> None:
    if what == "SystemExit":
        raise SystemExit(3)
    if what == "KeyboardInterrupt":
        raise KeyboardInterrupt
    os.closerange(3, 100)


@app.task
def take_signals() -> None:
    for name in ("SIGTERM", "SIGALRM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


@app.task
def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        continue
