"""Connections to a Redis server that break between any two bytes of a request or its answer, or that come late.

The driver alone, through a proxy; what the server has is asked for on a way of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import redis

from celery.backends.store import Store
from celery.brokers.base import Broker, Consumer
from celery.drivers import broker_class, store_class
from celery.exceptions import BrokerError
from celery.wire.message import Delivery, Outgoing, Record, Settlement
from rig.proxy import Proxy, Way
from rig.redis import RedisServer

pytestmark = pytest.mark.crash
PATIENT = {"timeout": 20.0, "socket_timeout": 1.0}
"""Of a broker whose first attempt is held up: given up after a second, and those that follow have the rest."""
strides = pytest.mark.parametrize(
    "stride",
    [pytest.param(11, id="short"), pytest.param(1, id="full", marks=[pytest.mark.chaos, pytest.mark.timeout(600)])],
)
ways = pytest.mark.parametrize("way", ["up", "down"])
Connect = Callable[..., Broker]


def envelope(number: int) -> bytes:
    return b'{"body": "", "headers": {"id": "%d", "task": "t"}, "properties": {"delivery_tag": "%d"}}' % (
        number,
        number,
    )


def messages(first: int, count: int) -> list[Outgoing]:
    return [Outgoing(envelope(number), "q", task_id=str(number)) for number in range(first, first + count)]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.envelope.split(b'"id": "')[1].split(b'"')[0]) for delivery in deliveries]


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """`connect(proxy)`: a broker through the proxy; `connect()`: one on a way of its own."""
    made: list[Broker] = []

    def connect(proxy: Proxy | None = None, **options: Any) -> Broker:
        url = proxy.url() if proxy is not None else redis_url
        made.append(broker_class(url)(url, options=options))
        return made[-1]

    yield connect
    for broker in made:
        broker.close()


@pytest.fixture
def direct(connect: Connect) -> Broker:
    return connect()


def drain(broker: Broker) -> list[int]:
    """Everything that is ready, settled."""
    with_leave = broker.consumer(["q"], name="reader")
    found: list[int] = []
    while deliveries := with_leave.claim(100):
        found += numbers(deliveries)
        with_leave.settle([Settlement(delivery) for delivery in deliveries])
    with_leave.close()
    return found


def size_of(proxy: Proxy, way: Way, action: Callable[[], object]) -> int:
    before = proxy.count[way]
    action()
    return proxy.count[way] - before


@ways
@strides
@pytest.mark.parametrize("count", [1, 3])
def test_a_publish_is_carried_out_once(
    connect: Connect, direct: Broker, proxy: Proxy, way: Way, stride: int, count: int
) -> None:
    """Matrix row 22."""
    broker = connect(proxy)
    broker.publish(messages(0, count))
    size, sent = size_of(proxy, way, lambda: broker.publish(messages(count, count))), 2 * count
    for cut in range(0, size + 1, stride if way == "up" else 1):
        proxy.cut_after(way, cut)
        broker.publish(messages(sent, count))
        sent += count
    assert drain(direct) == list(range(sent))


@strides
def test_a_publish_to_several_queues_and_times_is_carried_out_once(
    connect: Connect, direct: Broker, proxy: Proxy, stride: int
) -> None:
    broker = connect(proxy)
    direct.consumer(["q", "r"], name="listener").close()

    def send(number: int) -> None:
        due = time.time() + 3600
        broker.publish(
            [
                Outgoing(envelope(number), "q", task_id=str(number)),
                Outgoing(envelope(number), "r", priority=9, task_id=str(number)),
                Outgoing(b"wrapped %d" % number, "q", due=due, task_id=str(number)),
            ]
        )

    send(0)
    size, sent = size_of(proxy, "up", lambda: send(1)), 2
    for cut in range(0, size + 1, stride):
        proxy.cut_after("up", cut)
        send(sent)
        sent += 1
    assert {stats.name: (stats.ready, stats.delayed) for stats in direct.stats(["q", "r"])} == {
        "q": (sent, sent),
        "r": (sent, 0),
    }


@ways
@strides
def test_a_claim_is_carried_out_once(connect: Connect, direct: Broker, proxy: Proxy, way: Way, stride: int) -> None:
    """Matrix row 3, where the worker lives: what was claimed is what it gets, however often it has to ask."""
    consumer = connect(proxy).consumer(["q"], name="claimer")
    direct.publish(messages(0, 2))
    claimed: list[int] = []

    def claim() -> None:
        deliveries = consumer.claim(2)
        claimed.extend(numbers(deliveries))
        assert consumer.start(deliveries) == ["ok"] * len(deliveries)

    size, sent = size_of(proxy, way, claim), 2
    for cut in range(0, size + 1, stride):
        direct.publish(messages(sent, 2))
        proxy.cut_after(way, cut)
        claim()
        sent += 2
    assert claimed == list(range(sent))
    [stats] = direct.stats(["q"])
    assert (stats.ready, stats.leased) == (0, sent)
    consumer.close()


@strides
def test_a_worker_that_dies_while_it_reads_what_it_claimed_loses_nothing(
    connect: Connect, direct: Broker, proxy: Proxy, stride: int
) -> None:
    """Matrix row 3: after each byte of the answer. It is the first that the server hears from it, and the last."""
    direct.publish(messages(0, 2))
    probe = connect(proxy).consumer(["q"], name="probe")
    size = size_of(proxy, "down", lambda: probe.claim(2))
    probe.close()
    sweeper = connect(lease=0.05)
    for cut in range(0, size + 1, stride):
        doomed = connect(proxy, lease=0.05, timeout=0.1).consumer(["q"], name="doomed")
        proxy.cut_after("down", cut, then=proxy.refuse)
        with pytest.raises(BrokerError):
            claim_for_ever(doomed)
        deadline = time.monotonic() + 30
        while direct.stats(["q"])[0].ready < 2:
            sweeper.sweep()
            assert time.monotonic() < deadline
        [first, second] = direct.entries("ready", ["q"])
        assert (first.task_id, first.deliveries, second.task_id, second.deliveries) == ("0", 0, "1", 0)
        proxy.heal()
        with suppress(
            BrokerError
        ):  # it is taken for dead; whether it can still say so within its timeout does not matter
            doomed.close()
    assert drain(direct) == [0, 1]


def claim_for_ever(consumer: Consumer) -> None:
    """The first answer may come whole, if the connection is cut behind it."""
    while True:
        consumer.claim(2)


@pytest.fixture
def store(proxy: Proxy, redis_url: str) -> Iterator[Store]:
    store = store_class(redis_url)(proxy.url())
    yield store
    store.close()


@ways
@strides
def test_a_settlement_is_carried_out_once(
    connect: Connect, direct: Broker, store: Store, proxy: Proxy, redis_url: str, way: Way, stride: int
) -> None:
    """Matrix rows 4 and 5: result, follow-up and the end of the message, all of it or nothing, and once."""
    consumer = connect(proxy).consumer(["q"], name="settler", store=store)
    listener = redis.Redis.from_url(redis_url)
    heard = listener.pubsub(ignore_subscribe_messages=True)
    heard.psubscribe("result-*")
    assert heard.get_message(timeout=5) is None  # it listens
    direct.publish(messages(0, 2))
    held = consumer.claim(1)
    consumer.start(held)
    sent = 2

    def settle() -> None:
        """End the one that runs, start the next one."""
        nonlocal held
        [number] = numbers(held)
        following = consumer.claim(1)
        record = Record(f"result-{number}", b'{"status": "SUCCESS", "result": %d}' % number)
        follow_up = Outgoing(envelope(number), "follow-ups", task_id=str(number))
        nonlocal armed
        if armed is not None:
            proxy.cut_after(way, armed)
        applied, verdicts = consumer.settle_and_start(
            [Settlement(held[0], records=(record,), messages=(follow_up,))], following
        )
        assert (applied, verdicts) == ([True], ["ok"])
        held = following

    armed: int | None = None
    claim_size = size_of(proxy, way, lambda: consumer.claim(0))
    size = size_of(proxy, way, settle) - claim_size
    for cut in range(0, size + 1, stride if way == "up" else 1):
        direct.publish(messages(sent, 1))
        sent += 1
        armed = cut
        settle()
    ended = sent - 1
    told = []
    while (said := heard.get_message(timeout=0.2 if len(told) >= ended else 20)) is not None:
        told.append(int(said["channel"].split(b"-")[1]))
    assert told == list(range(ended))
    assert listener.llen("follow-ups") == ended
    assert listener.exists(*(f"result-{number}" for number in range(ended))) == ended
    [stats] = direct.stats(["q"])
    assert (stats.ready, stats.leased) == (0, 1)
    consumer.close()
    heard.close()
    listener.close()


@ways
@strides
def test_a_step_of_a_chain_is_carried_out_once(
    connect: Connect, direct: Broker, store: Store, proxy: Proxy, way: Way, stride: int
) -> None:
    """Matrix rows 3 to 5, where settlement, follow-up, claim and start are one request."""
    consumer = connect(proxy).consumer(["q"], name="runner", store=store)
    direct.publish(messages(0, 1))
    [held] = consumer.claim(1)
    assert consumer.start([held]) == ["ok"]
    done = 0

    def step() -> None:
        nonlocal held, done
        consumer.foresee(1, claim=2)
        record = Record(f"result-{done}", b'{"status": "SUCCESS", "result": %d}' % done)
        [follow_up] = messages(done + 1, 1)
        assert consumer.settle([Settlement(held, records=(record,), messages=(follow_up,))]) == [True]
        [held] = consumer.claim(2)
        assert consumer.start([held]) == ["ok"]
        done += 1
        assert (numbers([held]), held.deliveries) == ([done], 0)

    for cut in range(0, size_of(proxy, way, step) + 1, stride):
        proxy.cut_after(way, cut)
        step()
    found = store.get([f"result-{number}" for number in range(done + 1)])
    assert [value is not None for value in found] == [True] * done + [False]
    [stats] = direct.stats(["q"])
    assert (stats.ready, stats.leased) == (0, 1)
    assert consumer.settle([Settlement(held, "requeue")]) == [True]
    assert [entry.deliveries for entry in direct.entries("ready", ["q"])] == [1]
    consumer.close()


@ways
def test_what_is_given_back_is_given_back_once(connect: Connect, direct: Broker, proxy: Proxy, way: Way) -> None:
    consumer = connect(proxy).consumer(["q"], name="giver")
    direct.publish(messages(0, 3))
    size = size_of(proxy, way, lambda: consumer.release(consumer.claim(3)))
    for cut in range(0, size + 1, 17 if way == "up" else 3):
        held = consumer.claim(3)
        assert numbers(held) == [0, 1, 2]
        proxy.cut_after(way, cut)
        consumer.release(held)
    assert drain(direct) == [0, 1, 2]
    consumer.close()


# A request that was sent again on another connection may still be on its way. The server carries it out when it comes.


def until(server: RedisServer, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        server.command("PING")


def evals(server: RedisServer) -> int:
    """How many scripts the server has run."""
    stats = server.ask("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
    return int(lines[0].split("calls=")[1].split(",")[0]) if lines else 0


@pytest.fixture
def late_claim(connect: Connect, direct: Broker, proxy: Proxy) -> Iterator[Consumer]:
    """A consumer whose first claim of two, in vain, is still on its way a second time."""
    consumer = connect(proxy, **PATIENT).consumer(["q"], name="late")
    consumer.claim(1)
    proxy.strand()
    assert consumer.claim(2) == []
    direct.publish(messages(0, 6))
    yield consumer
    consumer.close()


@pytest.mark.parametrize("settled", [True, False])
def test_a_claim_that_comes_late_takes_nothing_away(
    late_claim: Consumer, direct: Broker, redis_server: RedisServer, proxy: Proxy, settled: bool
) -> None:
    first = late_claim.claim(2)
    assert late_claim.start(first) == ["ok", "ok"]
    if settled:
        assert late_claim.settle([Settlement(delivery) for delivery in first]) == [True, True]
    second = late_claim.claim(2)
    before = evals(redis_server)
    proxy.heal()
    until(redis_server, lambda: evals(redis_server) > before)
    third = late_claim.claim(9)
    assert numbers([*first, *second, *third]) == [0, 1, 2, 3, 4, 5]
    rest = [*second, *third] if settled else [*first, *second, *third]
    assert late_claim.settle([Settlement(delivery) for delivery in rest]) == [True] * len(rest)
    [stats] = direct.stats(["q"])
    assert (stats.ready, stats.leased) == (0, 0)


def test_a_claim_that_comes_late_to_one_that_has_not_asked_again_is_answered_then(
    late_claim: Consumer, redis_server: RedisServer, proxy: Proxy
) -> None:
    before = evals(redis_server)
    proxy.heal()
    until(redis_server, lambda: evals(redis_server) > before)
    assert numbers([*late_claim.claim(9), *late_claim.claim(9)]) == [0, 1, 2, 3, 4, 5]


def test_a_settlement_that_comes_late_changes_nothing(
    connect: Connect, direct: Broker, redis_server: RedisServer, proxy: Proxy
) -> None:
    consumer = connect(proxy, **PATIENT).consumer(["q"], name="late")
    direct.publish(messages(0, 3))
    held = consumer.claim(3)
    consumer.start(held)
    proxy.strand()
    assert consumer.settle([Settlement(held[0], "requeue"), Settlement(held[1], "dead", reason="late")]) == [True, True]
    [again] = consumer.claim(1)
    assert consumer.settle([Settlement(held[2]), Settlement(again)]) == [True, True]
    before = evals(redis_server)
    proxy.heal()
    until(redis_server, lambda: evals(redis_server) > before)
    [stats] = direct.stats(["q"])
    assert (stats.ready, stats.leased, stats.dead) == (0, 0, 1)
    consumer.close()


def test_a_publish_that_comes_late_is_there_once(
    connect: Connect, direct: Broker, redis_server: RedisServer, proxy: Proxy
) -> None:
    broker = connect(proxy, **PATIENT)
    broker.publish(messages(0, 1))
    proxy.strand()
    broker.publish(messages(1, 1))
    broker.publish(messages(2, 1))
    before = evals(redis_server)
    proxy.heal()
    until(redis_server, lambda: evals(redis_server) > before)
    assert drain(direct) == [0, 1, 2]


def test_a_farewell_that_comes_late_hurts_nobody(
    connect: Connect, direct: Broker, redis_server: RedisServer, proxy: Proxy
) -> None:
    broker = connect(proxy, **PATIENT)
    direct.publish(messages(0, 2))
    consumer = broker.consumer(["q"], name="leaving")
    assert len(consumer.claim(2)) == 2
    proxy.strand()
    consumer.close()
    heir = direct.consumer(["q"], name="leaving")
    before = evals(redis_server)
    proxy.heal()
    until(redis_server, lambda: evals(redis_server) > before)
    assert numbers(heir.claim(2)) == [0, 1]
    assert heir.renew()
    heir.close()
