"""One application for both kinds of Celery: `MIXED_SETTINGS` says where its broker and its results are."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

app = Celery("fleet")
app.conf.update(json.loads(os.environ["MIXED_SETTINGS"]))
if broadcast := os.environ.get("MIXED_BROADCAST"):
    from kombu.common import Broadcast

    app.conf.task_queues = (*(app.conf.task_queues or ()), Broadcast(broadcast))
LOG = Path(os.environ["MIXED_LOG"])


def note(*words: object) -> None:
    """One line, in one write: it is there whole or not at all, whoever else writes."""
    descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


@app.task
def add(x: float, y: float = 0) -> float:
    return x + y


@app.task
def slow_add(x: float, y: float = 0) -> float:
    time.sleep(0.02)
    return x + y


@app.task
def echo(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


@app.task
def total(numbers: list[float]) -> float:
    return sum(numbers)


@app.task
def log(*words: Any) -> None:
    note(*words)


@app.task
def mark(number: int) -> int:
    note("ran", number)
    return number


@app.task(acks_late=True)
def mark_late(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    note("ran", number)
    return number


@app.task(bind=True)
def facts(self: Any) -> dict[str, Any]:
    """What a task sees of its request."""
    request = self.request
    names = ("id", "task", "args", "kwargs", "retries", "eta", "expires", "group", "root_id", "parent_id", "origin")
    seen = {name: getattr(request, name) for name in (*names, "correlation_id", "ignore_result", "timelimit", "stamps")}
    seen["priority"] = request.delivery_info["priority"]
    seen["custom"] = (request.headers or {}).get("custom", getattr(request, "custom", None))
    seen["started"] = time.time()
    return seen


@app.task(bind=True, max_retries=3, default_retry_delay=0.1)
def flaky(self: Any, succeed_at: int) -> int:
    note("tried", self.request.retries)
    if self.request.retries < succeed_at:
        raise self.retry(exc=KeyError("not yet"))
    return int(self.request.retries)


@app.task(autoretry_for=(OSError,), retry_kwargs={"max_retries": 2}, retry_backoff=False, default_retry_delay=0.1)
def autoretried() -> None:
    note("tried")
    raise OSError("the disk is on fire")


@app.task
def fail(text: str) -> None:
    raise ValueError(text, 7)


@app.task(bind=True)
def progress(self: Any) -> None:
    self.update_state(state="PROGRESS", meta={"done": 3, "of": 10})
    raise Ignore


@app.task
def reject() -> None:
    raise Reject("no such order", requeue=False)


@app.task(bind=True, max_retries=1)
def retry_later(self: Any) -> None:
    raise self.retry(exc=KeyError("not yet"), countdown=3600)


@app.task
def sign(request: Any, exc: Any, traceback: Any) -> None:
    """An error callback with three arguments."""
    note("failed", request.id, type(exc).__name__, exc)


@app.task
def mourn(task_id: str) -> None:
    """An error callback with one."""
    note("mourned", task_id)


@app.task(bind=True)
def grow(self: Any, value: float) -> float:
    """Adds another task to the chord it is in."""
    self.add_to_chord(add.s(100))
    return value
