"""Trouble between two steps of the loop: what is in its hands then is neither forgotten nor run twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.brokers.memory import MemoryConsumer
from celery.concurrency.solo import SoloPool
from celery.contrib.testing.worker import start_worker
from celery.exceptions import BrokerError
from celery.wire.message import Outgoing
from celery.wire.protocol import encode_envelope, task_message
from celery.worker.child import boot_here
from celery.worker.consumer import Consumer
from celery.worker.facts import FactsTable
from celery.worker.prefetch import Prefetch


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_what_was_claimed_when_the_broker_went_away_still_runs(
    app: Celery, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([BrokerError("out of reach")])
    due_in = MemoryConsumer.due_in

    def fail_once(self: MemoryConsumer) -> float | None:
        for error in failures:
            raise error
        return due_in(self)

    monkeypatch.setattr(MemoryConsumer, "due_in", fail_once)

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(1, 2)
    with start():
        assert result.get(timeout=30) == 3


@pytest.fixture
def consumer(app: Celery) -> Iterator[Consumer]:
    """A loop that the test turns itself."""
    pool = SoloPool(1, lambda: boot_here(app, "w", process_signals=False))
    pool.start()
    consumer = Consumer(app, pool, ["celery"], hostname="w", facts=FactsTable(app), prefetch=Prefetch(4))
    yield consumer
    consumer.stop()
    consumer.close()
    pool.stop()


def test_few_large_messages_are_held(app: Celery, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery.worker.prefetch.HEAVY", 100_000)

    @app.task(shared=False)
    def measure(text: str) -> int:
        return len(text)

    results = [measure.delay("x" * 50_000) for _ in range(40)]
    most = 0
    while not all(result.ready() for result in results):
        consumer.turn()
        most = max(most, len(consumer.held) + len(consumer.inside))
    assert 0 < most <= 4, "what the multiplier asks for"


def test_a_late_word_of_a_lost_lease_costs_nothing_that_was_claimed_since(app: Celery, consumer: Consumer) -> None:
    """The keeper saw the lease lost; before the loop heard of it, it had claimed anew."""

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    results = [add.delay(n, 1) for n in range(3)]
    assert consumer._claim()
    consumer.call_soon(consumer.on_lease_lost)
    for _ in range(6):
        consumer.turn()
    assert [result.get(timeout=30) for result in results] == [1, 2, 3]


@pytest.mark.parametrize(
    "headers",
    [{"retries": "many"}, {"timelimit": ["a", None]}, {"id": "\ud800"}],
    ids=["retries", "timelimit", "surrogate"],
)
def test_a_message_that_is_nearly_a_task_ends_in_the_dead_set(tmp_path: Path, headers: dict[str, Any]) -> None:
    url = f"sqlite:///{tmp_path}/trouble.db"
    app = Celery("trouble", broker=url, backend=url, set_as_current=False)

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    message = task_message(add.name, "an-id", (1, 2), {})
    message.headers.update(headers)
    envelope = json.dumps(json.loads(encode_envelope(message)) | {"headers": message.headers}).encode()
    app.broker.publish([Outgoing(envelope, "celery", task_id="an-id")])
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0):
        assert add.delay(1, 2).get(timeout=30) == 3
        if "id" not in headers:
            with pytest.raises(Exception, match="undecodable"):
                app.AsyncResult("an-id").get(timeout=30)
    assert [entry.task_id for entry in app.broker.entries("dead")] == ["an-id"]
    app.close()
