"""An application with periodic tasks."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from celery.schedules import crontab

app = Celery("timed")
app.conf.beat_schedule = {
    "often": {"task": "timed.mark", "schedule": 0.2, "args": ("often",)},
    "seldom": {"task": "timed.mark", "schedule": crontab(minute=0, hour=4), "args": ("seldom",)},
}


@app.task
def mark(line: str) -> None:
    with Path(os.environ["MARKS"]).open("a") as file:
        file.write(f"{line}\n")
