"""The application of the golden answers to remote control, for either kind of Celery; `CONTROL_SETTINGS` is JSON."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from kombu import Exchange, Queue

from celery import Celery

app = Celery("control_app")
app.conf.update(
    task_default_queue="golden",
    task_queues=[
        Queue("golden", Exchange("golden"), "golden"),
        Queue("orders", Exchange("orders", "topic"), "orders.*", queue_arguments={"x-max-priority": 5}),
    ],
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get("CONTROL_SETTINGS", "{}")),
)


@app.task(name="golden.add")
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="golden.limited", rate_limit="100/s", max_retries=7)
def limited() -> None:
    """Has a limit."""


@app.task(name="golden.held")
def held(path: str, **anything: object) -> None:
    """Runs until there is a file at *path*."""
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
