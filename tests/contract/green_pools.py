"""The contract of pools, for the one that `GREEN_POOL` names; run by `test_green_pools` in a process that is green."""

from __future__ import annotations

import os

from celery.contrib.testing.contract.pools import PoolContract
from celery.drivers import pool_class


class TestGreenPool(PoolContract):
    pool_class = pool_class(os.environ["GREEN_POOL"])
