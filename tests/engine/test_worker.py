"""A worker's own life: queues, options, signals, shutdown, and a broker that goes away."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celery import Celery, signals
from celery.brokers.memory import MemoryBroker, MemoryConsumer
from celery.contrib.testing.worker import TestWorkController, _start_worker_thread
from celery.exceptions import BrokerError, ImproperlyConfigured
from celery.utils import sysinfo
from celery.worker import WorkController, state
from celery.worker.options import concurrency_of


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_signals_come_in_order(app: Celery, start: Any) -> None:
    seen: list[str] = []

    def note(**said: Any) -> None:
        seen.append(said["signal"].name)

    names = [
        "celeryd_init",
        "worker_init",
        "celeryd_after_setup",
        "worker_ready",
        "worker_shutting_down",
        "worker_shutdown",
    ]
    for name in names:
        getattr(signals, name).connect(note, weak=False, dispatch_uid="order")
    try:
        with start():
            pass
    finally:
        for name in names:
            getattr(signals, name).disconnect(dispatch_uid="order")
    assert seen == names


def test_it_consumes_from_the_chosen_queues_only(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def where() -> str:
        return "here"

    with start(queues=["urgent", "rest"]):
        elsewhere = where.apply_async(queue="other")
        assert where.apply_async(queue="urgent").get(timeout=30) == "here"
        assert where.apply_async(queue="rest").get(timeout=30) == "here"
        assert elsewhere.state == "PENDING"
    assert [stats.ready for stats in app.broker.stats(["other"])] == [1]


def test_a_queue_that_is_not_defined_is_refused(app: Celery) -> None:
    app.conf.update(task_queues={"known": {}}, task_create_missing_queues=False, task_default_queue="known")
    with pytest.raises(ImproperlyConfigured, match="unknown"):
        WorkController(app, queues=["unknown"])


def test_an_unknown_pool_is_refused_with_a_suggestion(app: Celery) -> None:
    worker = WorkController(app, pool="thread")
    with pytest.raises(ImproperlyConfigured, match="threads"):
        worker.start()


@pytest.mark.parametrize("value", ["many", -1, 0.5])
def test_a_concurrency_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="concurrency"):
        concurrency_of(value)


@pytest.mark.parametrize("value", ["auto", "AUTO", None, 0])
def test_concurrency_follows_the_quota_of_a_container(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(sysinfo, "CGROUP_ROOT", str(tmp_path))
    monkeypatch.setattr(sysinfo, "PROC_SELF_CGROUP", str(tmp_path / "missing"))
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)
    assert concurrency_of(value) == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert concurrency_of(value) == 3


def test_purge_empties_the_queues_first(app: Celery, start: Any) -> None:
    ran: list[int] = []

    @app.task(shared=False)
    def count(number: int) -> int:
        ran.append(number)
        return number

    count.delay(1)
    with start(purge=True):
        count.delay(2).get(timeout=30)
    assert ran == [2]


def test_a_warm_shutdown_finishes_what_runs_and_gives_back_the_rest(app: Celery) -> None:
    began, may_end = threading.Event(), threading.Event()

    @app.task(shared=False)
    def held() -> str:
        began.set()
        assert may_end.wait(30)
        return "finished"

    results = [held.delay() for _ in range(3)]
    worker = WorkController(app, pool="threads", concurrency=1)
    thread = threading.Thread(target=worker.start)
    thread.start()
    assert began.wait(30)
    worker.stop()
    wait_until(lambda: app.broker.stats(["celery"])[0].ready == 2)
    may_end.set()
    thread.join(30)
    assert not thread.is_alive()
    assert worker.exitcode == 0
    assert results[0].get(timeout=30) == "finished"
    assert [result.state for result in results[1:]] == ["PENDING", "PENDING"]


def test_should_stop_stops_it(app: Celery, pool: str) -> None:
    worker = WorkController(app, pool=pool)
    thread = threading.Thread(target=worker.start)
    thread.start()
    assert worker.ready.wait(30)
    assert worker.consumer is not None
    worker.consumer.call_soon(setattr, state, "should_stop", 3)
    thread.join(30)
    assert worker.exitcode == 3
    state.reset_state()


def test_a_test_worker_that_starts_too_late_is_stopped(app: Celery) -> None:
    """Else it would go on in its thread, and take the tasks of other tests."""

    class Late(TestWorkController):
        def ensure_started(self, timeout: float = 60.0) -> None:
            super().ensure_started(timeout)
            raise RuntimeError("too late")

    starting = _start_worker_thread(app, WorkController=Late, perform_ping_check=False, shutdown_timeout=60.0)
    with pytest.raises(RuntimeError, match="too late"), starting:
        pass
    assert "celery-test-worker" not in {thread.name for thread in threading.enumerate()}


class FlakyConsumer(MemoryConsumer):
    down = threading.Event()

    def _check(self) -> None:
        if self.down.is_set():
            raise BrokerError("the broker is out of reach")

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().claim(*args, **kwargs)

    def settle(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().settle(*args, **kwargs)

    def renew(self) -> bool:
        self._check()
        return super().renew()


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_results_wait_for_a_broker_that_is_out_of_reach(
    app: Celery, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery.brokers.memory.MemoryConsumer", FlakyConsumer)
    assert isinstance(app.broker, MemoryBroker)
    ran = threading.Event()

    @app.task(shared=False)
    def run() -> str:
        FlakyConsumer.down.set()
        ran.set()
        return "kept"

    try:
        with start() as worker:
            result = run.delay()
            assert ran.wait(30)
            assert worker.consumer is not None
            wait_until(lambda: not worker.consumer.connected)
            assert result.state == "PENDING"
            FlakyConsumer.down.clear()
            assert result.get(timeout=30) == "kept"
    finally:
        FlakyConsumer.down.clear()


def test_states_count_what_was_done(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="counted")
    def counted() -> None:
        """Nothing."""

    with start():
        for _ in range(3):
            counted.delay().get(timeout=30)
        assert state.total_count["counted"] == 3
        wait_until(lambda: not state.reserved_requests and not state.active_requests)
