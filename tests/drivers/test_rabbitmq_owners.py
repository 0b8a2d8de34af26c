"""A consumer that is cut off owns what it has started for as long as it gives signs of life.

The queue here is of the kind quorum; `engine/test_rabbitmq_owners.py` has whole workers, and a classic one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from celery.backends.memory import MemoryStore
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.wire.message import Delivery, Outgoing, Queue, Settlement
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ

LEASE = 2.0
OPTIONS = {"delay_queue_type": "classic", "lease": LEASE}


class Scene(NamedTuple):
    """*first* is behind a proxy, *heir* is not; both consume from one queue, with one result store."""

    broker: RabbitBroker
    proxy: Proxy
    first: Consumer
    heir: Consumer


@pytest.fixture
def scene(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[Scene]:
    store = MemoryStore(f"memory://owners-{rabbitmq_vhost}")
    with Proxy(rabbitmq_server.port) as proxy:
        broker = RabbitBroker(rabbitmq_server.url(rabbitmq_vhost), options=OPTIONS)
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
        far = RabbitBroker(url, options={**OPTIONS, "timeout": 2})
        broker.declare([Queue("q", arguments={"x-queue-type": "quorum"})])
        first, heir = (one.consumer(["q"], name=name, store=store) for one, name in ((far, "first"), (broker, "heir")))
        made = Scene(broker, proxy, first, heir)
        yield made
        proxy.heal()
        made.first.close()
        made.heir.close()
        far.close()
        broker.close()


def collect(
    consumer: Consumer, count: int, seconds: float = 30.0, meanwhile: Callable[[], object] = bool
) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        meanwhile()
        found += consumer.claim(count - len(found), timeout=0.2)
    return found


def started(scene: Scene, body: bytes) -> Delivery:
    """Started by the first one, which is cut off then."""
    scene.broker.publish([Outgoing(body, "q")])
    [delivery] = collect(scene.first, 1)
    assert scene.first.start([delivery]) == ["ok"]
    scene.proxy.refuse()
    scene.proxy.reset()
    return delivery


def test_what_its_owner_ends_is_over(scene: Scene) -> None:
    delivery = started(scene, b"m")
    assert collect(scene.heir, 1, 2 * LEASE, scene.first.renew) == []
    assert scene.first.settle([Settlement(delivery)]) == [True]
    scene.proxy.heal()
    assert collect(scene.heir, 1, 2 * LEASE, scene.first.renew) == []
    [stats] = scene.broker.stats(["q"])
    assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


def test_an_owner_that_comes_back_goes_on(scene: Scene) -> None:
    delivery = started(scene, b"m")
    assert collect(scene.heir, 1, LEASE, scene.first.renew) == []
    scene.proxy.heal()
    assert collect(scene.first, 1, 2 * LEASE, scene.first.renew) == []
    assert scene.first.settle([Settlement(delivery, "requeue")]) == [True]
    [again] = collect(scene.heir, 1)
    assert (again.envelope, again.deliveries, again.interrupted) == (b"m", 1, False)
    assert scene.heir.settle([Settlement(again)]) == [True]
    assert collect(scene.heir, 1, LEASE) == []


def test_what_a_silent_owner_had_started_was_interrupted(scene: Scene) -> None:
    delivery = started(scene, b"m")
    [taken] = collect(scene.heir, 1)
    assert (taken.envelope, taken.deliveries, taken.interrupted, taken.redelivered) == (b"m", 1, True, True)
    assert scene.heir.start([taken]) == ["ok"]
    assert scene.first.settle([Settlement(delivery, "requeue")]) == [False], "it is another's now"
    assert scene.heir.settle([Settlement(taken)]) == [True]
    scene.proxy.heal()
    assert collect(scene.first, 1, LEASE) == []
    assert collect(scene.heir, 1, LEASE) == []
