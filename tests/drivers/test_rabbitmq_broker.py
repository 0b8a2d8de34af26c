"""What RabbitMQ's broker does beyond the contract: delays, priorities, messages of the machinery, what it refuses."""

from __future__ import annotations

import gc
import itertools
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery.amqp.address import trouble
from celery.amqp.bus import _Listener
from celery.amqp.channel import Channel
from celery.amqp.consumer import RabbitConsumer
from celery.amqp.exact import settle_in
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.exceptions import BrokerError
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Exchange, Outgoing, Queue, Settlement
from rig.rabbitmq import RabbitMQ

Connect = Callable[..., RabbitBroker]


@pytest.fixture
def connect(rabbitmq_url: str) -> Iterator[Connect]:
    made: list[RabbitBroker] = []

    def connect(**options: Any) -> RabbitBroker:
        made.append(RabbitBroker(rabbitmq_url, options={"delay_queue_type": "classic", **options}))
        return made[-1]

    yield connect
    for broker in made:
        broker.close()


@pytest.fixture
def broker(connect: Connect) -> RabbitBroker:
    return connect()


@pytest.fixture
def consumer(broker: RabbitBroker) -> Iterator[RabbitConsumer]:
    consumer = broker.consumer(["q"], name="first")
    yield consumer
    consumer.close()


def collect(consumer: Consumer, count: int, seconds: float = 30.0) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.claim(count - len(found), timeout=0.5)
    return found


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.envelope for delivery in deliveries]


def test_delayed_messages_come_when_they_are_due(broker: RabbitBroker, consumer: Consumer) -> None:
    now = time.time()
    due = {b"later": now + 2.5, b"soon": now + 1, b"now": now}
    broker.publish([Outgoing(b"now", "q"), *(Outgoing(body, "q", due=due[body]) for body in (b"later", b"soon"))])
    came = {}
    for _ in due:
        [delivery] = collect(consumer, 1)
        came[delivery.envelope] = time.time()
    assert set(came) == set(due)
    assert all(due[body] <= came[body] < due[body] + 30 for body in due)


@pytest.mark.parametrize(
    ("kind", "key", "pattern"), [("direct", "k", "k"), ("topic", "a.b", "a.*"), ("fanout", "", "")]
)
def test_delayed_messages_are_routed_by_their_exchange(
    broker: RabbitBroker, consumer: Consumer, kind: Any, key: str, pattern: str
) -> None:
    broker.declare([Queue("q", Exchange("ex", kind), pattern)])
    due = time.time() + 1
    broker.publish([Outgoing(b"m", key, exchange="ex", due=due)])
    assert bodies(collect(consumer, 1)) == [b"m"]
    assert time.time() >= due, "it has waited"


def test_a_queue_gets_no_delayed_message_of_another_whose_name_ends_alike(
    broker: RabbitBroker, consumer: Consumer
) -> None:
    broker.publish([Outgoing(b"other", "other.q", due=time.time() + 1), Outgoing(b"mine", "q", due=time.time() + 1)])
    assert bodies(collect(consumer, 1)) == [b"mine"]
    wait_until(lambda: broker.stats(["other.q"])[0].ready == 1)
    assert collect(consumer, 1, seconds=1) == []


def test_requeued_messages_wait_at_the_broker(broker: RabbitBroker, consumer: Consumer) -> None:
    broker.publish([Outgoing(b"m", "q")])
    [first] = collect(consumer, 1)
    started = time.monotonic()
    assert consumer.settle([Settlement(first, "requeue", delay=1.0)]) == [True]
    assert bodies(collect(consumer, 1)) == [b"m"]
    assert time.monotonic() - started >= 1


def test_messages_of_the_machinery_come_first(broker: RabbitBroker, connect: Connect) -> None:
    broker.publish([Outgoing(b"a", "q"), Outgoing(b"inner", "q", inner=True)])
    exact = connect(exact_claims=True)
    consumer = exact.consumer(["q"], name="exact")
    assert bodies(consumer.claim(2)) == [b"inner", b"a"]
    consumer.close()


def test_exact_claims_wait_for_a_server_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ready = FakeClock(), [3, 2, 1, 0]

    class Slow:
        usable, number = True, 1

        def call(self, data: bytes, *expected: int) -> Any:
            clock.advance(0.4)
            return SimpleNamespace(short=str, number=lambda size: ready.pop(0) if ready else 0)

    monkeypatch.setattr("celery.amqp.exact.time", SimpleNamespace(monotonic=clock.monotonic))
    settle_in(Slow, {"q": deque()}, lambda seconds: False, 5)  # type: ignore[arg-type]  # a part of a channel
    assert ready == []


