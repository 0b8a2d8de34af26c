"""An application in one module."""

from __future__ import annotations

import time

from celery import Celery

app = Celery("single")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail(message: str) -> None:
    raise ValueError(message)


@app.task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task
def shout(text: str) -> None:
    print(text)
