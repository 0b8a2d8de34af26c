"""What a limit that is not reached costs a batch in a file: a few statements and calls, however many tasks it has."""

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
from celery.wire.message import Delivery, Outgoing, Permit, Settlement
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


def begin(consumer: Consumer, size: int, permits: Sequence[Permit]) -> list[Delivery]:
    batch = consumer.claim(size)
    needs = {delivery.tag: permits for delivery in batch} if permits else {}
    assert consumer.settle_and_start((), batch, (), needs)[1] == ["ok"] * size
    return batch


@pytest.mark.parametrize("kind", PERMITS)
def test_statements(broker: Broker, kind: str) -> None:
    permits = PERMITS[kind]
    free, limited = (cost(broker, 200, needed, count_statements) for needed in ((), permits))
    assert limited <= free + 8
    assert cost(broker, 20, permits, count_statements) == limited


@pytest.mark.parametrize("kind", PERMITS)
def test_calls(broker: Broker, kind: str) -> None:
    def total(step: Callable[[], Any]) -> int:
        return count_calls(step).total()

    def surplus(size: int) -> int:
        return cost(broker, size, PERMITS[kind], total) - cost(broker, size, (), total)

    assert surplus(200) <= surplus(20) <= 80
