"""The way out for events: bounded, in order, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.worker import outlet as module
from celery.worker.outlet import Outlet
from events.conftest import PATIENCE, Listen
from rig.redis import RedisServer


def wait(condition: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {PATIENCE} s")
        time.sleep(0.01)


def test_everything_in_the_order_in_which_it_was_said(memory_app: Celery) -> None:
    bus = memory_app.broker.bus()
    outlet = Outlet(bus)
    with bus.subscribe(["t"]) as heard:
        outlet.publish("t", b"1")
        outlet.call(lambda: outlet.publish("t", b"3"))
        outlet.publish("t", b"2")
        outlet.start()
        assert [heard.get(PATIENCE) for _ in range(3)] == [("t", b"1"), ("t", b"2"), ("t", b"3")]
        outlet.stop()


def test_it_is_a_timer(memory_app: Celery) -> None:
    outlet = Outlet(memory_app.broker.bus())
    rung: list[int] = []
    entry = outlet.call_repeatedly(0.01, rung.append, (1,))
    outlet.start()
    wait(lambda: len(rung) >= 3)
    entry.cancel()
    after: list[int] = []
    outlet.call_repeatedly(0.01, lambda: after.append(len(rung)))
    wait(lambda: len(after) >= 4)
    assert len(set(after)) == 1, "when it has rung another time, a call that was under way has ended"
    outlet.stop()


def test_a_call_that_fails_does_not_end_it(memory_app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    outlet = Outlet(memory_app.broker.bus())
    done = threading.Event()
    outlet.start()
    outlet.call(lambda: 1 // 0)
    wait(lambda: "could not be sent" in caplog.text)
    outlet.call(done.set)
    assert done.wait(PATIENCE)
    outlet.stop()


def test_stop_sends_what_is_left(memory_app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS", PATIENCE)
    bus = memory_app.broker.bus()
    outlet = Outlet(bus)
    outlet.start()
    with bus.subscribe(["t"]) as heard:
        outlet.publish("t", b"last words")
        outlet.stop()
        assert heard.get(0) == ("t", b"last words")


def test_a_broker_that_is_away(
    server: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it; the oldest make room; what is left is sent when it is back, and the rest is counted."""
    monkeypatch.setattr(module, "MOST", 50)
    monkeypatch.setattr(module, "RETRY", 0.05)
    redis = RedisServer(server("redis"), tmp_path / "redis")
    try:
        app = TestApp(broker=redis.url(), backend=redis.url())
        outlet = Outlet(app.broker.bus())
        outlet.start()
        redis.kill()
        outlet.publish("t", b"first")
        wait(lambda: "Events cannot be sent" in caplog.text, "the loss")
        began = time.monotonic()
        for number in range(500):
            outlet.publish("t", b"%d" % number)
        assert time.monotonic() - began < 15.0
        assert outlet.dropped == 450

        redis.start()
        wait(lambda: "Events can be sent again; 450 were lost meanwhile" in caplog.text, "the return")
        wait(lambda: outlet.sent == 51, "that the rest is sent")
        outlet.stop()
        app.close()
    finally:
        redis.stop()


def test_a_worker_stops_although_the_broker_is_away(server: Callable[[str], Path], tmp_path: Path) -> None:
    redis = RedisServer(server("redis"), tmp_path / "redis")
    try:
        app = TestApp(broker=redis.url(), backend=redis.url())
        with start_worker(
            app, perform_ping_check=False, task_events=True, without_heartbeat=False, heartbeat_interval=0.05,
            shutdown_timeout=60,
        ):  # fmt: skip
            redis.kill()
            began = time.monotonic()
        # Its consumer is given five seconds to come back and five to say goodbye, its leases five, its events three.
        assert time.monotonic() - began < 40
        app.close()
    finally:
        redis.stop()


def test_tasks_run_on_while_events_cannot_be_sent(memory_app: Celery, listen: Listen) -> None:
    """The broker of events may be another one, and be away for ever."""

    @memory_app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(memory_app, perform_ping_check=False, task_events=True, shutdown_timeout=PATIENCE) as worker:
        assert worker.consumer is not None
        blocked = threading.Event()
        monitoring = worker.consumer.monitoring
        assert monitoring is not None
        monitoring.outlet.call(lambda: blocked.wait(2 * PATIENCE))
        assert [add.delay(n, n).get(timeout=PATIENCE) for n in range(20)] == [2 * n for n in range(20)]
        blocked.set()
