"""Databases as a running original leaves them: we read what is there for us, and leave alone what is not ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery import Celery
from celery.brokers.base import Broker
from celery.drivers import broker_class
from celery.exceptions import BrokerError
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, peek, split_body
from celery.wire.serialization import accept_types

GOLDEN = Path(__file__).parent / "golden" / "databases"
PREFIXED = {"global_keyprefix": "shop:", "sep": "|", "priority_steps": [0, 4, 8], "queue_order_strategy": "priority"}
Restore = Callable[[str], Any]


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def restore(client: Any) -> Restore:
    """`restore(case)` puts a captured database into the server."""

    def write(case: str) -> None:
        for key, found in json.loads((GOLDEN / f"{case}.json").read_text()).items():
            value = found["value"]
            match found["type"]:
                case "list":
                    client.rpush(key, *map(raw, value))
                case "set":
                    client.sadd(key, *map(raw, value))
                case "hash":
                    client.hset(key, mapping={field: raw(item) for field, item in value.items()})
                case "zset":
                    client.zadd(key, dict(value))
                case "string":
                    client.set(key, raw(value))

    return write


def raw(text: str) -> bytes:
    return text.encode("latin-1")


def dump(client: Any, *keys: str) -> dict[str, bytes]:
    return {key: client.dump(key) for key in keys}


@pytest.fixture
def connect(redis_url: str) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def connect(**options: Any) -> Broker:
        made.append(broker_class(redis_url)(redis_url, options=options))
        return made[-1]

    yield connect
    for broker in made:
        broker.close()


def claimed(broker: Broker, *queues: str) -> list[tuple[str, list[Any]]]:
    """(id, positional arguments) of all messages, in the order in which they are claimed."""
    consumer = broker.consumer(queues, name="reader")
    found = []
    while deliveries := consumer.claim(4):
        for delivery in deliveries:
            args, _, _ = split_body(decode_envelope(delivery.envelope), accept_types(["json"]))
            found.append((peek(delivery.envelope).id, list(args)))
    consumer.close()
    return found


def test_queues_are_claimed_in_order(restore: Restore, connect: Callable[..., Broker]) -> None:
    restore("queue")
    broker = connect()
    [stats] = broker.stats(["golden"])
    assert (stats.ready, stats.leased, stats.delayed) == (7, 0, 0)
    assert claimed(broker, "golden") == [
        ("plain", [1]),
        ("urgent", [2]),
        ("later", [5]),
        ("perishable", [6]),
        ("second", [7]),
        ("middling", [3]),
        ("lowest", [4]),
    ]


def test_what_others_made_of_the_layout_is_followed(restore: Restore, connect: Callable[..., Broker]) -> None:
    restore("prefixed")
    order = [id for id, _ in claimed(connect(**PREFIXED), "golden")]
    assert order == ["pNone", "p0", "p3", "p4", "p7", "p8", "p9"]


def test_bindings_lead_to_the_queue(restore: Restore, connect: Callable[..., Broker], client: Any) -> None:
    restore("exchange")
    broker = connect()
    envelope = client.lindex("orders", 0)
    broker.publish([Outgoing(envelope, "orders.sent", "orders")])
    with pytest.raises(BrokerError, match="No queue is bound"):
        broker.publish([Outgoing(envelope, "orders.sent.twice", "orders")])
    assert [id for id, _ in claimed(broker, "orders")] == ["new", "paid", "paid"]


def test_what_a_worker_of_the_original_holds_stays_with_it(
    restore: Restore, connect: Callable[..., Broker], client: Any
) -> None:
    restore("held")
    kept = ["unacked", "unacked_index", "_kombu.binding.golden", "_kombu.binding_deadlines"]
    before = dump(client, *kept)
    broker = connect(lease=0.2)
    assert [id for id, _ in claimed(broker, "golden", "elsewhere")] == ["waiting-0", "waiting-1", "waiting-2"]
    assert broker.sweep() == 0
    assert broker.purge("golden") == 0
    assert dump(client, *kept) == before


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("reader", broker=redis_url, backend=redis_url)
    yield app
    app.close()


def test_results_are_read(restore: Restore, app: Celery) -> None:
    restore("results")
    assert app.AsyncResult("success").get(timeout=30) == 3
    with pytest.raises(ValueError, match="no é"):
        app.AsyncResult("failure").get(timeout=30)
    assert "in fail" in str(app.AsyncResult("failure").traceback)
    retried = app.AsyncResult("retry")
    assert (retried.state, repr(retried.result)) == ("RETRY", "KeyError('not yet')")
    in_progress = app.AsyncResult("progress")
    assert (in_progress.state, in_progress.info) == ("PROGRESS", {"done": 3, "of": 10})
    assert app.AsyncResult("silent").state == "PENDING"
    assert app.AsyncResult("revoked").state == "REVOKED"


def test_saved_groups_are_read(restore: Restore, app: Celery) -> None:
    restore("results")
    saved = app.GroupResult.restore("both")
    assert saved is not None
    assert saved.get(timeout=30) == [2, 4]


def test_compressed_results_are_read(restore: Restore, app: Celery) -> None:
    restore("results-gzip")
    assert app.AsyncResult("success").get(timeout=30) == 3
