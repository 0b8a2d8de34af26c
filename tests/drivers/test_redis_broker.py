"""What the Redis broker keeps to beyond the contract: kombu's layout, lost answers, and servers in trouble."""

from __future__ import annotations

import json
import logging
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, group
from celery.backends.redis import RedisStore
from celery.brokers.redis import RedisBroker
from celery.exceptions import BrokerError, ImproperlyConfigured
from celery.utils.clock import FakeClock
from celery.wire.message import Arrival, Delivery, Exchange, Outgoing, Queue, Record, Settlement
from celery.wire.protocol import encode_envelope, task_message
from rig.proxy import Proxy
from rig.redis import RedisServer

DOCUMENTED = ("celeriac.sent.", "celeriac.queues", "celeriac.bindings", "celeriac.consumers", "_kombu.binding.")


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    with RedisBroker(redis_url) as broker:
        yield broker


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


def envelope(task_id: str = "id", **options: Any) -> bytes:
    return encode_envelope(task_message("proj.add", task_id, [1, 2], {}, **options))


def outgoing(task_id: str = "id", queue: str = "q", **fields: Any) -> Outgoing:
    return Outgoing(envelope(task_id), queue, task_id=task_id, **fields)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [json.loads(delivery.envelope)["headers"]["id"] for delivery in deliveries]


# -- kombu's layout ----------------------------------------------------------------------------------------------------


