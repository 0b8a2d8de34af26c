"""Permits of whose giving or whose end the consumer was not told: the server has done it, or it has not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from celery.brokers.redis import RedisBroker
from celery.exceptions import BrokerError
from celery.redis.consumer import RedisConsumer
from celery.wire.message import Outgoing, Permit, Settlement
from rig.proxy import Proxy
from rig.redis import RedisServer

TWO = (Permit("k", 2),)
ONE_OF_OTHERS = (Permit("x", 5),)
PATIENCE = 30.0
"""Seconds for a request that is to be answered."""


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as made:
        yield made


@pytest.fixture
def broker(proxy: Proxy) -> Iterator[RedisBroker]:
    made = RedisBroker(proxy.url(), options={"timeout": PATIENCE})
    yield made
    made.close()


@pytest.fixture
def consumer(broker: RedisBroker) -> Iterator[RedisConsumer]:
    broker.publish([Outgoing(b"%d" % number, "q", task_id=str(number)) for number in range(6)])
    made = broker.consumer(["q"], name="c")
    yield made
    made.close()


def taken(server: RedisServer, key: str = "k") -> int:
    return int(server.ask("GET", f"celeriac.taken.{key}") or 0)


@contextmanager
def lost(proxy: Proxy, broker: RedisBroker, way: str) -> Iterator[None]:
    """What is sent that way in the block is gone, as if the other side had died after it; that is an error soon."""
    proxy.swallow(way)  # type: ignore[arg-type]
    broker.link.timeout = 0.5
    with pytest.raises(BrokerError):
        yield
    broker.link.timeout = PATIENCE
    proxy.heal()
    proxy.reset()


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_start_of_which_nothing_was_heard(
    redis_server: RedisServer, proxy: Proxy, broker: RedisBroker, consumer: RedisConsumer, way: str
) -> None:
    a, b, c, d = consumer.claim(4)
    needs = {a.tag: TWO, b.tag: TWO, c.tag: ONE_OF_OTHERS, d.tag: TWO}
    with lost(proxy, broker, way):
        consumer.start([a, b, c], (), needs)
    assert consumer.start([a, b, c, d], (), needs) == ["ok", "ok", "ok", "parked"]
    assert (taken(redis_server), taken(redis_server, "x")) == (2, 1)
    assert consumer.settle([Settlement(a), Settlement(b), Settlement(c)]) == [True] * 3
    assert (taken(redis_server), taken(redis_server, "x")) == (1, 0), "one is kept for the one that waits"
    [woken] = [delivery for delivery in consumer.claim(1) if delivery.envelope == d.envelope]
    assert consumer.start([woken], (), {woken.tag: TWO}) == ["ok"]
    assert consumer.settle([Settlement(woken)]) == [True]
    assert taken(redis_server) == 0


@pytest.mark.parametrize("way", ["down", "up"])
def test_an_end_of_which_nothing_was_heard(
    redis_server: RedisServer, proxy: Proxy, broker: RedisBroker, consumer: RedisConsumer, way: str
) -> None:
    a, b, c = consumer.claim(3)
    needs = {a.tag: TWO, b.tag: TWO, c.tag: ONE_OF_OTHERS}
    assert consumer.start([a, b, c], (), needs) == ["ok"] * 3
    with lost(proxy, broker, way):
        consumer.settle([Settlement(a), Settlement(c)])
    consumer.settle([Settlement(a), Settlement(b), Settlement(c)])  # together with one that is new
    assert (taken(redis_server), taken(redis_server, "x")) == (0, 0)


def test_what_may_have_started_is_parked_by_nobody(
    redis_server: RedisServer, proxy: Proxy, broker: RedisBroker, consumer: RedisConsumer
) -> None:
    [a] = consumer.claim(1)
    with lost(proxy, broker, "down"):
        consumer.start([a], (), {a.tag: TWO})
    assert consumer.park([a], {a.tag: (Permit("k", 1),)}) == ["ok"], "it has its place, and the only one"
    consumer.release([a])
    assert taken(redis_server) == 0


def test_all_places_are_free_when_a_consumer_in_doubt_leaves(
    redis_server: RedisServer, proxy: Proxy, broker: RedisBroker, consumer: RedisConsumer
) -> None:
    a, b = consumer.claim(2)
    with lost(proxy, broker, "down"):
        consumer.start([a, b], (), {a.tag: TWO, b.tag: TWO})
    consumer.close()
    assert redis_server.ask("KEYS", "celeriac.taken.*") == []
    assert redis_server.ask("KEYS", "celeriac.permits.*") == []
    assert broker.stats(["q"])[0].ready == 6
