"""An application whose worker is watched closely, and whose loop can be held up."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery, signals

app = Celery("watched", broker=os.environ.get("WATCHED_BROKER"))
app.conf.worker_health_patience = float(os.environ.get("WATCHED_PATIENCE", "30"))
app.conf.broker_publish_timeout = 0.5


@app.task
def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        continue


@app.task
def hold_up(path: str) -> None:
    """Its arrival holds the loop up until *path* is there."""


@signals.task_received.connect
def wait(request: object, **facts: object) -> None:
    if getattr(request, "task_name", "") == "watched.hold_up":
        path = Path(request.info()["args"][0])  # type: ignore[attr-defined]
        while not path.exists():
            time.sleep(0.02)
