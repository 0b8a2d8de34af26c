"""Whether a worker lives and works, as its watch sees it; the watch's clock is moved by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.utils import uuid
from celery.utils.clock import FakeClock
from celery.utils.metrics import Registry
from celery.worker.health import Health
from celery.worker.watch import Watch
from rig.proxy import Proxy

PATIENCE = 30.0


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


class Watched:
    """A worker, its watch, and what else can be reached."""

    def __init__(self, worker: TestWorkController) -> None:
        self.worker = worker
        self.clock = FakeClock()
        self.others_reach_it: bool | Exception = True
        self.watch = Watch(worker, PATIENCE, self._reaches, self.clock)

    def _reaches(self) -> bool:
        if isinstance(self.others_reach_it, Exception):
            raise self.others_reach_it
        return self.others_reach_it

    def later(self, seconds: float) -> None:
        """Time passes, and the watch looks."""
        self.clock.advance(seconds)
        self.watch.look()


@pytest.fixture
def watched() -> Iterator[Watched]:
    url = f"memory://{uuid()}"
    app = TestApp(broker=url, backend=url)
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=60.0) as worker:
        yield Watched(worker)
    app.close()


def test_a_worker_that_turns(watched: Watched) -> None:
    for _ in range(3):
        watched.later(PATIENCE)
        wait_until(lambda: watched.watch.stall() == 0)
        assert watched.watch.live() == watched.watch.ready() == watched.watch.started() == (True, ())


def test_a_loop_that_stands_still(watched: Watched) -> None:
    free, held = threading.Event(), threading.Event()
    consumer: Any = watched.worker.consumer
    consumer.call_soon(lambda: (held.set(), free.wait(30)))
    assert held.wait(30)
    watched.later(0)
    watched.later(PATIENCE)
    assert watched.watch.live().good
    watched.later(1)
    assert watched.watch.live() == (False, ("the loop has not turned for 31 s",))
    assert not watched.watch.ready().good
    free.set()
    wait_until(lambda: watched.watch.live().good and watched.watch.ready().good)


def test_a_worker_that_has_not_started() -> None:
    url = f"memory://{uuid()}"
    app = TestApp(broker=url, backend=url)
    watch = Watch(TestWorkController(app, pool="threads", concurrency=1), PATIENCE, lambda: True, FakeClock())
    watch.look()
    assert watch.live().good
    assert watch.started() == (False, ("the worker has not started yet",))
    assert watch.ready() == (False, ("the worker has not started yet",))
    app.close()


def test_a_worker_that_shuts_down() -> None:
    url = f"memory://{uuid()}"
    app = TestApp(broker=url, backend=url)
    began, free = threading.Event(), threading.Event()

    @app.task
    def hold() -> None:
        began.set()
        free.wait(30)

    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=60.0) as worker:
        watch = Watched(worker).watch
        watch.look()
        hold.delay()
        assert began.wait(30)
        worker.stop()
        wait_until(lambda: not watch.ready().good)
        assert watch.ready().reasons == ("the worker is shutting down",)
        assert watch.live().good
        free.set()
        assert worker.wait_stopped(30)
    assert watch.ready() == (False, ("the worker has stopped",))
    assert watch.live().good
    assert watch.started().good
    app.close()


@pytest.fixture
def remote(redis_url: str, proxy: Proxy) -> Iterator[Watched]:
    """A worker whose broker is behind a proxy."""
    app = TestApp(broker=proxy.url(), backend=proxy.url())
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=60.0) as worker:
        yield Watched(worker)
        proxy.heal()
        wait_until(lambda: worker.consumer is not None and worker.consumer.connected)
    app.close()


@pytest.mark.parametrize("others", [False, OSError("no route"), True])
def test_a_broker_that_does_not_answer(remote: Watched, proxy: Proxy, others: bool | Exception) -> None:
    remote.later(1)
    assert remote.watch.ready().good
    proxy.refuse()
    proxy.reset()
    consumer: Any = remote.worker.consumer
    wait_until(lambda: not consumer.connected)
    remote.others_reach_it = others
    remote.later(1)
    assert remote.watch.live().good
    assert remote.watch.ready() == (False, ("the broker or the result store does not answer",))
    # Much later: it is this worker that should be replaced only if others can reach the broker.
    remote.later(PATIENCE + 1)
    wait_until(lambda: remote.watch.stall() == 0)
    assert remote.watch.live().good is (others is not True)
    if others is True:
        assert "has not answered this worker for 31 s" in remote.watch.live().reasons[0]
    proxy.heal()
    wait_until(lambda: consumer.connected)
    remote.later(1)
    assert remote.watch.ready().good


def test_a_worker_that_runs_a_task_on_its_own_thread_is_not_stalled() -> None:
    url = f"memory://{uuid()}"
    app = TestApp(broker=url, backend=url)
    began, free = threading.Event(), threading.Event()

    @app.task
    def hold() -> None:
        began.set()
        free.wait(30)

    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0) as worker:
        it = Watched(worker)
        hold.delay()
        assert began.wait(30)
        it.later(1)
        it.later(100 * PATIENCE)
        assert it.watch.live().good
        free.set()
    app.close()


# --- figures ----------------------------------------------------------------------------------------------------------


def series(registry: Registry) -> dict[str, float]:
    lines = [line for line in registry.text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_what_becomes_of_tasks_is_counted() -> None:
    url = f"memory://{uuid()}"
    app = TestApp(broker=url, backend=url)

    @app.task(name="good")
    def good() -> int:
        return 1

    @app.task(name="bad")
    def bad() -> None:
        raise LookupError("why not")

    @app.task(name="again", bind=True, max_retries=1)
    def again(self: Any) -> None:
        raise self.retry(countdown=0, exc=ValueError("once more"))

    @app.task(name="chatty")
    def chatty() -> None:
        good.delay()

    app.conf.worker_health_patience = 5.0
    worker = TestWorkController(app, pool="threads", concurrency=1, hostname="w@h")
    health = Health(worker, "127.0.0.1:0")
    make = worker._make_consumer

    def made(pool: Any) -> Any:
        consumer = make(pool)
        health.attach(consumer)
        return consumer

    worker._make_consumer = made  # type: ignore[method-assign]
    app.control.revoke("unwanted")
    good.apply_async(task_id="unwanted")
    app.send_task("nobody.knows")
    for task in (good, good, bad, again, chatty):
        task.delay()
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        wait_until(lambda: series(health.registry).get('celery_worker_settled_total{hostname="w@h"}') == 9)
        wait_until(
            lambda: series(health.registry)['celery_queue_length{queue_name="celery"}'] == 0
        )  # as of a second ago
        found = series(health.registry)
    finally:
        worker.stop()
        thread.join()
    own = {
        name.removeprefix("celery_task_").replace(',hostname="w@h",queue_name="celery"', ""): value
        for name, value in found.items()
        if name.startswith("celery_task_") and "_runtime_bucket" not in name and "_sum" not in name
    }
    assert own == {
        'received_total{name="good"}': 3,
        'received_total{name="bad"}': 1,
        'received_total{name="again"}': 2,
        'received_total{name="chatty"}': 1,
        'started_total{name="good"}': 3,
        'started_total{name="bad"}': 1,
        'started_total{name="again"}': 2,
        'started_total{name="chatty"}': 1,
        'succeeded_total{name="good"}': 3,
        'succeeded_total{name="chatty"}': 1,
        'failed_total{name="bad",exception="LookupError"}': 1,
        'failed_total{name="again",exception="ValueError"}': 1,
        'failed_total{name="nobody.knows",exception="NotRegistered"}': 1,
        'retried_total{name="again",exception="ValueError"}': 1,
        'revoked_total{name="good"}': 1,
        'runtime_count{name="good"}': 3,
        'runtime_count{name="chatty"}': 1,
    }
    assert found['celery_worker_up{hostname="w@h"}'] == 1
    assert found['celery_worker_slots{hostname="w@h"}'] == 1
    assert found['celery_queue_dead{queue_name="celery"}'] == 1
    assert found['celery_active_process_count{queue_name="celery"}'] == 1
    assert found["process_resident_memory_bytes"] > 1e6
    app.close()
