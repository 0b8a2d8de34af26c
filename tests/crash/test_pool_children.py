"""Children of the prefork pool are killed, and so is their worker; the oracle is a file that the jobs write to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from celery.concurrency import nursery
from celery.concurrency.base import PoolOptions
from celery.concurrency.prefork import PreforkPool
from celery.contrib.testing.contract import pools
from celery.wire.message import Job

KILLS = 50


def marking(oracle: Path, tag: int, seconds: float, **limits: float) -> Job:
    """A job that writes down its start before it does anything else."""
    return Job(tag, f"mark {oracle} {tag} {seconds:.6f}".encode(), **limits)


def drive(
    pool: PreforkPool, oracle: Path, disturb: Callable[[int], None], enough: Callable[[], bool]
) -> tuple[set[int], Counter[str]]:
    """Feed new jobs until it is *enough*, calling *disturb* each round; settle each job once, as the engine would."""
    chance = random.Random(11)
    waiting: list[Job] = []
    out: dict[int, Job] = {}
    ended: set[int] = set()
    states: Counter[str] = Counter()
    until, made, rounds = time.monotonic() + 90, 0, 0
    while out or waiting or not enough():
        assert time.monotonic() < until, f"{len(out)} jobs are out, {states}"
        while not enough() and len(waiting) < 200:
            made += 1
            waiting.append(marking(oracle, made, chance.choice([0, 0, 0, 0.0001, 0.003])))
        batch = waiting[: pool.free()]
        del waiting[: len(batch)]
        out.update((job.tag, job) for job in batch)
        pool.submit(batch)
        pools.wait_for_news(pool, time.monotonic() + 0.05)
        for outcome in pool.poll():
            job = out.pop(outcome.tag)
            states[outcome.state] += 1
            if outcome.state == "RETURNED":
                waiting.append(job)
            else:
                assert outcome.tag not in ended
                ended.add(outcome.tag)
        rounds += 1
        disturb(rounds)
    assert ended == set(range(1, made + 1))
    return ended, states


def test_fifty_killed_children_lose_their_running_jobs_only(tmp_path: Path) -> None:
    # Given a pool under load
    oracle = tmp_path / "oracle"
    pool = PreforkPool(2, pools.boot)
    pool.start()
    killed: set[int] = set()

    # When its children are killed again and again in the middle of a job
    def kill_now_and_then(rounds: int) -> None:
        busy = [running.pid for running in pool.running() if running.started and running.pid not in killed]
        if rounds % 5 == 0 and len(killed) < KILLS and busy:
            killed.add(busy[-1])
            os.kill(busy[-1], signal.SIGKILL)

    try:
        ended, states = drive(pool, oracle, kill_now_and_then, lambda: len(killed) >= KILLS)
        assert pool.stop(10) == []
    finally:
        pool.terminate()

    # Then every job has one end, none ran twice, and only what ran was lost
    starts = Counter(int(line) for line in oracle.read_text().splitlines())
    assert len(killed) == KILLS
    assert 0 < states["LOST"] <= KILLS
    assert states["SUCCESS"] + states["LOST"] == len(ended)
    assert max(starts.values()) == 1, [tag for tag, count in starts.items() if count > 1][:10]
    assert len(ended) - len(starts) <= states["LOST"]


def test_hard_limits_and_withdrawals_under_load_run_nothing_twice(tmp_path: Path) -> None:
    oracle = tmp_path / "oracle"
    pool = PreforkPool(2, pools.boot)
    pool.start()
    try:
        pools.run(pool, pools.jobs(*["echo x"] * 300))
        work = [marking(oracle, tag, 5 if tag % 40 == 0 else 0.0002, hard=0.05) for tag in range(1001, 1601)]
        found = pools.by_tag(pools.run(pool, work))
    finally:
        pool.terminate()
    starts = Counter(int(line) for line in oracle.read_text().splitlines())
    assert {tag for tag, outcome in found.items() if outcome.state == "TIMEOUT"} >= {
        tag for tag in found if tag % 40 == 0
    }
    assert {outcome.state for outcome in found.values()} <= {"SUCCESS", "TIMEOUT"}
    assert max(starts.values()) == 1


def test_the_pool_outlives_its_template() -> None:
    # Given a pool that keeps its template
    pool = PreforkPool(2, pools.boot, PoolOptions(max_tasks=1000))
    pool.start()
    try:
        before, template = pool.pids(), pool.nursery.pid
        # When that is killed, its children live on
        os.kill(template, signal.SIGKILL)
        pools.wait_until(pool, lambda: not pool.nursery.runs)
        assert pool.pids() == before
        # And those that come after them are forked from a new one
        found = pools.by_tag(pools.run(pool, pools.jobs("exit 1", "exit 1", *["echo x"] * 100)))
        assert Counter(outcome.state for outcome in found.values()) == {"LOST": 2, "SUCCESS": 100}
        assert pool.nursery.runs
        assert pool.nursery.pid != template
        assert not any(alive(pid) for pid in (*before, template))
    finally:
        pool.terminate()


def test_where_orphans_are_not_adopted_children_go_with_their_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "can_adopt", lambda: False)
    pool = PreforkPool(2, pools.boot)
    pool.start()
    try:
        before, template = set(pool.pids()), pool.nursery.pid
        os.kill(template, signal.SIGKILL)
        pools.wait_until(pool, lambda: pool.free() >= 2 and not before & set(pool.pids()))
        found = pools.by_tag(pools.run(pool, pools.jobs(*["echo x"] * 100)))
        assert {outcome.state for outcome in found.values()} == {"SUCCESS"}
        assert not any(alive(pid) for pid in before)
    finally:
        pool.terminate()


def test_sigterm_to_the_whole_group_leaves_the_template() -> None:
    pool = PreforkPool(1, pools.boot, PoolOptions(max_tasks=1000))
    pool.start()
    try:
        template = pool.nursery.pid
        os.kill(template, signal.SIGTERM)
        os.kill(template, signal.SIGINT)
        assert pools.run(pool, pools.jobs("echo x", "exit 1"))[0].detail == "x"
        assert pools.run(pool, pools.jobs("echo x"))[0].detail == "x"
        assert pool.nursery.pid == template
    finally:
        pool.terminate()


PARENT = """
import sys, time
from celery.concurrency.base import PoolOptions
from celery.concurrency.prefork import PreforkPool
from celery.contrib.testing.contract import pools
if __name__ == "__main__":
    pool = PreforkPool(3, pools.boot, PoolOptions(start_method=sys.argv[1]))
    pool.start()
    pool.submit(pools.jobs("hold never", "sleep 60"))
    print(*pool.pids(), flush=True)
    while True:
        pool.poll()
        time.sleep(0.05)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_children_go_when_their_worker_is_killed(tmp_path: Path, method: str) -> None:
    # Given a worker with one idle and two busy children
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, script, method], stdout=subprocess.PIPE, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 3
        assert all(alive(pid) for pid in children)
        # When the worker is killed
        parent.kill()
        parent.wait()
        killed = time.monotonic()
        # Then its children are gone within seconds
        while any(alive(pid) for pid in children):
            assert time.monotonic() - killed < 20
            time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
