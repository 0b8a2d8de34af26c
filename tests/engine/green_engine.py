"""What only pools of greenlets have; run by `test_green_engine` in a process that is green."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, current_task, signals
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.utils.loops import LoopThread, run_at

POOL = os.environ["GREEN_POOL"]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    place = f"sqlite:///{tmp_path}/q.db"
    app = TestApp(broker=place, backend=place)
    yield app
    app.close()


def work(app: Celery, concurrency: int = 10, **options: Any) -> Any:
    return start_worker(
        app, pool=POOL, concurrency=concurrency, perform_ping_check=False, shutdown_timeout=60.0, **options
    )


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_hundreds_wait_beside_each_other(app: Celery) -> None:
    waiting = most = 0
    everybody = threading.Event()

    @app.task(shared=False)
    def wait() -> bool:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        if waiting == 300:
            everybody.set()
        came = everybody.wait(60)
        waiting -= 1
        return came

    with work(app, 300):
        assert all(result.get(timeout=30) for result in [wait.delay() for _ in range(300)])
    assert most == 300


def test_coroutines_run_beside_each_other_and_send_tasks(app: Celery) -> None:
    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(shared=False)
    async def relay(number: int) -> Any:
        nonlocal inside
        loop = asyncio.get_running_loop()
        inside += 1
        if inside == 20:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 60)
        sent = await add.adelay(number, 1), add.delay(number, 2)
        return id(loop), current_task.name, [one.id for one in sent]

    inside, everybody = 0, asyncio.Event()
    with work(app, 50):
        found = [result.get(timeout=30) for result in [relay.delay(number) for number in range(20)]]
        assert len({loop for loop, _, _ in found}) == 1
        assert [name for _, name, _ in found] == [relay.name] * 20
        assert app.AsyncResult(found[7][2][1]).get(timeout=30) == 9


def test_a_task_may_have_an_event_loop_of_its_own(app: Celery) -> None:
    @app.task(shared=False)
    def own() -> str:
        return asyncio.run(asyncio.sleep(0.1, "slept"))

    @app.task(shared=False)
    async def beside() -> str:
        for _ in range(20):
            await asyncio.sleep(0.01)
        return "beside"

    with work(app):
        results = [beside.delay(), own.delay(), beside.delay()]
        assert [result.get(timeout=30) for result in results] == ["beside", "slept", "beside"]


def test_the_loop_of_coroutines_may_begin_while_a_task_runs_its_own() -> None:
    home = LoopThread("beside")

    async def begin() -> str:
        home.start()
        return await asyncio.sleep(0.2, "slept")

    assert asyncio.run(begin()) == "slept"
    assert run_at(home, asyncio.sleep(0.01, "beside"), soft=TimeoutError) == "beside"
    assert home.stop(5)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_limits(app: Celery, kind: str) -> None:
    def sleeps() -> None:
        time.sleep(30)

    async def sleeps_too() -> None:
        await asyncio.sleep(30)

    fun = sleeps if kind == "function" else sleeps_too
    soft = app.task(shared=False, name="soft", soft_time_limit=0.2)(fun)
    hard = app.task(shared=False, name="hard", time_limit=0.2)(fun)
    with work(app):
        results = soft.delay(), hard.delay()
        with pytest.raises(SoftTimeLimitExceeded):
            results[0].get(timeout=30)
        with pytest.raises(TimeLimitExceeded):
            results[1].get(timeout=30)


def test_a_task_that_runs_is_revoked(app: Celery) -> None:
    began, cleaned_up = threading.Event(), threading.Event()

    @app.task(shared=False)
    def held() -> None:
        began.set()
        try:
            time.sleep(30)
        finally:
            cleaned_up.set()

    with work(app):
        result = held.delay()
        assert began.wait(30)
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert cleaned_up.wait(30)


def test_a_task_that_runs_is_revoked_by_its_stamp(app: Celery) -> None:
    began, ended = threading.Semaphore(0), list[str]()

    @app.task(shared=False)
    def held(name: str, seconds: float) -> str:
        began.release()
        try:
            time.sleep(seconds)
        except BaseException:
            ended.append(name)
            raise
        return name

    with work(app):
        doomed, spared = held.s("doomed", 600), held.s("spared", 1.0)
        doomed.stamp(customer="7")
        spared.stamp(customer="8")
        results = doomed.apply_async(), spared.apply_async()
        assert began.acquire(timeout=60)
        assert began.acquire(timeout=60)
        app.control.revoke_by_stamped_headers({"customer": "7"}, terminate=True)
        with pytest.raises(TaskRevokedError):
            results[0].get(timeout=60)
        assert results[1].get(timeout=60) == "spared"
    assert ended == ["doomed"]


@pytest.mark.parametrize("kind", ["sqlite", "redis"], indirect=True)
def test_a_task_that_only_computes_does_not_cost_the_lease(place: str) -> None:
    """Nothing else runs meanwhile in the worker's thread: not the loop, not the one that keeps the lease."""
    app = TestApp(broker=place, backend=place)
    app.conf.worker_lease = 3.0
    swept: list[int] = []

    @app.task(shared=False)
    def compute() -> str:
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            if len(swept) < time.monotonic() - end + 5.0:
                swept.append(app.broker.sweep())  # as another worker does
        return "computed"

    with work(app):
        assert compute.delay().get(timeout=60) == "computed"
    assert len(swept) > 3
    assert set(swept) == {0}
    app.close()


def test_a_task_that_will_not_end_is_left_behind(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery.concurrency.crowd.GRACE", 0.2)
    gate = threading.Event()

    @app.task(shared=False, time_limit=0.2)
    def stubborn() -> None:
        while not gate.is_set():
            try:
                gate.wait(30)
            except BaseException:  # noqa: BLE001 - as no task should
                continue

    @app.task(shared=False)
    def other() -> str:
        return "runs"

    with work(app, 1):
        result = stubborn.delay()
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=30)
        assert other.delay().get(timeout=30) == "runs"
        gate.set()


def test_what_a_pool_says_and_signals(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    names = ["eventlet_pool_started", "eventlet_pool_apply", "eventlet_pool_preshutdown", "eventlet_pool_postshutdown"]
    seen: list[str] = []

    def note(signal: Any, **said: Any) -> None:
        seen.append(signal.name)

    for name in names:
        getattr(signals, name).connect(note, weak=False, dispatch_uid="green")

    @app.task(shared=False)
    def one() -> int:
        return 1

    try:
        with caplog.at_level(logging.WARNING, "celery.pool"), work(app):
            assert one.delay().get(timeout=30) == 1
    finally:
        for name in names:
            getattr(signals, name).disconnect(dispatch_uid="green")
    assert seen == (names if POOL == "eventlet" else [])
    assert ("deprecated" in caplog.text) == (POOL == "eventlet")
