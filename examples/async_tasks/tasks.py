"""A task that is a coroutine. It runs on every pool, beside tasks that are not."""

from __future__ import annotations

import asyncio

from celery import Celery

app = Celery("async_tasks")


@app.task
async def brew(minutes: float) -> str:
    await asyncio.sleep(minutes / 600)
    return f"tea, {minutes:g} minutes"
