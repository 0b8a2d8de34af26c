from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from celery.backends.memory import MemoryStore
from celery.backends.sqlite import SQLiteStore
from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.brokers.memory import MemoryBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.contrib.testing.contract import BrokerContract
from celery.utils.clock import FakeClock
from celery.wire.message import Outgoing, Settlement

DOOMED = """
import sys
from celery.brokers.sqlite import SQLiteBroker
consumer = SQLiteBroker(sys.argv[1]).consumer(["q"], name="doomed")
deliveries = consumer.claim(2)
consumer.start(deliveries[:1])
print("claimed", flush=True)
sys.stdin.read()
"""


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid4()}"

    @pytest.fixture
    def connect(self, clock: FakeClock, url: str) -> Callable[..., Broker]:
        return lambda **options: MemoryBroker(url, options=options, clock=clock)

    @pytest.fixture
    def connect_store(self, clock: FakeClock, url: str) -> Callable[[], Store]:
        return lambda: MemoryStore(url, clock=clock)


class TestSQLiteBroker(BrokerContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/broker.db"

    @pytest.fixture
    def connect(self, clock: FakeClock, url: str) -> Callable[..., Broker]:
        return lambda **options: SQLiteBroker(url, options=options, clock=clock)

    @pytest.fixture
    def connect_store(self, clock: FakeClock, url: str) -> Callable[[], Store]:
        return lambda: SQLiteStore(url, clock=clock)

    def test_killed_process_is_swept_by_another(self, url: str) -> None:
        clock = FakeClock(time.time())
        broker = SQLiteBroker(url, clock=clock)
        broker.publish([Outgoing(b"started", "q"), Outgoing(b"held", "q")])
        with subprocess.Popen(
            [sys.executable, "-c", DOOMED, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "claimed\n"
            process.kill()
        assert broker.sweep() == 0, "its lease still holds"
        clock.advance(broker.lease + 60.0)
        assert broker.sweep() == 2
        consumer = broker.consumer(["q"], name="heir")
        deliveries = consumer.claim(10)
        assert [(d.envelope, d.deliveries, d.interrupted) for d in deliveries] == [
            (b"started", 1, True),
            (b"held", 0, False),
        ]
        assert consumer.settle([Settlement(delivery) for delivery in deliveries]) == [True, True]
        consumer.close()
        broker.close()
