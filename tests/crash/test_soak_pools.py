"""Tasks of every kind on four pools: each is executed as often as it should be, no process grows, nothing is left.

`make soak` runs 200,000 (TASKS=… says how many); every run of the tests the short form.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crash.fleet import Fleet
from crash.test_soak import growths, soak
from rig.redis import RedisServer

POOLS = {"prefork": 2, "threads": 4, "gevent": 20, "asyncio": 20}
"""And how many slots each gets."""
TASKS = max(1, int(os.environ.get("SOAK_TASKS", "8000")) // len(POOLS) // 1000) * 1000
GROWTH = 0.03 if TASKS >= 50_000 else 0.15
"""Of what it was when half of the tasks had run. In a short run the allocator has not settled."""
pytestmark = [pytest.mark.crash, pytest.mark.timeout(300 + TASKS // 100)]

# 1,000 tasks, which are executed 1,000 times: 50 are tried twice, and 50 never run.
PORTION = """
import time
for portion in range({portions}):
    while app.broker.stats(["celery"])[0].ready > 3000:
        time.sleep(0.02)
    revoked = [tick_early.apply_async(countdown=3) for n in range(10)]
    app.control.revoke([result.id for result in revoked])
    with app.bulk():
        for n in range(350):
            tick_early.delay()
            tick_late.delay()
        for n in range(100):
            tick_async.delay()
        for n in range(50):
            tick_and_fail.delay()
            tick_twice.delay()
        for n in range(40):
            tick_limited.delay()
            tick_early.apply_async(expires=-1)
        for n in range(10):
            tick_and_exceed.delay()
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_loses_nothing_and_does_not_grow(
    make_fleet: Callable[..., Fleet], server: Callable[[str], Path], tmp_path: Path, pool: str
) -> None:
    redis = RedisServer(server("redis"), tmp_path / "server")
    try:
        fleet = make_fleet(broker=redis.url(), lease=5.0, result_expires=10)
        worker = fleet.start("-P", pool, concurrency=POOLS[pool], ready=True)
        sizes = soak(fleet, worker.pid, tasks=TASKS, portion=PORTION, executed=1000)
        for role, growth in growths(sizes).items():
            print(f"{pool}, {role}: {growth:+.2%} of {sizes[role][-1][1] / 1024:.1f} MB")
        assert fleet.counts() == "0 0 0 0"
        worker.terminate()
        assert worker.wait(30) == 0
        sizes.pop("producer")
        assert {role: growth for role, growth in growths(sizes).items() if growth > GROWTH} == {}
    finally:
        redis.stop()
