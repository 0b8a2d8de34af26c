from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from celery.backends.memory import MemoryStore
from celery.backends.sqlite import SQLiteStore
from celery.backends.store import Store
from celery.contrib.testing.contract import StoreContract
from celery.utils.clock import FakeClock


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def connect(self, clock: FakeClock) -> Callable[..., Store]:
        url = f"memory://{uuid4()}"
        return lambda **options: MemoryStore(url, options=options, clock=clock)


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, tmp_path: Path) -> Callable[..., Store]:
        url = f"sqlite:///{tmp_path}/store.db"
        return lambda **options: SQLiteStore(url, options=options, clock=clock)
