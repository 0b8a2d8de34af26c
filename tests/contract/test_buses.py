from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from celery.brokers.base import Broker
from celery.brokers.memory import MemoryBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.contrib.testing.contract import BusContract
from celery.utils.clock import FakeClock


class TestMemoryBus(BusContract):
    @pytest.fixture
    def connect(self) -> Callable[..., Broker]:
        url = f"memory://{uuid4()}"
        return lambda **options: MemoryBroker(url, options=options)


class TestSQLiteBus(BusContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[..., Broker]:
        url = f"sqlite:///{tmp_path}/broker.db"
        return lambda **options: SQLiteBroker(url, options=options)

    def test_forgets_old_messages(self, tmp_path: Path) -> None:
        clock = FakeClock()
        broker = SQLiteBroker(f"sqlite:///{tmp_path}/broker.db", clock=clock)
        with broker.bus().subscribe(["t"]) as subscription:
            broker.bus().publish("t", b"old")
            clock.advance(100.0)
            broker.bus().publish("t", b"new")
            assert subscription.get(0.0) == ("t", b"new"), (
                "a subscriber that slept for over a minute misses what it slept through"
            )
        broker.close()

    def test_events_do_not_disturb_those_who_wait_for_commands(self, tmp_path: Path) -> None:
        broker = SQLiteBroker(f"sqlite:///{tmp_path}/broker.db")
        bus = broker.bus()
        with bus.subscribe(["celery.pidbox"]) as commands, bus.subscribe(["celeryev/*"]) as events:
            for number in range(1200):
                bus.publish("celeryev/task.multi", b"%d" % number)
            descriptor = commands.fileno()
            assert select.select([descriptor], [], [], 0) == ([], [], []), "its bell has not rung"
            bus.publish("celery.pidbox", b"ping")
            assert commands.get(5) == ("celery.pidbox", b"ping")
            assert [events.get(5) for _ in range(1200)][-1] == ("celeryev/task.multi", b"1199")
        broker.close()
