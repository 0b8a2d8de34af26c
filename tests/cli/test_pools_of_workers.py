"""`celery worker -P …` as real processes: they patch, run tasks, say what they cannot, and stop when they are told."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from rig.original import Party, ending

APP = """
import asyncio, os, time
from celery import Celery
place = "sqlite:///{folder}/q.db"
app = Celery("pooled", broker=place, backend=place)
BORN = time.sleep

@app.task(time_limit=60)
def born():
    return BORN.__module__

@app.task
def nap(seconds):
    time.sleep(seconds)
    return "rested"

@app.task
async def anap(seconds):
    await asyncio.sleep(seconds)
    return "rested"

@app.task(acks_late=True)
def long(path):
    open(path, "w").close()
    time.sleep(60)
"""


def party(tmp_path: Path) -> Party:
    file = tmp_path / "pooled.py"
    file.write_text(APP.format(folder=tmp_path))
    return Party("ours", sys.executable, file, tmp_path / "runs", {})


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "asyncio", "threads"])
def test_a_worker_on_each_pool(tmp_path: Path, pool: str) -> None:
    ours = party(tmp_path)
    with ending(ours):
        worker = ours.worker("-P", pool, concurrency=40)
        printed = ours.run(
            "import time\n"
            "began = time.monotonic()\n"
            "results = [task.delay(0.5) for task in (nap, anap) for _ in range(20)]\n"
            "assert {result.get(timeout=50) for result in results} == {'rested'}\n"
            "assert time.monotonic() - began < 16  # one after the other they take 20\n"
            "print(born.delay().get(timeout=50))\n",
            timeout=100,
        )
        assert printed.startswith({"gevent": "gevent", "eventlet": "eventlet"}.get(pool, "time"))
        assert ("hard time limits are NOT enforced" in ours.said) == (pool == "threads")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        assert "Traceback" not in ours.said


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_cold_shutdown_ends_greenlets_and_gives_their_tasks_back(tmp_path: Path, pool: str) -> None:
    ours = party(tmp_path)
    began = tmp_path / "began"
    with ending(ours):
        worker = ours.worker("-P", pool)
        ours.run(f"long.delay({str(began)!r})")
        ours.wait(began.exists)
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(60) in {0, 1}
        assert ours.run("print([stats.ready for stats in app.broker.stats(['celery'])])") == "[1]"
