"""The application that is measured: one file, run unchanged by this project and by original Celery."""

from __future__ import annotations

import json
import os
import time

from celery import Celery

app = Celery(
    "bench_app",
    broker=os.environ.get("BENCH_BROKER") or None,
    backend=os.environ.get("BENCH_BACKEND") or None,
)
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=os.environ.get("BENCH_ACKS_LATE") == "1")
if os.environ.get("BENCH_ATTRIBUTES"):
    app.conf.task_annotations = {"*": json.loads(os.environ["BENCH_ATTRIBUTES"])}
app.conf.update(json.loads(os.environ.get("BENCH_SETTINGS") or "{}"))
SINK = os.open(os.environ["BENCH_SINK"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def tick(sent_at: float | None) -> None:
    """Append one byte a run, or one line with the milliseconds since it was sent: countable from any process."""
    os.write(SINK, b"x" if sent_at is None else b"%.4f\n" % ((time.time() - sent_at) * 1e3))


@app.task(ignore_result=True)
def noop(sent_at: float | None = None) -> None:
    tick(sent_at)


@app.task
def stored(sent_at: float | None = None) -> int:
    tick(sent_at)
    return 42


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int], ballast: str = "") -> int:
    return sum(numbers)
