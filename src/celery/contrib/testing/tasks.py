"""The task that `start_worker` pings with."""

from __future__ import annotations

from celery import shared_task


@shared_task(name="celery.ping")
def ping() -> str:
    """Answer."""
    return "pong"
