"""The asyncio pool in a worker: thousands of coroutines at once, limits by cancellation, other tasks in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, current_task
from celery.app import trace
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

MANY = 10_000


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    place = f"sqlite:///{tmp_path}/q.db"
    app = TestApp(broker=place, backend=place)
    yield app
    app.close()


def work(app: Celery, concurrency: int = 10, **options: Any) -> Any:
    return start_worker(
        app, pool="asyncio", concurrency=concurrency, perform_ping_check=False, shutdown_timeout=60.0, **options
    )


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_ten_thousand_tasks_sleep_beside_each_other(app: Celery) -> None:
    """All at once, a second's sleep each; what else there is to do takes less than four seconds of the processor.

    So together it takes less than five seconds where the machine has nothing else to do.
    """
    asleep = most = done = 0

    @app.task(shared=False, ignore_result=True)
    async def nap() -> None:
        nonlocal asleep, most, done
        asleep += 1
        most = max(most, asleep)
        if asleep == MANY:
            everybody.set()
        await asyncio.sleep(1.0)
        await everybody.wait()  # a machine that is busy with other things does not decide this
        asleep -= 1
        done += 1

    everybody = asyncio.Event()
    with app.bulk():
        for _ in range(MANY):
            nap.delay()
    began = time.process_time()
    with work(app, MANY):
        wait_until(lambda: done == MANY, 60)
        wait_until(lambda: app.broker.stats(["celery"])[0].leased == 0, 60)
        used = time.process_time() - began
    assert most == MANY
    assert used < 4.0


def test_every_task_has_its_own_request_and_context(app: Celery) -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")

    @app.task(shared=False, bind=True)
    async def look(self: Any, number: int) -> Any:
        before = mark.get()
        mark.set(f"{number}")
        for _ in range(3):
            await asyncio.sleep(0.01)
        seen = {self.request.id, current_task.request.id}
        return before, mark.get(), sorted(seen), self.request.args

    with work(app, 5):
        results = [look.delay(number) for number in range(30)]
        for number, result in enumerate(results):
            assert result.get(timeout=30) == ["clean", str(number), [result.id], [number]]


def test_limits_of_coroutines(app: Celery) -> None:
    @app.task(shared=False, soft_time_limit=0.2)
    async def tidy() -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.01)  # it may go on
            return "tidied up"
        return "slept"

    @app.task(shared=False, soft_time_limit=0.2)
    async def untidy() -> None:
        await asyncio.sleep(30)

    cancelled = threading.Event()

    @app.task(shared=False, soft_time_limit=0.1, time_limit=0.4)
    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    with work(app):
        assert tidy.delay().get(timeout=30) == "tidied up"
        with pytest.raises(SoftTimeLimitExceeded):
            untidy.delay().get(timeout=30)
        with pytest.raises(TimeLimitExceeded):
            stubborn.delay().get(timeout=30)
        assert cancelled.is_set()


def test_a_coroutine_that_runs_is_revoked_by_cancellation(app: Celery) -> None:
    began, cancelled = threading.Event(), threading.Event()

    @app.task(shared=False)
    async def held() -> None:
        began.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with work(app):
        result = held.delay()
        assert began.wait(30)
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert cancelled.wait(30)


def test_a_coroutine_that_cancels_itself_fails(app: Celery) -> None:
    @app.task(shared=False)
    async def cancels() -> None:
        other = asyncio.ensure_future(asyncio.sleep(30))
        other.cancel()
        await other

    with work(app), pytest.raises(RuntimeError, match="cancelled"):
        cancels.delay().get(timeout=30)


def test_other_tasks_block_nobody(app: Celery) -> None:
    gate, began = threading.Event(), threading.Event()

    @app.task(shared=False)
    def blocking() -> str:
        began.set()
        assert gate.wait(90)
        return threading.current_thread().name

    @app.task(shared=False)
    async def quick() -> str:
        return threading.current_thread().name

    with work(app, 4):
        held = blocking.delay()
        assert began.wait(30)
        home = {quick.delay().get(timeout=30) for _ in range(5)}
        assert home == {"celery-asyncio-pool"}
        gate.set()
        assert held.get(timeout=30).startswith("celery-task-")


def test_coroutines_of_instrumented_tasks_share_the_loop(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitoring packages wrap the tracer into a function of their own, which runs in a thread and awaits nothing."""
    build, seen = trace.build_tracer, []

    def build_and_wrap(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = build(name, task, *args, **kwargs)

        @wraps(tracer)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return tracer(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(trace, "build_tracer", build_and_wrap)

    @app.task(shared=False, name="where")
    async def where() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @app.task(shared=False, name="late", soft_time_limit=0.2)
    async def late() -> None:
        await asyncio.sleep(30)

    with work(app):
        assert where.delay().get(timeout=30) == "celery-asyncio-pool"
        with pytest.raises(SoftTimeLimitExceeded):
            late.delay().get(timeout=30)
    assert seen == ["where", "late"]


def test_a_cold_shutdown_cancels_what_runs(app: Celery) -> None:
    began, cancelled = threading.Event(), threading.Event()

    @app.task(shared=False, acks_late=True)
    async def held() -> None:
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    with work(app) as worker:
        held.delay()
        assert began.wait(30)
        worker.terminate()
        assert worker.wait_stopped(30)
    assert cancelled.is_set()
    assert app.broker.stats(["celery"])[0].ready == 1
