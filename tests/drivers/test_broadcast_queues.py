"""kombu's `Broadcast` in `task_queues`: every worker runs the task once, whatever the broker is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import pytest
from kombu.common import Broadcast

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker

SOON = 30.0
Ran = SimpleQueue[tuple[str, int]]


def make(url: str, name: str, ran: Ran) -> Celery:
    """An application as each process has it: its queue has a name of its own."""
    app = TestApp(broker=url, backend="disabled://")
    app.conf.task_queues = (Broadcast("broadcast_tasks"),)
    app.conf.task_routes = {"reload_cache": {"queue": "broadcast_tasks", "exchange": "broadcast_tasks"}}

    @app.task(name="reload_cache", shared=False)
    def reload_cache(number: int) -> None:
        ran.put((name, number))

    return app


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, rabbitmq_url: str) -> str:
    if request.param == "redis":
        return redis_url
    if request.param == "rabbitmq":
        return rabbitmq_url
    return {"memory": f"memory://{tmp_path.name}", "sqlite": f"sqlite:///{tmp_path}/broker.db"}[request.param]


def collect(ran: Ran, count: int) -> list[tuple[str, int]]:
    return sorted(ran.get(timeout=SOON) for _ in range(count))


@pytest.fixture
def client(url: str) -> Iterator[Celery]:
    app = make(url, "client", SimpleQueue())
    yield app
    app.close()


def test_every_worker_runs_it_once(url: str, client: Celery) -> None:
    ran: Ran = SimpleQueue()
    with ExitStack() as stack:
        for name in ("one", "two"):
            app = make(url, name, ran)
            stack.callback(app.close)
            stack.enter_context(start_worker(app, pool="threads", concurrency=1, perform_ping_check=False))
        for number in range(3):
            client.tasks["reload_cache"].delay(number)
        assert collect(ran, 6) == [(name, number) for name in ("one", "two") for number in range(3)]
        client.tasks["reload_cache"].apply_async((3,), countdown=0.2)
        assert collect(ran, 2) == [("one", 3), ("two", 3)]
    assert ran.empty()


def test_nobody_listening_is_no_error_and_leaves_nothing(client: Celery) -> None:
    client.tasks["reload_cache"].delay(1)
    assert sum(stats.ready for stats in client.broker.stats()) == 0


def test_its_alias_selects_it(url: str) -> None:
    ran: Ran = SimpleQueue()
    app = make(url, "one", ran)
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, queues=["broadcast_tasks"]):
        app.tasks["reload_cache"].delay(1)
        assert collect(ran, 1) == [("one", 1)]
        [name] = app.amqp.queues.consume_from
        assert name.startswith("bcast.")
        assert name in {stats.name for stats in app.broker.stats()}
    app.broker.sweep()
    if url.startswith(("redis", "sqlite")):  # RabbitMQ deletes it by itself, and in memory it goes with the process
        assert name not in {stats.name for stats in app.broker.stats()}
    app.close()
