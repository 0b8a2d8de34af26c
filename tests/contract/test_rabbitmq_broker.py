from __future__ import annotations

import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from celery.amqp.consumer import RabbitConsumer
from celery.backends.memory import MemoryStore
from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.brokers.rabbitmq import RabbitBroker
from celery.contrib.testing.contract import BrokerContract, BusContract
from celery.utils.clock import SYSTEM, Clock, FakeClock
from celery.wire.message import Queue


class Marked(RabbitBroker):
    """As a worker has it whose results are in a store of ours: its consumers keep their marks there, it revocations."""

    can = msgspec.structs.replace(RabbitBroker.can, revokes=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.aside = lambda: MemoryStore(f"memory://{url.rpartition('/')[2]}")

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> RabbitConsumer:
        place = self.url.rpartition("/")[2]
        return super().consumer(queues, name=name, store=store or MemoryStore(f"memory://{place}"), weights=weights)


class TestRabbitBroker(BrokerContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, rabbitmq_url: str) -> Callable[..., Broker]:
        return lambda **options: Marked(rabbitmq_url, options={"exact_claims": True, **options}, clock=clock)


class Quorum(Marked):
    """Queues of the kind quorum send before and after they have answered, and again what came back."""

    can = msgspec.structs.replace(Marked.can, ordered=False)


class TestRabbitBrokerWithQuorumQueues(BrokerContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, rabbitmq_url: str) -> Callable[..., Broker]:
        def connect(**options: object) -> Broker:
            broker = Quorum(rabbitmq_url, options={"exact_claims": True, **options}, clock=clock)
            broker.declare([Queue(name, arguments={"x-queue-type": "quorum"}) for name in ("q", "a", "b", "other")])
            return broker

        return connect


class TestRabbitBus(BusContract):
    @pytest.fixture
    def connect(self, rabbitmq_url: str) -> Callable[..., Broker]:
        return lambda **options: RabbitBroker(rabbitmq_url, options=options)

    def test_a_ring_without_a_message_is_over_once_somebody_has_looked(self, broker: Broker) -> None:
        with broker.bus().subscribe(["t"]) as subscription:
            subscription._listener.chime.ring()  # type: ignore[attr-defined]  # as when its connection has ended
            assert subscription.get(0.0) is None
            assert not select.select([subscription.fileno()], [], [], 0.0)[0]
            broker.bus().publish("t", b"1")
            assert select.select([subscription.fileno()], [], [], 30.0)[0]
            assert subscription.get(0.0) == ("t", b"1")
