from __future__ import annotations

from collections.abc import Callable

import pytest

from celery.backends.redis import RedisStore
from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.brokers.redis import RedisBroker
from celery.contrib.testing.contract import BrokerContract, BusContract
from celery.utils.clock import FakeClock


class TestRedisBroker(BrokerContract):
    @pytest.fixture
    def connect(self, clock: FakeClock, redis_url: str) -> Callable[..., Broker]:
        return lambda **options: RedisBroker(redis_url, options=options, clock=clock)

    @pytest.fixture
    def connect_store(self, redis_url: str) -> Callable[[], Store]:
        return lambda: RedisStore(redis_url)


class TestRedisBrokerWithResultsElsewhere(BrokerContract):
    """The broker on database 0, results on database 1: one ledger, as they are on one server."""

    @pytest.fixture
    def connect(self, clock: FakeClock, redis_url: str) -> Callable[..., Broker]:
        options = {"global_keyprefix": "site:"}
        return lambda **more: RedisBroker(redis_url, options={**options, **more}, clock=clock)

    @pytest.fixture
    def connect_store(self, redis_url: str) -> Callable[[], Store]:
        return lambda: RedisStore(f"{redis_url.rpartition('/')[0]}/1")


class TestRedisBus(BusContract):
    @pytest.fixture
    def connect(self, redis_url: str) -> Callable[..., Broker]:
        return lambda **options: RedisBroker(redis_url, options=options)
