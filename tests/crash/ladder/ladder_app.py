"""The application of the shutdown tests: tasks say when they begin, and end when they are told to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

FOLDER = Path(os.environ["LADDER_FOLDER"])
app = Celery("ladder")
app.conf.update(
    broker_transport_options={"lease": 2.0},
    worker_soft_shutdown_timeout=float(os.environ.get("LADDER_SOFT", "0")),
)


def hold(name: str) -> str:
    (FOLDER / f"{name}.began").touch()
    while not (FOLDER / f"{name}.end").exists():
        time.sleep(0.01)
    return name


@app.task
def early(name: str) -> str:
    return hold(name)


@app.task(acks_late=True)
def late(name: str) -> str:
    return hold(name)
