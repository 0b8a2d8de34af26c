from __future__ import annotations

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
