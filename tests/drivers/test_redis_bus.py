"""The bus of Redis: channels and lists where kombu has them, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery.brokers.base import Slot
from celery.brokers.redis import RedisBroker
from celery.redis import bus as bus_module
from celery.wire.message import Exchange, Queue
from rig.redis import RedisServer

EXCHANGE = "reply.celery.pidbox"
BINDINGS = f"_kombu.binding.{EXCHANGE}"


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    with RedisBroker(redis_url) as broker:
        yield broker


def members(server: RedisServer, key: str = BINDINGS) -> set[str]:
    return {raw.decode() for raw in server.ask("SMEMBERS", key)}


def channels(server: RedisServer) -> set[str]:
    return {raw.decode() for raw in server.ask("PUBSUB", "CHANNELS")}


@pytest.mark.parametrize(
    ("options", "control", "event"),
    [
        ({}, "/0.celery.pidbox", "/0.celeryev/worker.online"),
        ({"global_keyprefix": "shop:"}, "shop:/0.celery.pidbox", "shop:/0.celeryev/worker.online"),
        ({"fanout_prefix": False}, "celery.pidbox", "celeryev/worker.online"),
        ({"fanout_prefix": "x{db}y:", "global_keyprefix": "p"}, "px0y:celery.pidbox", "px0y:celeryev/worker.online"),
        ({"fanout_patterns": False}, "/0.celery.pidbox", "/0.celeryev"),
    ],
)
def test_channels_are_named_as_kombu_names_them(
    redis_url: str, redis_server: RedisServer, options: dict[str, Any], control: str, event: str
) -> None:
    with RedisBroker(redis_url, options=options) as broker:
        bus = broker.bus()
        with bus.subscribe(["celery.pidbox", "celeryev/worker.online"]) as subscription:
            deadline = time.monotonic() + 30
            while channels(redis_server) != {control, event}:  # those of tests before this one may be on their way out
                assert time.monotonic() < deadline
            bus.publish("celery.pidbox", b"1")
            bus.publish("celeryev/worker.online", b"2")
            assert [(subscription.get(30.0) or ("", b""))[1] for _ in range(2)] == [b"1", b"2"]


def test_a_box_is_bound_as_kombu_binds_a_queue(broker: RedisBroker, redis_server: RedisServer) -> None:
    with broker.bus().open_box(EXCHANGE, "me"):
        assert members(redis_server) == {f"me\x06\x16\x06\x16me.{EXCHANGE}"}
        assert redis_server.ask("ZSCORE", "_kombu.binding_deadlines", EXCHANGE)


def test_what_original_workers_push_is_read(broker: RedisBroker, redis_server: RedisServer) -> None:
    with broker.bus().open_box(EXCHANGE, "me") as box:
        redis_server.ask("LPUSH", f"me.{EXCHANGE}", "first")
        redis_server.ask("LPUSH", f"me.{EXCHANGE}", "second")
        assert [box.get(10.0), box.get(10.0)] == [b"first", b"second"]


@pytest.mark.parametrize("queue", [f"you.{EXCHANGE}", "a.name.of.its.own"])
def test_what_is_posted_goes_where_original_clients_read(
    broker: RedisBroker, redis_server: RedisServer, queue: str
) -> None:
    redis_server.ask(
        "SADD", BINDINGS, f"you\x06\x16\x06\x16{queue}", "other\x06\x16\x06\x16other", "no binding", "you\x06\x16"
    )
    broker.bus().post(EXCHANGE, "you", b"answer", 300.0)
    assert redis_server.ask("LRANGE", queue, 0, -1) == [b"answer"]
    assert redis_server.keys("other") == set()


def test_names_follow_the_prefix_and_the_separator(redis_url: str, redis_server: RedisServer) -> None:
    options = {"global_keyprefix": "shop:", "sep": "|"}
    with RedisBroker(redis_url, options=options) as broker, broker.bus().open_box(EXCHANGE, "me") as box:
        assert members(redis_server, f"shop:{BINDINGS}") == {f"me||me.{EXCHANGE}"}
        broker.bus().post(EXCHANGE, "me", b"1", 60.0)
        assert redis_server.keys(f"*me.{EXCHANGE}") == {f"shop:me.{EXCHANGE}"}
        assert box.get(10.0) == b"1"


def test_an_answer_that_nobody_reads_ends_by_itself(broker: RedisBroker, redis_server: RedisServer) -> None:
    with broker.bus().open_box(EXCHANGE, "me"):
        broker.bus().post(EXCHANGE, "me", b"1", 300.0)
        assert 200_000 < redis_server.ask("PTTL", f"me.{EXCHANGE}") <= 300_000
        broker.bus().post(EXCHANGE, "me", b"2", 0.001)
        deadline = time.monotonic() + 30
        while redis_server.keys(f"me.{EXCHANGE}"):
            assert time.monotonic() < deadline


def test_a_closed_box_leaves_nothing(broker: RedisBroker, redis_server: RedisServer) -> None:
    with broker.bus().open_box(EXCHANGE, "me"):
        broker.bus().post(EXCHANGE, "me", b"unread", 300.0)
    broker.bus().post(EXCHANGE, "me", b"late", 300.0)
    assert redis_server.keys() == set()


def test_others_stay_bound_when_a_box_is_closed(broker: RedisBroker, redis_server: RedisServer) -> None:
    redis_server.ask("SADD", BINDINGS, "you\x06\x16\x06\x16you")
    broker.bus().open_box(EXCHANGE, "me").close()
    assert members(redis_server) == {"you\x06\x16\x06\x16you"}
    assert redis_server.ask("ZSCORE", "_kombu.binding_deadlines", EXCHANGE)


def test_the_box_of_a_reader_that_died_is_forgotten(broker: RedisBroker, redis_server: RedisServer) -> None:
    bus = broker.bus()
    bus.open_box(EXCHANGE, "dead", Slot(expires=0.01))
    deadline = time.monotonic() + 30
    while any(member.startswith("dead") for member in members(redis_server)):
        assert time.monotonic() < deadline
        bus.open_box(EXCHANGE, "next").close()
    assert redis_server.keys() == set()


def test_a_box_that_is_read_stays_for_longer_than_its_time(
    broker: RedisBroker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 0.0
    monkeypatch.setattr(bus_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    bus, boxes = broker.bus(), f"celeriac.boxes.{EXCHANGE}"
    with bus.open_box(EXCHANGE, "me", Slot(expires=600.0)) as box:
        [member] = members(redis_server)
        for _ in range(3):
            # WHEN most of its time has passed, here and for the server
            ahead += 400.0
            nearer = float(redis_server.ask("ZSCORE", boxes, member)) - 400_000
            redis_server.ask("ZADD", boxes, nearer, member)

            # THEN reading gives it all of that again
            assert box.get(0.01) is None
            assert float(redis_server.ask("ZSCORE", boxes, member)) >= nearer + 390_000
            bus.open_box(EXCHANGE, "other").close()
        bus.post(EXCHANGE, "me", b"still here", 60.0)
        assert box.get(30.0) == b"still here"


def test_bindings_that_kombu_would_forget_are_forgotten(broker: RedisBroker, redis_server: RedisServer) -> None:
    redis_server.ask("SADD", BINDINGS, "dead\x06\x16\x06\x16dead")
    redis_server.ask("ZADD", "_kombu.binding_deadlines", 1, EXCHANGE)
    with broker.bus().open_box(EXCHANGE, "me"):
        assert members(redis_server) == {f"me\x06\x16\x06\x16me.{EXCHANGE}"}


def test_bindings_that_stay_in_kombu_stay(broker: RedisBroker, redis_server: RedisServer) -> None:
    redis_server.ask("SADD", BINDINGS, "you\x06\x16\x06\x16you")
    redis_server.ask("SADD", f"_kombu.binding_permanent.{EXCHANGE}", "you\x06\x16\x06\x16you")
    redis_server.ask("ZADD", "_kombu.binding_deadlines", 1, EXCHANGE)
    with broker.bus().open_box(EXCHANGE, "me"):
        assert len(members(redis_server)) == 2


def test_a_box_outlives_its_connection(broker: RedisBroker, redis_server: RedisServer) -> None:
    with broker.bus().open_box(EXCHANGE, "me") as box:
        got: list[bytes | None] = []
        reader = threading.Thread(target=lambda: got.append(box.get(60.0)))
        reader.start()
        deadline = time.monotonic() + 30
        while b"cmd=brpop" not in redis_server.ask("CLIENT", "LIST"):
            assert time.monotonic() < deadline
        redis_server.ask("CLIENT", "KILL", "TYPE", "normal")
        broker.bus().post(EXCHANGE, "me", b"1", 60.0)
        reader.join(30.0)
        assert got == [b"1"]


def test_declared_bindings_have_the_separator(redis_url: str, redis_server: RedisServer) -> None:
    with RedisBroker(redis_url, options={"sep": "|"}) as broker:
        broker.declare([Queue("q", Exchange("ex"), "key")])
        assert members(redis_server, "_kombu.binding.ex") == {"key||q"}
