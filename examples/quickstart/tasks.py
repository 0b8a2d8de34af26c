"""The shortest application: two tasks, no configuration. See run.py."""

from __future__ import annotations

from celery import Celery

app = Celery("quickstart")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(autoretry_for=(ConnectionError,), retry_backoff=1, max_retries=5)
def fetch(name: str) -> str:
    """Retried with growing pauses should the network fail; here it never does."""
    return f"the contents of {name}"
