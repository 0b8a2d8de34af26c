"""Results over `rpc://` with other brokers than RabbitMQ: reply queues like all others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, group
from celery.brokers.base import Broker
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError  # noqa: A004
from celery.wire.message import Outgoing
from rig.redis import RedisServer
from rig.rpc import rpc_app

SOON = 30.0


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> str:
    if request.param == "redis":
        return redis_url
    return f"sqlite:///{tmp_path}/broker.db" if request.param == "sqlite" else f"memory://{tmp_path.name}"


@pytest.fixture
def client(url: str) -> Iterator[Celery]:
    app = rpc_app(url)
    yield app
    app.close()


@pytest.fixture
def work(url: str) -> Iterator[Celery]:
    app = rpc_app(url)
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        yield app
    app.close()


def waiting(broker: Broker, name: str) -> int:
    return sum(stats.ready for stats in broker.stats([name]))


@pytest.mark.usefixtures("work")
def test_results_come_to_whoever_has_sent_the_task(client: Celery) -> None:
    add, seen = client.tasks["add"], []
    many = group(add.s(number) for number in range(50)).delay()
    chained = (add.s(1, 1) | add.s(10)).delay()
    steps = client.tasks["steps"].delay()
    assert steps.get(timeout=SOON, on_message=lambda meta: seen.append(meta["status"])) == "end"
    assert many.get(timeout=SOON) == list(range(50))
    assert (chained.get(timeout=SOON), chained.parent.get(timeout=SOON)) == (12, 2)
    with pytest.raises(ValueError, match="no"):
        client.tasks["fail"].delay().get(timeout=SOON)
    assert seen[-1] == "SUCCESS"


@pytest.mark.usefixtures("work")
def test_each_thread_has_a_queue_and_any_may_wait(client: Celery) -> None:
    sent: list[Any] = []
    senders = [threading.Thread(target=lambda n=n: sent.append(client.tasks["add"].delay(n))) for n in range(5)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert sorted(result.get(timeout=SOON) for result in sent) == list(range(5))


@pytest.mark.usefixtures("work")
def test_nobody_else_learns_anything(client: Celery, url: str) -> None:
    result = client.tasks["add"].delay(1)
    assert result.get(timeout=SOON) == 1
    other = rpc_app(url)
    assert other.AsyncResult(result.id).state == "PENDING"
    with pytest.raises(TimeoutError):
        other.AsyncResult(result.id).get(timeout=0.1)
    other.close()


def test_closing_takes_the_queue_with_it(client: Celery) -> None:
    broker, name = client.broker, client.thread_oid
    client.tasks["add"].delay(1)
    client.backend.close()
    assert name not in {stats.name for stats in broker.stats()}
    assert waiting(broker, name) == 0


def test_results_for_a_client_that_has_gone_do_not_pile_up(url: str, client: Celery, redis_server: RedisServer) -> None:
    """In a file and in memory they are dropped; Redis, which does not see who listens, has them expire."""
    envelope = client.amqp.outgoing("add", (1,)).envelope
    client.broker.publish([Outgoing(envelope, "gone", reply=True, expires=client.broker.clock.time() + 100.0)])
    assert "gone" not in {stats.name for stats in client.broker.stats()}
    if url.startswith("redis"):
        assert 0 < redis_server.ask("PTTL", "gone") <= 100_000
    else:
        assert waiting(client.broker, "gone") == 0
