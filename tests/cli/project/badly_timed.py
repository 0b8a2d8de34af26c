"""An application some of whose periodic tasks cannot be."""

from __future__ import annotations

from celery import Celery
from celery.schedules import crontab

app = Celery("badly_timed")
app.conf.beat_schedule = {
    "good": {"task": "badly_timed.work", "schedule": 0.2},
    "typo": {"task": "badly_timed.work", "shedule": 0.2},
    "solar": {"task": "badly_timed.work", "schedule": crontab(hour="sunset")},
    "unknown": {"task": "nowhere.task", "schedule": 3600.0},
}


@app.task
def work() -> None:
    """Nothing to do."""
