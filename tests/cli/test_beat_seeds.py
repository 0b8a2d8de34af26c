"""The full configuration example of the documents this project is made to, as it is written there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cli.conftest import Worker
from rig.redis import RedisServer

EXAMPLE = """
from celery import Celery
from celery.schedules import crontab
import os

app = Celery('myapp')

app.conf.update(
    broker_url=os.environ.get('CELERY_BROKER_URL', 'redis://localhost:6379/0'),
    result_backend=os.environ.get('CELERY_RESULT_BACKEND', 'redis://localhost:6379/1'),
    timezone='UTC',
    enable_utc=True,
    beat_schedule={
        'cleanup-every-5-minutes': {
            'task': 'tasks.cleanup_old_logs',
            'schedule': 300.0,  # 5 minutes
            'args': (),
        },
        'daily-backup': {
            'task': 'tasks.backup_database',
            'schedule': crontab(hour=2, minute=0),  # 2 AM daily
            'kwargs': {'full': True},
            'options': {'queue': 'backup'},  # Route to specific queue
        },
        'hourly-report': {
            'task': 'tasks.generate_report',
            'schedule': crontab(minute='*/60'),  # Every hour
        },
        'custom-solar': {
            'task': 'tasks.send_sunset_alert',
            'schedule': crontab(hour='sunset'),  # Solar-based (requires pytz)
        },
    },
    beat_schedule_filename=None,  # Use backend for persistence
    beat_persistent=True,  # Store in result backend
)

# Dynamic schedule (add at runtime)
@app.task
def dynamic_task():
    pass

# Add to schedule
app.conf.beat_schedule['dynamic'] = {
    'task': 'tasks.dynamic_task',
    'schedule': 60.0,
}
"""


def test_it_runs_as_written(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.command("FLUSHALL")
    (tmp_path / "myapp.py").write_text(EXAMPLE)
    url = redis_server.url()
    env = {**os.environ, "CELERY_BROKER_URL": f"{url}", "CELERY_RESULT_BACKEND": url.rsplit("/", 1)[0] + "/1"}
    celery = [sys.executable, "-m", "celery", "-A", "myapp"]

    def run(*args: str) -> str:
        done = subprocess.run(
            [*celery, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    beats = []
    try:
        for log in logs:
            with log.open("wb") as output:
                command = [*celery, "beat", "--loglevel=info"]
                process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
            beats.append(Worker(process, log))
            beats[-1].expect("leads" if len(beats) > 1 else "beat: leading")  # the second one stands by
        text = beats[0].text()
        assert ". scheduler -> celery.beat.StoreScheduler" in text
        assert text.count("crontab(hour='sunset') needs a place: set beat_location = (latitude, longitude)") == 1
        rows = {row["name"]: row for row in json.loads(run("schedule", "list", "--json"))}
        assert set(rows) == {"cleanup-every-5-minutes", "daily-backup", "hourly-report", "dynamic"}
        assert rows["daily-backup"]["next"].endswith("T02:00:00+00:00")
        assert rows["daily-backup"]["options"] == {"queue": "backup"}
        run("schedule", "run-now", "daily-backup")
        assert redis_server.ask("LLEN", "backup") == 1
    finally:
        for beat in beats:
            beat.process.terminate()
        assert [beat.process.wait(60) for beat in beats] == [0] * len(beats)
