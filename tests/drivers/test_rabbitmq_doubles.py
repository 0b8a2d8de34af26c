"""A message that was sent twice, because its sender's connection broke before the confirm: once where that is seen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from celery import Celery
from celery.backends.memory import MemoryStore
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.wire.message import Delivery, Outgoing, Settlement
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ

OPTIONS = {"delay_queue_type": "classic", "lease": 60.0}


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url, options=OPTIONS)
    yield broker
    broker.close()


@pytest.fixture
def make_consumer(broker: RabbitBroker, rabbitmq_vhost: str) -> Iterator[Callable[[], Consumer]]:
    """Workers with one result store."""
    made: list[Consumer] = []
    store = MemoryStore(f"memory://doubles-{rabbitmq_vhost}")

    def make() -> Consumer:
        made.append(broker.consumer(["q"], name=f"c{len(made)}", store=store))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


def message(task_id: str) -> Outgoing:
    envelope = {
        "body": "Ym9keQ==",
        "headers": {"id": task_id, "task": "t"},
        "properties": {"delivery_mode": 2, "body_encoding": "base64", "correlation_id": task_id},
        "content-type": "application/data",
        "content-encoding": "binary",
    }
    return Outgoing(json.dumps(envelope).encode(), "q", task_id=task_id)


def collect(consumer: Consumer, count: int, seconds: float = 30.0) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.claim(count - len(found), timeout=0.5)
    return found


@pytest.fixture
def twice(broker: RabbitBroker, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[Callable[[str], None]]:
    """Have a message sent twice: the first confirm does not reach its sender."""
    with Proxy(rabbitmq_server.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
        sender = RabbitBroker(url, options={**OPTIONS, "timeout": 60})
        broker.publish([message("before")])
        broker.purge("q")

        def send(task_id: str) -> None:
            sender.publish([message("before")])
            broker.purge("q")
            proxy.swallow("down")
            thread = threading.Thread(target=sender.publish, args=([message(task_id)],))
            thread.start()
            wait_until(lambda: broker.stats(["q"])[0].ready == 1)
            proxy.reset()  # before it heals: the confirm may come only now
            proxy.heal()
            thread.join(60)
            assert not thread.is_alive()
            assert broker.stats(["q"])[0].ready == 2

        yield send
        sender.close()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [json.loads(delivery.envelope)["headers"]["id"] for delivery in deliveries]


def has_come(broker: RabbitBroker, consumer: Consumer) -> None:
    """The other copy has come to *consumer*, which has not handed it out."""

    def has_gone() -> bool:
        assert consumer.claim(1, timeout=0.2) == []
        return broker.stats(["q"])[0].ready == 0

    wait_until(has_gone)
    assert collect(consumer, 1, seconds=1) == []


def test_both_copies_come_to_one_worker(
    twice: Callable[[str], None], make_consumer: Callable[[], Consumer], broker: RabbitBroker
) -> None:
    twice("a")
    consumer = make_consumer()
    [first] = collect(consumer, 1)
    assert ids([first]) == ["a"]
    has_come(broker, consumer)
    assert "celeriac_sent" not in first.envelope.decode(), "tasks do not see how they came"
    consumer.settle([Settlement(first)])
    assert broker.stats(["q"])[0].ready == 0


def test_the_other_copy_comes_while_the_first_runs(
    twice: Callable[[str], None], make_consumer: Callable[[], Consumer], broker: RabbitBroker
) -> None:
    twice("a")
    runner, other = make_consumer(), make_consumer()
    [first] = collect(runner, 1)
    assert runner.start([first]) == ["ok"]
    runner_rest = collect(runner, 1, seconds=0.1)  # what it was sent besides goes back by and by
    assert runner_rest == []
    has_come(broker, other)
    assert collect(other, 1, seconds=3) == []
    runner.settle([Settlement(first)])
    has_come(broker, other)


def test_the_other_copy_comes_when_the_first_has_ended(
    twice: Callable[[str], None], make_consumer: Callable[[], Consumer], broker: RabbitBroker
) -> None:
    asked: list[tuple[str, float]] = []

    def ended(task_id: str, since: float) -> bool:
        asked.append((task_id, since))
        return True

    broker.ended = ended
    began = time.time()
    twice("a")
    runner = broker.consumer(["q"], name="without marks")
    [first] = collect(runner, 1)
    runner.settle([Settlement(first)])
    runner.close()
    has_come(broker, make_consumer())
    [(task_id, since)] = asked
    assert task_id == "a"
    assert began - 0.01 <= since <= time.time()
    assert broker.stats(["q"])[0].ready == 0


def test_a_copy_of_what_never_arrived_runs(
    twice: Callable[[str], None], make_consumer: Callable[[], Consumer], broker: RabbitBroker
) -> None:
    """Nobody has started it, and there is no result: it is the only one."""
    twice("a")
    runner = broker.consumer(["q"], name="without marks")
    runner.settle([Settlement(collect(runner, 1)[0])])
    runner.close()
    assert ids(collect(make_consumer(), 1)) == ["a"]


def test_results_tell_whether_a_task_has_ended(rabbitmq_url: str, redis_url: str) -> None:
    with Celery("jobs", broker=rabbitmq_url, backend=redis_url) as app:
        now = time.time()
        app.backend.store_result("a", 1, "SUCCESS")
        app.backend.store_result("b", None, "STARTED")
        assert app.broker.ended("a", now)
        assert not app.broker.ended("a", now + 60), "that was an earlier task of this id"
        assert not app.broker.ended("b", now)
        assert not app.broker.ended("nobody", now)
