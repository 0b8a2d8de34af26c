from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from celery.backends.redis import RedisStore
from celery.backends.sqlite import SQLiteStore
from celery.brokers.base import Broker
from celery.brokers.book import Advance
from celery.brokers.memory import MemoryBroker
from celery.brokers.redis import RedisBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.contrib.testing.contract import BookContract


class TestMemoryBook(BookContract):
    @pytest.fixture
    def connect(self) -> Callable[..., Broker]:
        url = f"memory://{uuid4()}"
        return lambda **options: MemoryBroker(url, **options)


class TestSQLiteBook(BookContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[..., Broker]:
        url = f"sqlite:///{tmp_path}/broker.db"
        return lambda **options: SQLiteBroker(url, **options)


class TestRedisBook(BookContract):
    @pytest.fixture
    def connect(self, redis_url: str) -> Callable[..., Broker]:
        return lambda **options: RedisBroker(redis_url, **options)


def test_books_of_result_stores(tmp_path: Path, redis_url: str) -> None:
    """Where the broker has none: they send nothing, and whoever advances has done so before."""
    for store in (SQLiteStore(f"sqlite:///{tmp_path}/results.db"), RedisStore(redis_url)):
        book = store.book("app")
        assert book is not None
        assert not book.sends
        token = book.lead("a", 10).token
        assert book.advance(token, 10, [Advance("x", b"", b"1")]) == [True]
        assert book.states() == {"x": b"1"}
        store.close()
