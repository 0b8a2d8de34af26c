"""Schedulers that were written for Celery, run for real by our beat: celery-redbeat and django-celery-beat."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.original import environment
from rig.redis import RedisServer

pytestmark = pytest.mark.timeout(300)
SOURCE = Path(__file__).parents[2] / "src"
PACKAGES = ("celery-redbeat==2.4.2", "django-celery-beat==2.9.0", "hiredis", "msgspec>=0.19", "click>=8.1.7")

APP = """
import os
from celery import Celery
from celery.schedules import crontab

if os.environ.get("WITH_DJANGO"):
    import django
    from django.conf import settings
    settings.configure(
        # Two processes write: each takes the file when it begins to, and waits for the other.
        DATABASES={"default": {
            "ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["WITH_DJANGO"],
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 60},
        }},
        INSTALLED_APPS=["django_celery_beat"], USE_TZ=True, TIME_ZONE="UTC",
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()

app = Celery("third", broker=os.environ["PLACE"], backend=os.environ["PLACE"])
app.conf.update(redbeat_redis_url=os.environ["PLACE"], beat_max_loop_interval=1, redbeat_lock_timeout=60)
app.conf.beat_schedule = {
    "often": {"task": "third.often", "schedule": 1.0, "args": (1,)},
    "daily": {"task": "third.daily", "schedule": crontab(minute=0, hour=4)},
}

@app.task(name="third.often")
def often(x=None):
    pass
"""
COUNT = """
import third
from django_celery_beat.models import PeriodicTask
print(PeriodicTask.objects.get(name="often").total_run_count)
"""
ADD = """
from third import app
from django_celery_beat.models import IntervalSchedule, CrontabSchedule, PeriodicTask
every = IntervalSchedule.objects.create(every=1, period="seconds")
PeriodicTask.objects.create(name="added", task="third.added", interval=every, args="[7]")
"""


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment("beat-schedulers", *PACKAGES)
    except LookupError as error:
        pytest.skip(str(error))


class Third:
    def __init__(self, python: Path, folder: Path, server: RedisServer) -> None:
        server.command("FLUSHALL")
        (folder / "third.py").write_text(APP)
        self.python, self.folder, self.server = str(python), folder, server
        self.log = folder / "beat.log"
        self.env = {**os.environ, "PLACE": server.url(), "PYTHONPATH": f"{SOURCE}:{folder}"}

    def run(self, code: str) -> str:
        command = [self.python, "-c", code]
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def beat(self, scheduler: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [self.python, "-m", "celery", "-A", "third", "beat", "-S", scheduler, "-l", "DEBUG"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self.text
        finally:
            process.kill()
            process.wait()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def expect(self, needle: bytes, count: int) -> None:
        deadline = time.monotonic() + 60
        while sum(needle in raw for raw in self.server.ask("LRANGE", "celery", 0, -1)) < count:
            assert time.monotonic() < deadline, self.text[-4000:]
            time.sleep(0.05)


@pytest.fixture
def third(python: Path, tmp_path: Path, redis_server: RedisServer) -> Third:
    return Third(python, tmp_path, redis_server)


def test_redbeat(third: Third) -> None:
    assert "celeriac" in third.run("import celery; print(celery.VERSION_BANNER)")
    with third.beat("redbeat.RedBeatScheduler"):
        third.expect(b'"third.often"', 3)
    assert "beat: Acquired lock" in third.text
    assert "beat: Releasing lock" in third.text
    assert "Traceback" not in third.text
    assert b"redbeat:often" in third.server.ask("KEYS", "redbeat:*")


def test_django_celery_beat(third: Third) -> None:
    third.env["WITH_DJANGO"] = str(third.folder / "db.sqlite3")
    third.run("import third; from django.core.management import call_command; call_command('migrate', verbosity=0)")
    with third.beat("django"):
        third.expect(b'"third.often"', 2)
        third.run(ADD)  # while it runs
        third.expect(b'"third.added"', 2)
    assert "Traceback" not in third.text
    assert int(third.run(COUNT)) >= 2
    assert b'"periodic_task_name"' in third.server.ask("LINDEX", "celery", 0)
