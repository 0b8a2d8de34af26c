"""Pools of users: subclasses of `BasePool`, as they were written for Celery, run our worker's tasks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gevent
import pytest

from celery import Celery
from celery.concurrency import get_available_pool_names, get_implementation
from celery.concurrency.base import BasePool, apply_target
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ImproperlyConfigured, WorkerLostError
from celery.utils import uuid

events: list[str] = []


class Inline(BasePool):
    """Runs what it is given at once, as Celery's own solo pool does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_apply = apply_target  # type: ignore[method-assign]

    def on_start(self) -> None:
        events.append(f"start {self.limit} {self.app.main}")

    def on_stop(self) -> None:
        events.append("stop")


class Executor(BasePool):
    """Threads of the standard library, as Celery's own pool of threads has them."""

    def on_start(self) -> None:
        self.executor = ThreadPoolExecutor(max_workers=self.limit)

    def on_stop(self) -> None:
        self.executor.shutdown()

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> Any:
        return self.executor.submit(apply_target, target, args, kwargs, callback, accept_callback)

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "threads": len(self.executor._threads)}


class Refusing(BasePool):
    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("no slot to be had")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = TestApp(broker=f"memory://{uuid()}", backend="cache+memory://")
    yield app
    app.close()


def work(app: Celery, pool: Any, **options: Any) -> Any:
    return start_worker(
        app, **{"pool": pool, "concurrency": 3, "perform_ping_check": False, "shutdown_timeout": 60.0, **options}
    )


@pytest.mark.parametrize("kind", [Inline, Executor])
def test_tasks_run_and_their_results_come_back(app: Celery, kind: type[BasePool]) -> None:
    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(shared=False)
    def fail() -> None:
        raise ValueError("as asked")

    with work(app, f"{__name__}:{kind.__name__}"):
        assert [add.delay(n, n).get(timeout=30) for n in range(50)] == [2 * n for n in range(50)]
        with pytest.raises(ValueError, match="as asked"):
            fail.delay().get(timeout=30)


def test_a_pool_runs_as_many_at_once_as_it_has_slots(app: Celery) -> None:
    gate, began = threading.Event(), threading.Semaphore(0)

    @app.task(shared=False)
    def held() -> str:
        began.release()
        assert gate.wait(90)
        return "done"

    with work(app, Executor) as worker:
        results = [held.delay() for _ in range(5)]
        for _ in range(3):
            assert began.acquire(timeout=30)
        assert not began.acquire(timeout=0.05)
        assert [running.pid for running in worker.consumer.ask(worker.pool.running)] == [os.getpid()] * 3
        gate.set()
        assert [result.get(timeout=30) for result in results] == ["done"] * 5


def test_the_hooks_are_called(app: Celery) -> None:
    events.clear()
    with work(app, Inline, concurrency=2):
        pass
    assert events == [f"start 2 {app.main}", "stop"]


def test_a_pool_that_refuses_fails_the_task_and_not_the_worker(app: Celery) -> None:
    @app.task(shared=False)
    def never() -> None: ...

    with work(app, Refusing), pytest.raises(Exception, match="no slot to be had"):
        never.delay().get(timeout=30)


def test_what_ends_a_slot_is_told_to_the_callback() -> None:
    def leave() -> None:
        raise SystemExit(3)

    told: list[Any] = []
    apply_target(
        leave, callback=told.append, accept_callback=lambda pid, when: told.append((pid, when <= time.monotonic()))
    )
    assert told[0] == (os.getpid(), True)
    assert isinstance(told[1], WorkerLostError)


def test_custom_is_what_the_environment_names(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="CELERY_CUSTOM_WORKER_POOL"):
        get_implementation("custom")
    monkeypatch.setenv("CELERY_CUSTOM_WORKER_POOL", f"{__name__}:Executor")
    assert get_implementation("custom") is Executor
    assert get_implementation(f"{__name__}.Executor") is Executor

    @app.task(shared=False)
    def one() -> int:
        return 1

    with work(app, "custom"):
        assert one.delay().get(timeout=30) == 1


def test_all_pools_have_their_names() -> None:
    names = {"prefork", "processes", "threads", "gevent", "eventlet", "asyncio", "solo"}
    assert names <= set(get_available_pool_names())
    for name in names:
        assert get_implementation(name).__module__.startswith("celery.concurrency.")


def test_a_pool_of_greenlets_in_a_process_that_is_not_green_says_so(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a test of somebody's: tasks that wait by gevent's own means run beside each other all the same."""
    together = 0

    @app.task(shared=False)
    def nap() -> int:
        nonlocal together
        together += 1
        deadline = time.monotonic() + 20
        while together < 3 and time.monotonic() < deadline:
            gevent.sleep(0.01)
        return together

    with caplog.at_level("WARNING", "celery.pool"), work(app, "gevent"):
        assert [result.get(timeout=30) for result in [nap.delay() for _ in range(3)]] == [3, 3, 3]
    assert "has not taken over" in caplog.text