def test_a_ready_message_is_an_entry_of_the_list_that_bears_the_name_of_its_queue(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    sent = [outgoing("first"), outgoing("second")]
    broker.publish(sent[:1])
    broker.publish(sent[1:])
    assert redis_server.ask("LRANGE", "q", 0, -1) == [sent[1].envelope, sent[0].envelope]


@pytest.mark.parametrize(
    ("priority", "key"),
    [
        (None, "q"),
        (0, "q"),
        (2, "q"),
        (3, "q\x06\x163"),
        (5, "q\x06\x163"),
        (6, "q\x06\x166"),
        (9, "q\x06\x169"),
        (200, "q\x06\x169"),
    ],
)
def test_priorities_have_lists_of_their_own(
    broker: RedisBroker, redis_server: RedisServer, priority: int | None, key: str
) -> None:
    broker.publish([outgoing(priority=priority)])
    assert redis_server.ask("LLEN", key) == 1


def test_steps_separator_and_prefix_are_options(redis_url: str, redis_server: RedisServer) -> None:
    options = {"priority_steps": [0, 5], "sep": ":", "global_keyprefix": "shop."}
    with RedisBroker(redis_url, options=options) as broker:
        broker.publish([outgoing("a", priority=4), outgoing("b", priority=9)])
        assert redis_server.ask("LLEN", "shop.q") == redis_server.ask("LLEN", "shop.q:5") == 1
        consumer = broker.consumer(["q"], name="c")
        assert ids(consumer.claim(10)) == ["a", "b"]
        consumer.close()
        assert all(key.startswith("shop.") for key in redis_server.keys("*"))


@pytest.mark.parametrize("steps", [[], [3, 6], [0, 6, 3], [0, 0], ["0"]])
def test_steps_that_make_no_sense(redis_url: str, steps: list[Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="priority_steps"):
        RedisBroker(redis_url, options={"priority_steps": steps})


def test_bindings_are_known_to_users_of_kombu(broker: RedisBroker, redis_server: RedisServer) -> None:
    broker.declare([Queue("q", Exchange("shop"), "key"), Queue("t", Exchange("news", "topic"), "a.*")])
    assert redis_server.ask("SMEMBERS", "_kombu.binding.shop") == [b"key\x06\x16\x06\x16q"]
    [member] = redis_server.ask("SMEMBERS", "_kombu.binding.news")
    assert member.startswith(b"a.*\x06\x16")
    assert member.endswith(b"\x06\x16t")


def test_bindings_of_users_of_kombu_are_followed(broker: RedisBroker, redis_server: RedisServer) -> None:
    redis_server.ask("SADD", "_kombu.binding.shop", "key\x06\x16\x06\x16theirs")
    broker.publish([outgoing("a", "key", exchange="shop")])
    assert redis_server.ask("LLEN", "theirs") == 1


def test_strict_order_of_queues(redis_url: str) -> None:
    with RedisBroker(redis_url, options={"queue_order_strategy": "priority"}) as broker:
        broker.publish(
            [outgoing(f"low{n}", "low") for n in range(3)] + [outgoing(f"high{n}", "high") for n in range(3)]
        )
        consumer = broker.consumer(["high", "low"], name="c")
        assert ids(consumer.claim(4)) == ["high0", "high1", "high2", "low0"]
        consumer.close()


def test_an_original_consumer_may_take_what_came_back(broker: RedisBroker, redis_server: RedisServer) -> None:
    broker.publish([outgoing("a")])
    consumer = broker.consumer(["q"], name="c")
    [delivery] = consumer.claim(1)
    consumer.start([delivery])
    consumer.settle([Settlement(delivery, "requeue")])
    assert redis_server.keys("celeriac.returned.*") == {"celeriac.returned.q"}
    assert redis_server.ask("RPOP", "q") == delivery.envelope
    assert consumer.claim(1) == []
    assert redis_server.keys("celeriac.returned.*") == set()
    consumer.close()


# -- delays ------------------------------------------------------------------------------------------------------------


def test_delayed_messages_are_held_where_a_worker_of_ours_listens(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    consumer = broker.consumer(["q"], name="c")
    broker.publish([outgoing("a", due=time.time() + 1000), outgoing("b", due=time.time() + 1000)])
    assert (redis_server.ask("LLEN", "q"), redis_server.ask("ZCARD", "celeriac.due.q")) == (0, 2)
    assert {entry.task_id for entry in broker.entries("delayed")} == {"a", "b"}
    consumer.close()


def test_delayed_messages_go_to_original_workers_where_nobody_of_ours_listens(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    broker.publish([outgoing("a", due=time.time() + 1000)])
    assert redis_server.ask("LLEN", "q") == 1


def test_two_delayed_messages_of_one_task_are_two(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], name="c")
    broker.publish([outgoing("same", due=time.time() + 1000)] * 2)
    assert broker.stats(["q"])[0].delayed == 2
    assert broker.remove([entry.tag for entry in broker.entries("delayed")]) == 2
    consumer.close()


# -- answers that are lost ---------------------------------------------------------------------------------------------


def test_a_claim_whose_answer_was_lost_is_given_again(
    broker: RedisBroker, proxy: Proxy, redis_server: RedisServer
) -> None:
    broker.publish([outgoing(str(n)) for n in range(5)])
    with RedisBroker(proxy.url(), options={"timeout": 30.0, "socket_timeout": 0.5}) as ours:
        consumer = ours.consumer(["q"], name="c")
        proxy.cut_after("down", 1)
        deliveries = consumer.claim(3)
        assert ids(deliveries) == ["0", "1", "2"]
        assert ids(consumer.claim(3)) == ["3", "4"]
        assert broker.stats(["q"])[0].leased == 5
        consumer.close()


def test_a_publish_whose_answer_was_lost_is_there_once(broker: RedisBroker, proxy: Proxy) -> None:
    with RedisBroker(proxy.url()) as ours:
        ours.publish([outgoing("before")])
        proxy.cut_after("down", 1)
        ours.publish([outgoing("a")])
        proxy.cut_after("down", 1)
        ours.publish([outgoing("b", priority=9), outgoing("c")])
        assert broker.stats(["q"])[0].ready == 4


def test_a_settlement_whose_answer_was_lost_says_what_was_applied(
    broker: RedisBroker, proxy: Proxy, redis_url: str
) -> None:
    store = RedisStore(redis_url)
    broker.publish([outgoing(str(n)) for n in range(3)])
    with RedisBroker(proxy.url()) as ours:
        consumer = ours.consumer(["q"], name="c", store=RedisStore(proxy.url()))
        one, two, three = consumer.claim(3)
        consumer.start([one, two])
        proxy.cut_after("down", 1)
        applied = consumer.settle(
            [
                Settlement(one, records=(Record("r", b"1"),)),
                Settlement(two, "requeue", arrivals=(Arrival("g.", "a:0", b"0", 2),)),
                Settlement(three, messages=(outgoing("next", "other"),)),
            ]
        )
        assert applied == [True, True, True]
        assert broker.stats(["other"])[0].ready == 1
        assert store.get(["r"]) == [b"1"]
        consumer.close()
    store.close()


# -- many and large ----------------------------------------------------------------------------------------------------


def test_it_is_known_since_when_a_message_of_a_large_claim_is_held(redis_url: str) -> None:
    clock = FakeClock(1_700_000_000.0)
    with RedisBroker(redis_url, clock=clock) as broker:
        consumer = broker.consumer(["q"], name="w")
        held = []
        for moment in range(3):
            broker.publish([outgoing(f"{moment}-{number}") for number in range(40)])
            held.append(consumer.claim(40))
            clock.advance(10.0)
        consumer.start(held[0])
        consumer.settle([Settlement(delivery) for delivery in (*held[0], *held[1][1:])])
        broker.publish([outgoing("last")])
        consumer.claim(1)
        found = {entry.task_id: entry.since - 1_700_000_000.0 for entry in broker.entries("leased", ["q"])}
        consumer.close()
    assert found.pop("1-0") == 10.0
    assert found.pop("last") == 30.0
    assert found == {f"2-{number}": 20.0 for number in range(40)}


def test_what_is_left_of_a_large_claim_comes_back_as_it_was(redis_url: str, redis_server: RedisServer) -> None:
    with RedisBroker(redis_url) as broker:
        sent = [outgoing(f"{number:02}") for number in range(40)]
        broker.publish([*sent, outgoing("late", priority=3)])
        broker.publish([Outgoing(b"no envelope", "q", task_id="odd")])
        crashing = broker.consumer(["q"], name="w")
        held = crashing.claim(42)
        crashing.start(held[:5])
        crashing.close()
        consumer = broker.consumer(["q"], name="other")
        again = consumer.claim(42)
        consumer.close()
    assert [delivery.envelope for delivery in again] == [delivery.envelope for delivery in held]
    assert [delivery.deliveries for delivery in again] == [1] * 5 + [0] * 37
    assert [delivery.interrupted for delivery in again] == [True] * 5 + [False] * 37


def test_large_messages_come_a_few_at_a_time(broker: RedisBroker) -> None:
    large = [Outgoing(envelope(str(n), argsrepr="x" * 100_000), "q") for n in range(300)]
    broker.publish(large)
    consumer = broker.consumer(["q"], name="c")
    sizes, got = [], []
    while deliveries := consumer.claim(1000):
        sizes.append(len(deliveries))
        got += ids(deliveries)
        assert len(got) == 300 or consumer.due_in() == 0
    assert got == [str(n) for n in range(300)]
    assert max(sizes) <= 150
    consumer.close()


def test_idle_consumers_do_not_all_ask_for_every_message(redis_url: str, redis_server: RedisServer) -> None:
    broker = RedisBroker(redis_url, clock=FakeClock())  # on which who comes in vain stays away, however slow all is
    idle = [broker.consumer(["q"], name=str(n)) for n in range(10)]
    for consumer in idle:
        assert consumer.claim(1) == []
    before = redis_server.ask("INFO", "commandstats").decode()
    for n in range(40):
        with RedisBroker(redis_server.url()) as producer:
            producer.publish([outgoing(str(n))])
        taken: list[Delivery] = []
        deadline = time.monotonic() + 30.0
        while not taken and time.monotonic() < deadline:
            for consumer in idle:
                if select.select([consumer.fileno()], [], [], 0)[0] or consumer.due_in() == 0:
                    taken += consumer.claim(1)
        assert ids(taken) == [str(n)]
    after = redis_server.ask("INFO", "commandstats").decode()
    asked = calls(after, "evalsha") - calls(before, "evalsha") - 40
    assert asked < 40 * len(idle) / 2
    for consumer in idle:
        consumer.close()
    broker.close()


def calls(stats: str, command: str) -> int:
    """How often the server has carried out *command*."""
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", stats)
    return int(found[1]) if found else 0


# -- servers and keys in trouble ---------------------------------------------------------------------------------------


def test_scripts_are_sent_again_when_the_server_has_forgotten_them(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    consumer = broker.consumer(["q"], name="c")
    broker.publish([outgoing("a"), outgoing("b")])
    for _ in range(2):
        redis_server.ask("SCRIPT", "FLUSH")
        [delivery] = consumer.claim(1)
        redis_server.ask("SCRIPT", "FLUSH")
        assert consumer.settle([Settlement(delivery)]) == [True]
    redis_server.ask("SCRIPT", "FLUSH")
    broker.publish([outgoing("c")])
    assert ids(consumer.claim(1)) == ["c"]
    consumer.close()


def test_a_queue_whose_key_holds_something_else_stops_no_other(
    broker: RedisBroker, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.ask("SET", "bad", "text")
    consumer = broker.consumer(["bad", "q"], name="c")
    broker.publish([outgoing("a")])
    with caplog.at_level(logging.ERROR):
        assert ids(consumer.claim(10)) == ["a"]
        consumer.claim(10)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["The key 'bad' is no list of messages"]
    with pytest.raises(BrokerError, match="bad"):
        broker.publish([outgoing("b"), outgoing("c", "bad")])
    assert broker.stats(["bad", "q"])[1].ready == 0
    consumer.close()


def test_workers_finish_on_a_server_that_is_out_of_memory(server: Callable[[str], Path], tmp_path: Path) -> None:
    redis = RedisServer(server("redis"), tmp_path)
    try:
        store = RedisStore(redis.url())
        with RedisBroker(redis.url()) as broker:
            consumer = broker.consumer(["q"], name="c", store=store)
            broker.publish([outgoing(str(n)) for n in range(4)])
            first = consumer.claim(1)
            redis.ask("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(BrokerError, match="maxmemory") as caught:
                broker.publish([outgoing("no")])
            assert caught.value.temporary
            with pytest.raises(BrokerError, match="maxmemory"):
                broker.publish([outgoing("no"), outgoing("no", priority=9)])
            rest = consumer.claim(10)
            assert len(rest) == 3
            assert consumer.start([*first, *rest]) == ["ok"] * 4
            assert consumer.renew()
            consumer.release(rest[2:])
            settlements = [
                Settlement(first[0], records=(Record("r", b"1"),)),
                Settlement(rest[0], "requeue", delay=100.0),
                Settlement(rest[1], "dead", reason="x"),
            ]
            assert consumer.settle(settlements) == [True] * 3
            assert store.get(["r"]) == [b"1"]
            [stats] = broker.stats(["q"])
            assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (1, 0, 1, 1)
            redis.ask("CONFIG", "SET", "maxmemory", "0")
            broker.publish([outgoing("yes")])
            consumer.close()
        store.close()
    finally:
        redis.stop()


def test_a_server_that_evicts_keys_is_warned_of_and_refused_by_the_strict(
    server: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis = RedisServer(server("redis"), tmp_path, maxmemory_policy="allkeys-lru")
    try:
        with caplog.at_level(logging.WARNING), RedisBroker(redis.url()) as broker:
            broker.publish([outgoing("a")])
            broker.connect()
        [record] = caplog.records
        assert "maxmemory-policy allkeys-lru" in record.getMessage()
        with pytest.raises(BrokerError, match="allkeys-lru"), RedisBroker(redis.url(), options={"strict": True}):
            pass
    finally:
        redis.stop()


# -- leases, on the server's clock -------------------------------------------------------------------------------------


def test_leases_run_by_the_clock_of_the_server(redis_url: str, redis_server: RedisServer) -> None:
    with RedisBroker(redis_url, options={"lease": 20.0}) as broker:
        consumer = broker.consumer(["q"], name="c")
        deadline = float(
            redis_server.ask("ZSCORE", "celeriac.consumers", redis_server.ask("ZRANGE", "celeriac.consumers", 0, 0)[0])
        )
        seconds, micros = map(int, redis_server.ask("TIME"))
        assert 0 < deadline - (seconds * 1000 + micros / 1000) <= 20_000
        consumer.close()


def test_age_of_the_oldest_message_is_read_from_its_delivery_tag(broker: RedisBroker) -> None:
    app = Celery(broker="memory://")
    sent = time.time()
    message = app.amqp.outgoing("proj.add", (1, 2), queue="q")
    broker.publish([message])
    oldest = broker.stats(["q"])[0].oldest
    assert oldest is not None
    assert 0.0 <= oldest <= time.time() - sent + 1.0


def test_a_life_leaves_nothing_behind(redis_url: str, redis_server: RedisServer) -> None:
    clock = FakeClock()
    with RedisBroker(redis_url, clock=clock) as broker:
        consumer = broker.consumer(["q"], name="c")
        broker.publish([outgoing(str(n)) for n in range(8)] + [outgoing("later", due=clock.time() + 5)])
        deliveries = consumer.claim(8)
        consumer.start(deliveries[:6])
        verbs = ["done", "requeue", "dead", "requeue", "done", "done"]
        consumer.settle(
            [
                Settlement(delivery, verb, delay=5.0 if n == 3 else 0.0)  # type: ignore[arg-type]
                for n, (delivery, verb) in enumerate(zip(deliveries, verbs, strict=False))
            ]
        )
        consumer.release(deliveries[6:])
        broker.revoke(["x"], ttl=10.0)
        clock.advance(20.0)
        broker.replay([entry.tag for entry in broker.entries("dead")])
        rest = consumer.claim(10)
        assert len(rest) == 6
        consumer.settle([Settlement(delivery) for delivery in rest])
        assert consumer.claim(10) == []
        consumer.close()
        broker.revoke(["y"], ttl=-1.0)
        left = redis_server.keys()
        assert not [key for key in left if not key.startswith(DOCUMENTED)]
        assert all(redis_server.ask("TTL", key) > 0 for key in left if key.startswith("celeriac.sent."))


# -- many at once ------------------------------------------------------------------------------------------------------


def requests(redis_server: RedisServer) -> int:
    """How many scripts the server was asked to run since the last `CONFIG RESETSTAT`."""
    stats = redis_server.ask("INFO", "commandstats").decode()
    return sum(int(calls) for calls in re.findall(r"cmdstat_evalsha:calls=(\d+)", stats))


@pytest.mark.parametrize("how", ["block", "group", "chunks"])
def test_many_tasks_are_sent_in_few_requests(redis_url: str, redis_server: RedisServer, how: str) -> None:
    with Celery("bulk", broker=redis_url, backend=redis_url, set_as_current=False) as app:
        add = app.task(lambda x, y: x + y, name="add", shared=False)
        add.delay(0, 0)  # connects, and makes the scripts known
        redis_server.ask("CONFIG", "RESETSTAT")
        if how == "block":
            with app.bulk():
                for number in range(2000):
                    add.apply_async((number, number), priority=number % 2 * 9)
        elif how == "group":
            group(add.s(number, number) for number in range(2000)).apply_async()
        else:
            add.chunks(zip(range(4000), range(4000), strict=True), 2).apply_async()
        ready = redis_server.ask("LLEN", "celery") + redis_server.ask("LLEN", "celery\x06\x169")
        assert ready == 2001
        assert requests(redis_server) <= 8
