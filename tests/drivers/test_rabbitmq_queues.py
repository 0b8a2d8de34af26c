"""Queues of RabbitMQ and their arguments: what expires, where dead letters go, how they are bound and purged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Exchange as KombuExchange
from kombu import Queue as KombuQueue
from kombu import binding

from celery.amqp import delays, frames
from celery.amqp.delays import horizon
from celery.app.queues import Queues
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.wire.message import Binding, Delivery, Exchange, Outgoing, Queue, Settlement
from rig.rabbitmq import RabbitMQ


@pytest.fixture
def broker(rabbitmq_url: str) -> Iterator[RabbitBroker]:
    broker = RabbitBroker(rabbitmq_url, options={"delay_queue_type": "classic"})
    yield broker
    broker.close()


@pytest.fixture
def connect(rabbitmq_url: str) -> Iterator[Callable[[], RabbitBroker]]:
    made: list[RabbitBroker] = []

    def connect() -> RabbitBroker:
        made.append(RabbitBroker(rabbitmq_url, options={"delay_queue_type": "classic"}))
        return made[-1]

    yield connect
    for broker in made:
        broker.close()


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
        time.sleep(0.05)


def headers_of(broker: RabbitBroker, queue: str) -> dict[str, Any]:
    """Those of the next message of *queue*, as anybody sees them."""

    def get(channel: Any) -> Any:
        data = frames.method(channel.number, frames.BASIC_GET, b"\0\0", frames.short(queue), b"\1")
        return channel.call(data, frames.BASIC_GET_OK, frames.BASIC_GET_EMPTY)

    return dict(broker.link.control(get).properties.headers or {})


def test_kombus_queues_mean_the_same_here() -> None:
    topics = KombuExchange("topics", "topic")
    given = KombuQueue("q", [binding(topics, "b.#"), binding(topics, "a.#")], expires=10, message_ttl=0.5, max_length=3)
    queues = Queues([given], default_exchange=KombuExchange("main", "direct"))
    found = queues.wire("q")
    assert found.arguments == {"x-expires": 10_000, "x-message-ttl": 500, "x-max-length": 3}
    assert found.bindings == (
        Binding(Exchange("topics", "topic"), "a.#"),
        Binding(Exchange("topics", "topic"), "b.#"),
    )
    assert [(one.name, one.exchange.name, one.routing_key) for one in queues.apart()] == [
        ("q", "main", "q"),
        ("q", "topics", "a.#"),
        ("q", "topics", "b.#"),
    ]


def test_a_queue_expires_and_what_is_delayed_for_it_finds_the_next_one(
    broker: RabbitBroker, connect: Callable[[], RabbitBroker], rabbitmq_server: RabbitMQ, rabbitmq_vhost: str
) -> None:
    worker = connect()
    for seconds in (10, 30, 60):
        broker.declare([Queue("brief", arguments={"x-expires": 3000})])
        due = time.time() + seconds
        broker.publish([Outgoing(b"later", "brief", due=due)])
        # Asked by a client it would count as used.
        wait_until(lambda: ["brief"] not in rabbitmq_server.queues("name", vhost=rabbitmq_vhost))
        worker.declare([Queue("brief", arguments={"x-expires": 120_000})])
        if time.time() < due - 1:
            break
        # Too slow, it was due before there was a queue again. Another one, for later.
        rabbitmq_server.control("delete_queue", "-p", rabbitmq_vhost, "brief")
    consumer = worker.consumer(["brief"], name="late")
    [delivery] = collect(consumer, 1, seconds=90)
    assert delivery.envelope == b"later"
    consumer.settle([Settlement(delivery)])
    consumer.close()


def test_what_a_server_dead_letters_and_what_a_worker_rejects_end_in_one_place(broker: RabbitBroker) -> None:
    arguments = {"x-dead-letter-exchange": "graves", "x-dead-letter-routing-key": "g"}
    broker.declare(
        [
            Queue("grave", Exchange("graves", "direct"), "g"),
            Queue("q", Exchange("main", "direct"), "k", arguments=arguments),
            Queue("short", arguments={**arguments, "x-message-ttl": 1}),
        ]
    )
    broker.publish([Outgoing(b"expired", "short")])
    wait_until(lambda: broker.stats(["grave"])[0].ready == 1)
    theirs = headers_of(broker, "grave")
    broker.publish([Outgoing(b"rejected", "k", exchange="main", task_id="t")])
    consumer = broker.consumer(["q"], name="c")
    [delivery] = collect(consumer, 1)
    assert consumer.settle([Settlement(delivery, "dead", reason="rotten")]) == [True]
    consumer.close()
    assert broker.entries("dead", ["q"]) == [], "its queue has a place of its own for that"
    ours = headers_of(broker, "grave")
    assert ours["celeriac_reason"] == "rotten"
    [death] = ours["x-death"]
    assert {**death, "time": None} == {
        "count": 1,
        "reason": "rejected",
        "queue": "q",
        "time": None,
        "exchange": "main",
        "routing-keys": ["k"],
    }
    assert set(death) == set(theirs["x-death"][0])
    assert {name for name in ours if name.startswith("x-first")} == {n for n in theirs if n.startswith("x-first")}


@pytest.mark.parametrize("exchange", ["nowhere", "unbound"])
def test_a_dead_letter_exchange_that_leads_nowhere_loses_nothing(broker: RabbitBroker, exchange: str) -> None:
    broker.declare(
        [
            Queue("other", Exchange("unbound", "direct"), "other"),
            Queue("q", arguments={"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "k"}),
        ]
    )
    broker.publish([Outgoing(b"m", "q")])
    consumer = broker.consumer(["q"], name="c")
    consumer.settle([Settlement(collect(consumer, 1)[0], "dead", reason="rotten")])
    consumer.close()
    [entry] = broker.entries("dead", ["q"])
    assert (entry.envelope, entry.reason) == (b"m", "rotten")


def test_an_exchange_of_headers(broker: RabbitBroker) -> None:
    broker.declare([Queue("q", Exchange("picky", "headers"), "", binding_arguments={"lang": "py", "x-match": "all"})])
    envelope = {
        "body": "Ym9keQ==",
        "headers": {"lang": "py", "id": "t"},
        "properties": {"delivery_mode": 2, "body_encoding": "base64"},
        "content-type": "application/data",
        "content-encoding": "binary",
    }
    broker.publish([Outgoing(json.dumps(envelope).encode(), "any", exchange="picky")])
    assert broker.stats(["q"])[0].ready == 1


def test_what_stands_between_delays_and_exchanges_expires(
    broker: RabbitBroker, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str
) -> None:
    broker.declare([Queue("q", Exchange("topics", "topic"), "#")])
    now = time.time()
    for seconds in (5, 20_000, 10**6, 10**7):
        broker.publish([Outgoing(b"m", "a.b", exchange="topics", due=now + seconds)])
    rows = rabbitmq_server.queues("name", "arguments", vhost=rabbitmq_vhost)
    between = [arguments for name, arguments in rows if name.startswith(delays.THROUGH)]
    for seconds in delays.HORIZONS:
        assert sum(f"{seconds * 1000}" in text for text in between) == 1
    assert sum("x-expires" in text for text in between) == 3
    assert len(between) == 4, "for ever, if it has to wait for longer than a queue can stay"


def test_horizons() -> None:
    assert [horizon(seconds) for seconds in (0, 1800, 1801, 43_200, 24 * 86_400, 24 * 86_400 + 1)] == [
        3600,
        3600,
        86_400,
        86_400,
        48 * 86_400,
        0,
    ]


def test_purging_while_somebody_consumes(broker: RabbitBroker, connect: Callable[[], RabbitBroker]) -> None:
    """What it holds it keeps, the rest is gone, and nothing is counted twice."""
    broker.publish([Outgoing(b"%d" % number, "q") for number in range(40)])
    consumer = connect().consumer(["q"], name="busy")
    held = collect(consumer, 2)
    wait_until(lambda: broker.stats(["q"])[0].ready == 38)  # what it was sent besides goes back after a moment
    assert connect().purge("q") == 38
    assert broker.stats(["q"])[0].ready == 0
    assert consumer.start(held) == ["ok", "ok"]
    assert consumer.settle([Settlement(delivery) for delivery in held]) == [True, True]
    assert collect(consumer, 1, seconds=1) == []
    broker.publish([Outgoing(b"next", "q")])
    assert [delivery.envelope for delivery in collect(consumer, 1)] == [b"next"]
    consumer.close()