def test_exact_claims_of_a_process_that_is_slow_give_nothing_back(
    broker: RabbitBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = connect(exact_claims=True).consumer(["q"], name="exact")

    def slowly(*args: Any) -> None:
        settle_in(*args)
        consumer._intake._claimed_at -= 60
        consumer._intake._slim()

    monkeypatch.setattr("celery.amqp.intake.settle_in", slowly)
    broker.publish([Outgoing(b"a", "q"), Outgoing(b"b", "q")])
    assert bodies(consumer.claim(2)) == [b"a", b"b"]
    consumer.close()


def test_priorities_of_a_queue_that_has_them(broker: RabbitBroker, connect: Connect) -> None:
    broker.declare([Queue("p", max_priority=9)])
    broker.publish([Outgoing(b"low", "p", priority=1), Outgoing(b"high", "p", priority=8)])
    consumer = connect(exact_claims=True).consumer(["p"], name="exact")
    assert bodies(consumer.claim(2)) == [b"high", b"low"]
    consumer.close()


def test_what_nobody_claims_goes_to_others(broker: RabbitBroker, connect: Connect) -> None:
    """A worker whose slots are busy does not sit on what the server has pushed to it, and keeps its connection."""
    hoarder = connect(timeout=100).consumer(["q"], name="hoarder")
    assert hoarder.claim(4, timeout=1.0) == []
    broker.publish([Outgoing(b"%d" % number, "q") for number in range(4)])
    other = connect().consumer(["q"], name="other")
    assert sorted(bodies(collect(other, 4))) == [b"0", b"1", b"2", b"3"]
    hoarder.close()
    other.close()


def test_who_has_waited_for_long_gets_what_comes(
    broker: RabbitBroker, consumer: RabbitConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not given back because the last claim is long ago: whoever has nothing to claim waits."""
    monkeypatch.setattr("celery.amqp.intake.IDLE", 30.0)
    for number in range(3):
        assert consumer.claim(10) == []
        consumer._intake._claimed_at -= 60
        broker.publish([Outgoing(b"%d" % number, "q")])
        readable, _, _ = select.select([consumer.fileno()], [], [], 30)
        assert readable
        wait_until(lambda: consumer.counts()[1]["q"] == 1)  # read by the thread that gives back what nobody claims
        [came] = collect(consumer, 1)
        assert not came.redelivered
        consumer.settle([Settlement(came, "done")])


def test_a_queue_that_is_there_with_other_arguments(broker: RabbitBroker) -> None:
    broker.declare([Queue("q", arguments={"x-max-length": 5})])
    with pytest.raises(BrokerError, match=r"queue 'q'.*other arguments.*Declare it as it is"):
        broker.declare([Queue("q", arguments={"x-max-length": 6})])


def test_a_queue_that_was_deleted_is_made_again(broker: RabbitBroker, rabbitmq_server: RabbitMQ) -> None:
    broker.publish([Outgoing(b"a", "gone")])
    rabbitmq_server.control("delete_queue", "-p", broker.url.rpartition("/")[2], "gone")
    broker.publish([Outgoing(b"b", "gone")])
    assert broker.stats(["gone"])[0].ready == 1


def test_what_a_full_queue_refuses_is_told_also_where_another_was_deleted(
    connect: Connect, rabbitmq_server: RabbitMQ
) -> None:
    broker = connect(timeout=3.0)
    broker.declare([Queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})])
    broker.publish([Outgoing(b"a", "gone"), Outgoing(b"a", "full")])
    rabbitmq_server.control("delete_queue", "-p", broker.url.rpartition("/")[2], "gone")
    with pytest.raises(BrokerError, match="refused 1 of 2 messages"):
        broker.publish([Outgoing(b"b", "gone"), Outgoing(b"b", "full")])
    assert [stats.ready for stats in broker.stats(["gone", "full"])] == [1, 1]


def test_an_exchange_without_a_queue(broker: RabbitBroker) -> None:
    broker.declare([Queue("q", Exchange("ex", "direct"), "k")])
    with pytest.raises(BrokerError, match=r"No queue takes.*'ex'.*'other'"):
        broker.publish([Outgoing(b"m", "other", exchange="ex")])


def test_what_is_settled_without_a_connection_is_acknowledged_when_it_comes_again(
    broker: RabbitBroker, consumer: RabbitConsumer, rabbitmq_server: RabbitMQ
) -> None:
    broker.publish([Outgoing(b"done", "q"), Outgoing(b"runs", "q")])
    done, runs = collect(consumer, 2)
    consumer.start([done, runs])
    rabbitmq_server.control("close_all_connections", "-p", broker.url.rpartition("/")[2], "test")
    wait_until(lambda: consumer._intake.channel is None)
    assert consumer.settle([Settlement(done)]) == [True]

    def have_come() -> bool:
        assert consumer.claim(1, timeout=0.2) == [], "neither is handed out again"
        return not (consumer._finished or consumer._orphans)

    wait_until(have_come)
    assert collect(consumer, 1, seconds=1) == []
    assert consumer.settle([Settlement(runs)]) == [True]
    consumer.close()
    assert broker.stats(["q"])[0].ready == 0


def test_whoever_hears_broadcasts_is_woken_where_its_connection_ends_as_soon_as_it_is_there(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits without an end, and listens again."""
    listen, times = _Listener._listen, itertools.count()

    def unlucky(listener: _Listener, channel: Channel) -> None:
        listen(listener, channel)
        if next(times) < 2:
            channel.connection.fail(trouble("It breaks."))
            channel.connection._thread.join(30)

    monkeypatch.setattr(_Listener, "_listen", unlucky)
    heard: list[Any] = []
    with broker.bus().subscribe(["news"]) as subscription:
        hearing = threading.Thread(target=lambda: heard.append(subscription.get()))
        hearing.start()
        deadline = time.monotonic() + 30
        while hearing.is_alive() and time.monotonic() < deadline:
            broker.bus().publish("news", b"x")
            hearing.join(0.1)
        subscription.close()
        hearing.join(30)
    assert [came and came[0] for came in heard] == ["news"]


def test_a_closed_consumer_is_gone_at_once(broker: RabbitBroker) -> None:
    """With its descriptors: not only when the garbage is collected."""
    broker.consumer(["q"], name="first").close()  # its queues are there now
    consumer = broker.consumer(["q"], name="short-lived")
    assert consumer.claim(1) == []
    seen = weakref.ref(consumer)
    gc.disable()
    try:
        consumer.close()
        del consumer
        assert seen() is None
    finally:
        gc.enable()
