"""Messages that come back more often than their queue, of the kind quorum, puts up with.

From RabbitMQ 4 on every such queue has a limit of 20; older ones have one by a policy, or by their arguments.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery.amqp.frames import Delivered, Properties
from celery.amqp.marks import UNMARKED, Mark
from celery.amqp.messages import clean, is_direct
from celery.amqp.returns import Returns
from celery.backends.memory import MemoryStore
from celery.backends.store import Store
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.wire.message import Delivery, Outgoing, Queue, Settlement
from rig.rabbitmq import RabbitMQ

Declare = Callable[..., Consumer]


@pytest.fixture
def store(rabbitmq_vhost: str) -> MemoryStore:
    return MemoryStore(f"memory://returns-{rabbitmq_vhost}")


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url, options={"delay_queue_type": "classic"})
    yield broker
    broker.close()


@pytest.fixture
def policy(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> None:
    """What RabbitMQ 4 does by itself."""
    rabbitmq_server.control("set_policy", "-p", rabbitmq_vhost, "limit", "^q$", '{"delivery-limit": 20}')


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages come back when they are given back, and not because this process stood still."""
    monkeypatch.setattr("celery.amqp.intake.IDLE", 60.0)


@pytest.fixture
def declare(broker: RabbitBroker) -> Iterator[Declare]:
    """`declare(store, **arguments)`: a consumer of the queue `q`, of the kind quorum, which has these arguments."""
    made: list[Consumer] = []

    def declare(store: Store | None, **arguments: Any) -> Consumer:
        queue = Queue("q", arguments={"x-queue-type": "quorum", **arguments})
        broker.declare([queue])
        broker.plan = lambda: [queue]  # type: ignore[method-assign]
        made.append(broker.consumer(["q", "other"], name="test", store=store))
        return made[-1]

    yield declare
    for consumer in made:
        consumer.close()


def claim(consumer: Consumer, seconds: float = 30.0) -> list[Delivery]:
    deadline = time.monotonic() + seconds
    while not (found := consumer.claim(1, timeout=0.5)) and time.monotonic() < deadline:
        pass
    return found


def wait_until(condition: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def test_what_is_given_back_again_and_again_stays(
    broker: RabbitBroker, store: MemoryStore, declare: Declare, policy: None
) -> None:
    consumer = declare(store)
    broker.publish([Outgoing(b"m", "q")])
    for turn in range(45):
        [delivery] = claim(consumer)
        assert delivery.envelope == b"m", turn
        assert (delivery.deliveries, delivery.interrupted) == (0, False), "nobody has started it"
        consumer.release([delivery])
    [delivery] = claim(consumer)
    assert consumer.start([delivery]) == ["ok"]
    assert consumer.settle([Settlement(delivery)]) == [True]
    assert not consumer.claim(1, timeout=0.5), "it was there once"


def test_what_has_come_back_often_stays_with_a_consumer_that_rests(
    broker: RabbitBroker, store: MemoryStore, declare: Declare, policy: None
) -> None:
    broker.declare([Queue("other")])
    consumer = declare(store)
    broker.publish([Outgoing(b"m", "q")])
    for _ in range(10):
        consumer.release(claim(consumer))
    broker.publish([Outgoing(b"n", "other")])
    wait_until(lambda: consumer.claim(0) or sum(consumer.counts()[1].values()) == 2, "both have come")
    wait_until(lambda: not broker.stats(["other"])[0].consumers, "it rests")
    assert consumer.counts()[1] == {"q": 1, "other": 0}
    bodies = []
    while len(bodies) < 2:
        [delivery] = claim(consumer)
        bodies.append(delivery.envelope)
        consumer.start([delivery])
        consumer.settle([Settlement(delivery)])
    assert sorted(bodies) == [b"m", b"n"]


def test_without_a_store_a_limit_that_is_set_is_left_to_the_server(
    broker: RabbitBroker, declare: Declare, never_idle: None
) -> None:
    """It is all that stops a message that kills every worker."""
    consumer = declare(None, **{"x-delivery-limit": 2})
    broker.publish([Outgoing(b"m", "q")])
    turns = 0
    while found := claim(consumer, seconds=5.0):
        turns += 1
        consumer.release(found)
    assert turns == 3


def test_where_nothing_may_be_sent_it_runs_as_it_is(
    broker: RabbitBroker,
    store: MemoryStore,
    allow: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    never_idle: None,
) -> None:
    queue = Queue("q", arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    broker.declare([queue])
    broker.publish([Outgoing(b"m", "q")])
    near = RabbitBroker(allow(".*", "^$", ".*"))
    near.plan = lambda: [queue]  # type: ignore[method-assign]
    consumer = near.consumer(["q"], name="narrow", store=store)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            consumer.release(claim(consumer))
        [delivery] = claim(consumer)
    assert delivery.envelope == b"m"
    assert len([text for text in caplog.messages if "cannot be sent anew" in text]) == 1
    consumer.start([delivery])
    assert consumer.settle([Settlement(delivery)]) == [True]
    consumer.close()
    near.close()


def test_queues_of_ours_have_no_limit(
    broker: RabbitBroker, store: MemoryStore, declare: Declare, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str
) -> None:
    consumer = declare(store)
    broker.publish([Outgoing(b"m", "q")])
    [delivery] = claim(consumer)
    consumer.start([delivery])
    consumer.settle([Settlement(delivery, "dead", 0.0, "why")])
    limits = {
        name: "1000000000" in arguments
        for name, arguments in rabbitmq_server.queues("name", "arguments", vhost=rabbitmq_vhost)
    }
    ours = {name: free for name, free in limits.items() if name.endswith("q")}
    assert ours == {"q": False, "celeriac.inner.q": True, "celeriac.dead.q": True}


def came(count: object = None) -> Delivered:
    headers = {} if count is None else {"x-delivery-count": count, "x-acquired-count": 30}
    return Delivered("", 1, True, "", "q", Properties(headers=headers), b"m")


@pytest.mark.parametrize(
    ("limits", "marked", "source", "count", "mark", "worn"),
    [
        ({}, True, "q", 9, UNMARKED, False),
        ({}, True, "q", 10, UNMARKED, True),
        ({}, False, "q", 10, UNMARKED, True),
        ({}, True, "q", None, UNMARKED, False),
        ({}, True, "q", "many", UNMARKED, False),
        ({}, True, "q", 10, Mark(1, "somebody"), False),
        ({}, True, "celeriac.inner.q", 10, UNMARKED, False),
        ({"q": 5}, True, "q", 1, UNMARKED, False),
        ({"q": 5}, True, "q", 2, UNMARKED, True),
        ({"q": 0}, True, "q", 1, UNMARKED, True),
        ({"q": 5}, False, "q", 4, UNMARKED, False),
        ({"q": 1000}, True, "q", 10, UNMARKED, True),
        ({"q": -1}, True, "q", 100, UNMARKED, False),
    ],
)
def test_when_a_message_is_sent_anew(
    limits: dict[str, int], source: str, count: object, mark: Mark, *, marked: bool, worn: bool
) -> None:
    assert Returns(limits, marked=marked).is_worn(came(count), source, mark) is worn


def test_what_servers_count_is_not_for_tasks() -> None:
    assert clean({"x-acquired-count": 1, "x-delivery-count": 1, "mine": 2}) == {"mine": 2}
    assert not is_direct(came(1))
