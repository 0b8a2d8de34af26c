"""The application of the shutdown tests: tasks say when they begin, and end when they are told to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery, signals

FOLDER = Path(os.environ["LADDER_FOLDER"])
app = Celery("ladder")
app.conf.update(
    broker_transport_options={"lease": 2.0},
    worker_soft_shutdown_timeout=float(os.environ.get("LADDER_SOFT", "0")),
    worker_enable_soft_shutdown_on_idle=bool(os.environ.get("LADDER_SOFT_IDLE")),
)


@signals.worker_shutting_down.connect
def tell(sig: str, how: str, exitcode: int, **facts: object) -> None:
    os.write(2, f"shutting down: {sig} {how} {exitcode}\n".encode())


@signals.worker_shutdown.connect
def get_stuck(**facts: object) -> None:
    if os.environ.get("LADDER_STUCK"):
        hold("shutdown")


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
