"""Workers, machines and files that stand still for longer than a lease: nothing is lost, and the living are spared."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.fleet import Fleet, go_on, killing, stop

pytestmark = pytest.mark.crash


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with killing(Fleet(tmp_path)) as fleet:
        yield fleet


def database(fleet: Fleet) -> str:
    return fleet.client("print(app.broker.url.removeprefix('sqlite:///'))").strip()


def test_a_worker_that_comes_back_after_its_lease_is_refused_and_works_on(fleet: Fleet) -> None:
    zombie = fleet.start(concurrency=1)
    for number in itertools.count(1000):
        id = fleet.client(f"print(late.delay({number}, 0.5).id)").strip()
        fleet.wait(lambda line=f"late {number}": fleet.lines()[line] == 1)  # type: ignore[misc]
        stop(zombie)
        if not fleet.lines()[f"late-end {number}"]:
            break
        go_on(zombie)  # it was quicker than this process
    successor = fleet.start(concurrency=1)
    fleet.wait(lambda: fleet.lines()[f"late-end {number}"] == 1)
    assert fleet.client(f"print(app.AsyncResult({id!r}).get(timeout=30))").strip() == f"{number}"
    go_on(zombie)
    fleet.wait(lambda: "were refused" in fleet.said)
    assert fleet.lines()[f"late {number}"] == 2
    successor.terminate()
    successor.wait(60)
    assert fleet.client("print(early.delay(2).get(timeout=30))").strip() == "2"
    assert zombie.poll() is None


def test_workers_that_stood_still_together_do_not_sweep_each_other(fleet: Fleet) -> None:
    fleet.settings["worker_lease"] = lease = 2.5
    workers = [fleet.start(concurrency=1), fleet.start(concurrency=1)]
    ids = fleet.client("print(*(early.delay(n, 1.0).id for n in range(2)))").split()
    fleet.wait(lambda: fleet.lines()["early 0"] + fleet.lines()["early 1"] == 2)
    for worker in workers:
        stop(worker)
    ends = time.monotonic() + 1.2 * lease
    fleet.wait(lambda: time.monotonic() > ends)
    for worker in workers:
        go_on(worker)
    printed = fleet.client(f"print(*(app.AsyncResult(id).get(timeout=30, propagate=False) for id in {ids!r}))")
    assert printed.split() == ["0", "1"]
    assert "A worker is gone" not in fleet.said


def test_a_file_that_another_program_keeps_locked_costs_nothing_but_time(fleet: Fleet) -> None:
    """Longer than the workers wait for it, several times: whatever they were about to commit, they commit later."""
    fleet.settings["broker_publish_timeout"] = 1
    worker = fleet.start()
    ids = fleet.client("print(*(early.delay(n, 0.01).id for n in range(400)))").split()
    fleet.wait(lambda: fleet.lines()["early-end 20"] == 1)
    other = sqlite3.connect(database(fleet), timeout=10, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    fleet.wait(lambda: "kept locked by another process" in fleet.said)
    other.execute("COMMIT")
    other.close()
    fleet.wait(fleet.idle)
    printed = fleet.client(f"print(*(app.AsyncResult(id).get(timeout=30) for id in {ids!r}))")
    assert printed.split() == [str(number) for number in range(400)]
    assert sum(fleet.lines()[f"early {number}"] == 1 for number in range(400)) == 400
    assert worker.poll() is None


def test_a_file_that_was_deleted_is_told_once_and_made_anew(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    assert fleet.client("print(early.delay(1).get(timeout=30))").strip() == "1"
    Path(database(fleet)).unlink()
    fleet.wait(lambda: "was deleted or replaced" in fleet.said)
    assert fleet.client("print(early.delay(2).get(timeout=30))").strip() == "2"
    assert fleet.said.count("was deleted or replaced") == 1
    assert worker.poll() is None
