"""The pools of this package keep the contract; what only the prefork pool has is tested below."""

from __future__ import annotations

from celery.concurrency.prefork import PreforkPool
from celery.concurrency.solo import SoloPool
from celery.concurrency.thread import ThreadPool
from celery.contrib.testing.contract.pools import PoolContract


class TestSoloPool(PoolContract):
    pool_class = SoloPool
    inline = True


class TestThreadPool(PoolContract):
    pool_class = ThreadPool


class TestPreforkPool(PoolContract):
    pool_class = PreforkPool
