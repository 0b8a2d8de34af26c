"""What is killed, whenever it is killed: nothing is lost and nothing is committed twice.

Real worker processes, SIGKILL, and an oracle outside the store: a file to which every execution appends one line.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from crash.fleet import Fleet, check_promises, children_of, killing

pytestmark = pytest.mark.crash
TASKS = int(os.environ.get("CRASH_TASKS", "20000"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with killing(Fleet(tmp_path)) as fleet:
        yield fleet


def test_a_late_task_whose_child_is_killed_runs_again(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    for number in itertools.count(1000):
        id = fleet.client(f"print(late.delay({number}, 2).id)").strip()
        fleet.wait(lambda line=f"late {number}": fleet.lines()[line] == 1)  # type: ignore[misc]
        for child in children_of(worker.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if not fleet.lines()[f"late-end {number}"]:
            break  # else it was quicker than this process
    fleet.wait(lambda: fleet.lines()[f"late-end {number}"] == 1)
    assert fleet.lines()[f"late {number}"] == 2
    assert fleet.client(f"print(app.AsyncResult({id!r}).get(timeout=30))").strip() == f"{number}"


def test_an_early_task_whose_child_is_killed_ends_as_worker_lost(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    id = fleet.client("print(early.delay(1, 30).id)").strip()
    fleet.wait(lambda: fleet.lines()["early 1"] == 1)
    for child in children_of(worker.pid):
        os.kill(child, signal.SIGKILL)
    printed = fleet.client(f"r = app.AsyncResult({id!r}); print(type(r.get(timeout=30, propagate=False)).__name__)")
    assert printed.strip() == "WorkerLostError"
    assert fleet.lines() == Counter({"early 1": 1})


@pytest.mark.parametrize("point", ["start", "settle"])
def test_a_worker_killed_before_it_marks_or_settles_loses_nothing(fleet: Fleet, point: str) -> None:
    ids = fleet.publish(200)
    doomed = fleet.start(kill=f"{point}:2")
    fleet.wait(lambda: doomed.poll() is not None)
    assert doomed.returncode == -signal.SIGKILL
    fleet.massacre()

    fleet.start()
    fleet.settle(ids)
    check_promises(fleet, ids)


def test_everything_is_killed_again_and_again_while_tasks_drain(fleet: Fleet) -> None:
    ids = fleet.publish(TASKS // 2)
    for round in range(1, 4):
        fleet.start()
        fleet.start()
        goal = round * TASKS // 10
        fleet.wait(lambda goal=goal: fleet.executions() >= goal, 120)
        fleet.massacre()
    assert fleet.begun() < TASKS, "the workers finished before they were killed: the test proves nothing"

    fleet.start()
    fleet.start()
    fleet.settle(ids, 300)
    check_promises(fleet, ids)
