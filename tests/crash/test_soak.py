"""Hundreds of thousands of tasks of every kind through Redis: no process grows, and no key is left behind.

`make soak` runs 500,000 (TASKS=… says how many); every run of the tests the short form.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from crash.fleet import Fleet, children_of
from rig.keys import check_keys
from rig.redis import RedisServer

TASKS = int(os.environ.get("SOAK_TASKS", "20000"))
WARM = 100_000
"""Tasks after which no process may grow any more; in a shorter run, half of them."""
GROWTH = 0.02 if TASKS > WARM else 0.10
"""Of what it was when warm. In a short run the allocator has not settled."""
KEPT = 10
"""Seconds that results are kept."""
pytestmark = [pytest.mark.crash, pytest.mark.timeout(300 + TASKS // 200)]

# 1,000 tasks of every kind, which are executed 1,080 times.
PORTION = """
import time
for portion in range({portions}):
    while app.broker.stats(["celery"])[0].ready > 3000:
        time.sleep(0.02)
    with app.bulk():
        for n in range(400):
            tick_early.delay()
            tick_late.delay()
        for n in range(50):
            tick_early.apply_async(countdown=0.3 + n / 50)
            tick_and_fail.delay()
            tick_twice.delay()
        for n in range(40):
            tick_late.apply_async(link=tick_early.si())
        for n in range(10):
            tick_late.apply_async(expires=-1)
"""


def test_nothing_grows_and_nothing_is_left(
    make_fleet: Callable[..., Fleet], server: Callable[[str], Path], tmp_path: Path
) -> None:
    redis = RedisServer(server("redis"), tmp_path / "server")
    try:
        fleet = make_fleet(broker=redis.url(), lease=5.0, result_expires=KEPT)
        worker = fleet.start(ready=True)
        sizes = soak(fleet, worker.pid)
        for role, growth in growths(sizes).items():
            print(f"{role}: {growth:+.2%} of {sizes[role][-1][1] / 1024:.1f} MB")
        worker.terminate()
        assert worker.wait(30) == 0
        assert {role: growth for role, growth in growths(sizes).items() if growth > GROWTH} == {}
        check_keys(redis)
        fleet.wait(lambda: not redis.keys("celery-task-meta-*"), KEPT + 30)
    finally:
        redis.stop()


def soak(
    fleet: Fleet, worker: int, *, tasks: int = TASKS, portion: str = PORTION, executed: int = 1080
) -> dict[str, list[tuple[int, int]]]:
    """Run all tasks; for each process, how many tasks had run and its resident memory in KB, again and again.

    *portion* sends a thousand of them, which are *executed* so often.
    """
    portions = tasks // 1000
    expected = portions * executed
    producer = subprocess.Popen(
        [sys.executable, "-c", "from oracle_app import *\n" + portion.format(portions=portions)],
        env=fleet.environment(),
    )
    sizes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    try:
        deadline, looked = time.monotonic() + 120 + tasks / 250, 0.0
        while (ran := fleet.log.stat().st_size) < expected:
            assert time.monotonic() < deadline, (
                f"{ran} of {expected} executions; the worker says:\n{fleet.said[-3000:]}"
            )
            assert producer.poll() in {None, 0}
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                roles = {"producer": producer.pid, "worker": worker}
                roles |= {f"child {index}": pid for index, pid in enumerate(children_of(worker))}
                for role, pid in roles.items():
                    if size := resident(pid):
                        sizes[role].append((ran, size))
            time.sleep(0.05)
        assert producer.wait(30) == 0
    finally:
        producer.kill()
        producer.wait(10)
    fleet.wait(fleet.idle)
    assert fleet.log.stat().st_size == expected
    return dict(sizes)


def resident(pid: int) -> int:
    """KB; 0 for a process that has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def growths(sizes: dict[str, list[tuple[int, int]]]) -> dict[str, float]:
    """By how much each process grew since it was warm, without the most that it grew in a third of that time.

    What leaks grows all the time; what a burst has once needed is kept by the allocator, and is a step.
    """
    found = {}
    for role, samples in sizes.items():
        warm = [size for ran, size in samples if ran >= min(WARM, TASKS // 2)]
        if not warm:
            continue
        few = max(1, len(warm) // 8)
        starts = [(len(warm) - few) * third // 3 for third in range(4)]
        # The allocator shakes single samples.
        begin, *later = [statistics.median(warm[start : start + few]) for start in starts]
        grown = [after - before for before, after in itertools.pairwise([begin, *later])]
        found[role] = (sum(grown) - max(grown)) * 3 / 2 / begin
    return found
