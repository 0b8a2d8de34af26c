"""The application."""

from __future__ import annotations

from celery import Celery

app = Celery("proj")


@app.task
def hello() -> str:
    return "hello"
