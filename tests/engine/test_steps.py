"""Steps of users: made, started and stopped in their order, with a worker that is all there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from celery import Celery, bootsteps
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils import uuid
from rig.redis import RedisServer


@pytest.fixture
def app() -> Iterator[Celery]:
    app = TestApp(broker=f"memory://{uuid()}")
    yield app
    app.close()


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_they_come_and_go_in_the_order_of_what_they_require(app: Celery) -> None:
    seen: list[Any] = []

    class First(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

        def __init__(self, worker: Any, **options: Any) -> None:
            seen.append(("made first", options["queues"], worker.app is app))

        def start(self, worker: Any) -> None:
            seen.append(("start first", worker.pool is not None, worker.timer is worker.consumer.timer, worker.hub))

        def stop(self, worker: Any) -> None:
            seen.append("stop first")

    class Second(bootsteps.StartStopStep):
        requires = (First,)

        def create(self, worker: Any) -> Any:
            seen.append("create second")

        def start(self, worker: Any) -> None:
            seen.append("start second")
            worker.timer.call_after(0.0, seen.append, ("called",))

        def close(self, worker: Any) -> None:
            seen.append("close second")

        def stop(self, worker: Any) -> None:
            seen.append("stop second")
            raise RuntimeError("harms nothing")

    class Unwanted(bootsteps.StartStopStep):
        def include_if(self, worker: Any) -> bool:
            return False

        def start(self, worker: Any) -> None:
            seen.append("never")

    class OfConsumer(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks", "celery.worker.consumer.events:Events")

        def start(self, c: Any) -> None:
            seen.append(("consumer", c.hostname, c.app is app, c.controller.consumer is c, c.strategies["celery.map"]))

        def stop(self, c: Any) -> None:
            seen.append("consumer stops")

    app.steps["worker"].update({Second, First, Unwanted})
    app.steps["consumer"].add(OfConsumer)
    with start_worker(
        app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0, hostname="w@h", queues=["celery"]
    ):
        wait_until(lambda: "called" in seen)
    order = [item[0] if isinstance(item, tuple) else item for item in seen]
    assert order == [
        "made first", "create second", "start first", "start second", "consumer", "called",
        "consumer stops", "close second", "stop second", "stop first",
    ]  # fmt: skip
    assert seen[0] == ("made first", ["celery"], True)
    assert seen[2] == ("start first", True, True, None)
    assert seen[4][:4] == ("consumer", "w@h", True, True)


def test_what_has_an_object_starts_and_stops_it(app: Celery) -> None:
    seen: list[str] = []

    class Thing:
        def start(self) -> None:
            seen.append("start")

        def stop(self) -> None:
            seen.append("stop")

    class Holder(bootsteps.StartStopStep):
        def create(self, worker: Any) -> Any:
            return Thing()

    app.steps["worker"].add(Holder)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0) as worker:
        assert worker.blueprint.human_state() == "running"
        assert [step.alias for step in worker.steps] == ["Holder"]
    assert seen == ["start", "stop"]
    assert worker.blueprint.human_state() == "terminating"


def test_a_consumer_step_gets_messages_of_its_own(redis_server: RedisServer, redis_url: str) -> None:
    seen: list[Any] = []
    queue = kombu.Queue("custom", kombu.Exchange("custom"), "key")

    class Custom(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> list[Any]:
            return [kombu.Consumer(channel, queues=[queue], callbacks=[self.handle], accept=["json"])]

        def handle(self, body: Any, message: Any) -> None:
            seen.append(body)
            message.ack()

    app = TestApp(broker=redis_url, backend=redis_url)
    app.steps["consumer"].add(Custom)
    add = app.task(lambda x, y: x + y, name="add", shared=False)
    with start_worker(app, pool="threads", perform_ping_check=False, shutdown_timeout=60.0):
        with app.producer_or_acquire() as producer:
            producer.publish({"hello": 1}, exchange=queue.exchange, routing_key="key", declare=[queue])
        assert add.delay(1, 2).get(timeout=30) == 3
        wait_until(lambda: seen)
    assert seen == [{"hello": 1}]
    app.pool.force_close_all()
    app.close()


def test_circles_are_no_order() -> None:
    class A(bootsteps.Step):
        pass

    class B(bootsteps.Step):
        requires = (A,)

    A.requires = (B,)
    with pytest.raises(Exception, match=r"(?i)cycle|circle|step"):
        bootsteps.Blueprint([A, B]).apply(object())
