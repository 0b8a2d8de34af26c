"""What a limit that is not reached costs a batch: a few statements and calls, however many tasks it has."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from celery.brokers.base import Broker, Consumer
from celery.brokers.sqlite import SQLiteBroker
from celery.contrib.testing.app import TestApp
from celery.utils import uuid
from celery.utils.clock import SYSTEM
from celery.wire.message import Delivery, Outgoing, Permit, Settlement
from celery.wire.protocol import Head
from celery.worker.claimed import Claimed
from celery.worker.decisions import Facts
from celery.worker.facts import FactsTable
from celery.worker.limiter import Limiter
from rig.calls import count_calls

PERMITS = {
    "a limit": (Permit("key", 10_000),),
    "a rate": (Permit("rate", 0, 1e-6, 10_000),),
}


@pytest.fixture
def broker(tmp_path: Path) -> Any:
    with SQLiteBroker(f"sqlite:///{tmp_path}/tasks.db") as broker:
        yield broker


def count_statements(step: Callable[[], Any]) -> int:
    """How many statements *step* has SQLite carry out."""
    count = 0

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        if event == "c_call" and isinstance(getattr(arg, "__self__", None), sqlite3.Connection):
            count += arg.__name__ in {"execute", "executemany"}

    profile = sys.getprofile()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(profile)
    return count


def cost(broker: Broker, size: int, permits: Sequence[Permit], count: Callable[[Callable[[], Any]], int]) -> int:
    """What *count* says of ending one batch and starting the next one."""
    broker.publish([Outgoing(b"e", "q", task_id=str(number)) for number in range(3 * size)])
    with closing(broker.consumer(["q"], name="w")) as consumer:
        running = begin(consumer, size, permits)
        batch = consumer.claim(size)
        needs = {delivery.tag: permits for delivery in batch} if permits else {}
        settlements = [Settlement(delivery) for delivery in running]
        found: list[Any] = []
        counted = count(lambda: found.append(consumer.settle_and_start(settlements, batch, (), needs)))
        assert found == [([True] * size, ["ok"] * size)]
    broker.purge("q")
    return counted


def least(broker: Broker, size: int, permits: Sequence[Permit], count: Callable[[Callable[[], Any]], int]) -> int:
    """The least of three costs: now and then the file is tidied as well."""
    return min(cost(broker, size, permits, count) for _ in range(3))


def begin(consumer: Consumer, size: int, permits: Sequence[Permit]) -> list[Delivery]:
    batch = consumer.claim(size)
    needs = {delivery.tag: permits for delivery in batch} if permits else {}
    assert consumer.settle_and_start((), batch, (), needs)[1] == ["ok"] * size
    return batch


@pytest.mark.parametrize("kind", PERMITS)
def test_statements(broker: Broker, kind: str) -> None:
    permits = PERMITS[kind]
    free, limited = (least(broker, 200, needed, count_statements) for needed in ((), permits))
    assert limited <= free + 8
    assert least(broker, 20, permits, count_statements) == limited


@pytest.mark.parametrize("kind", PERMITS)
def test_calls(broker: Broker, kind: str) -> None:
    def total(step: Callable[[], Any]) -> int:
        return count_calls(step).total()

    assert least(broker, 200, PERMITS[kind], total) - least(broker, 200, (), total) <= 80, "for 200 tasks"


def test_a_worker_asks_once_what_neighbours_need() -> None:
    place = f"memory://{uuid()}"
    with closing(TestApp(broker=place, backend=place)) as app:
        facts = FactsTable(app)
        limiter = Limiter(app.broker.can, facts, app.tasks, SYSTEM)
        keys = [("one", 5)] * 50 + [("two", 5)] * 50 + [None] * 10
        batch = [
            Claimed(Head(task="t", id="i", limit=limit), Delivery(number, "q", b"", 1), Facts("t"), number)
            for number, limit in enumerate(keys)
        ]
        found: list[Any] = []
        calls = count_calls(lambda: found.append(limiter.needs(batch)))
        assert found == [{number: (Permit(*limit),) for number, limit in enumerate(keys) if limit}]
        assert len({id(permits) for permits in found[0].values()}) == 2
        assert calls.total() <= 6
