"""The size of a pool while the worker runs: autoscaling, and the commands that change and restart a pool."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured
from celery.utils import uuid
from celery.worker.autoscale import Autoscaler

NODE = "pool@here"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = TestApp(broker=f"memory://{uuid()}", backend="cache+memory://")
    yield app
    app.close()


def work(app: Celery, pool: str = "threads", **options: Any) -> Any:
    return start_worker(app, pool=pool, hostname=NODE, perform_ping_check=False, shutdown_timeout=60.0, **options)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def told(app: Celery, command: str, **arguments: Any) -> Any:
    [answer] = app.control.broadcast(command, arguments=arguments, reply=True, timeout=30, limit=1)
    return answer[NODE]


class Eager(Autoscaler):
    """Lets slots go at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "keepalive": 0.0})


class Stubborn(Autoscaler):
    """A policy of a user's."""

    def _maybe_scale(self, req: Any = None) -> bool:
        if self.processes < self.max_concurrency:
            self.scale_up(1)
            return True
        return False


def test_a_pool_grows_with_what_waits_and_shrinks_again(app: Celery, patient: None) -> None:
    app.conf.worker_autoscaler = Eager
    gate, began = threading.Event(), threading.Semaphore(0)

    @app.task(shared=False)
    def held() -> None:
        began.release()
        assert gate.wait(90)

    with work(app, autoscale="4,1") as worker:
        assert worker.pool.size == 1
        results = [held.delay() for _ in range(7)]
        for _ in range(4):
            assert began.acquire(timeout=30)
        assert not began.acquire(timeout=0.05)
        assert worker.pool.size == 4
        stats = app.control.inspect([NODE], timeout=30).stats
        wait_until(lambda: stats()[NODE]["autoscaler"] == {"max": 4, "min": 1, "current": 4, "qty": 7})
        gate.set()
        for result in results:
            result.get(timeout=30)
        wait_until(lambda: worker.pool.size == 1)


def test_the_bounds_are_changed_by_remote_control(app: Celery) -> None:
    with work(app, autoscale=(4, 2)) as worker:
        assert worker.pool.size == 2
        assert told(app, "autoscale", max=6, min=3) == {"ok": "autoscale now max=6 min=3"}
        assert worker.pool.size == 3
        assert told(app, "autoscale", max=2, min=1) == {"ok": "autoscale now max=2 min=1"}
        assert worker.pool.size == 2
        for command in ("pool_grow", "pool_shrink"):
            said = f"{command} is not supported with autoscale. Adjust autoscale range instead."
            assert told(app, command, n=1) == {"error": said}


def test_a_policy_of_the_user(app: Celery) -> None:
    app.conf.update(worker_autoscaler=Stubborn, worker_autoscale_max=3, worker_autoscale_min=1)
    with work(app) as worker:
        wait_until(lambda: worker.pool.size == 3)


def test_without_autoscaling_there_is_none(app: Celery) -> None:
    with work(app):
        assert told(app, "autoscale", max=3, min=1) == {"error": "ValueError('Autoscale not enabled')"}
        assert told(app, "pool_restart") == {"error": "ValueError('Pool restarts not enabled')"}


def test_the_solo_pool_cannot_grow(app: Celery) -> None:
    with pytest.raises(ImproperlyConfigured, match="one slot"), work(app, pool="solo", autoscale="3,1"):
        pass


SOURCE = """
from celery import shared_task
import os

@shared_task(name="worded.word")
def word():
    return {word!r}, os.getpid()
"""


@pytest.mark.parametrize("pool", ["threads", "solo", "asyncio", "prefork"])
def test_a_restarted_pool_runs_the_code_that_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = tmp_path / "worded.py"
    source.write_text(SOURCE.format(word="old"))
    place = f"sqlite:///{tmp_path}/q.db"
    app = Celery("worded_app", broker=place, backend=place, include=["worded"])
    app.conf.update(worker_pool_restarts=True, worker_hijack_root_logger=False)
    try:
        with work(app, pool=pool) as worker:
            task = app.signature("worded.word")
            assert task.delay().get(timeout=30)[0] == "old"
            source.write_text(SOURCE.format(word="entirely new"))
            before = worker.pool.pids()
            assert told(app, "pool_restart", reload=True) == {"ok": "reload started"}
            wait_until(lambda: task.delay().get(timeout=30)[0] == "entirely new")
            if pool == "prefork":
                wait_until(lambda: not set(before) & set(worker.pool.pids()))
    finally:
        app.close()
        sys.modules.pop("worded", None)
