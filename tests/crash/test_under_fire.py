"""What is killed, whenever it is killed: nothing is lost and nothing is committed twice.

Real worker processes on the embedded broker, SIGKILL, and an oracle outside the store: a file to which every
execution appends one line.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.fleet import Fleet, children_of, killing

pytestmark = pytest.mark.crash
TASKS = int(os.environ.get("CRASH_TASKS", "20000"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with killing(Fleet(tmp_path)) as fleet:
        yield fleet


def test_a_late_task_whose_child_is_killed_runs_again(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    id = fleet.client("print(late.delay(1, 2).id)").strip()
    fleet.wait(lambda: fleet.lines()["late 1"] == 1)
    for child in children_of(worker.pid):
        os.kill(child, signal.SIGKILL)
    fleet.wait(lambda: fleet.lines()["late-end 1"] == 1)
    assert fleet.lines()["late 1"] == 2
    assert fleet.client(f"print(app.AsyncResult({id!r}).get(timeout=30))").strip() == "1"


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
def test_a_worker_killed_before_it_marks_or_settles_loses_nothing(fleet: Fleet, tmp_path: Path, point: str) -> None:
    ids = tmp_path / "ids"
    fleet.client(
        "ids = []\n"
        "with app.bulk():\n"
        "    for n in range(200):\n"
        "        ids.append(late.apply_async((n,), link=committed.si(n)).id)\n"
        "        ids.append(early.delay(n).id)\n"
        f"open({str(ids)!r}, 'w').write(' '.join(ids))\n"
    )
    doomed = fleet.start(kill=f"{point}:2")
    fleet.wait(lambda: doomed.poll() is not None)
    assert doomed.returncode == -signal.SIGKILL
    fleet.massacre()

    fleet.start()
    fleet.wait(lambda: all(state_is_final(state) for state in fleet.states(str(ids)).values()))
    fleet.wait(lambda: sum(fleet.lines()[f"committed {n}"] for n in range(200)) >= 200)
    check(fleet, ids, 200)


def test_everything_is_killed_again_and_again_while_tasks_drain(fleet: Fleet, tmp_path: Path) -> None:
    ids, half = tmp_path / "ids", TASKS // 2
    fleet.client(
        "ids = []\n"
        "with app.bulk():\n"
        f"    for n in range({half}):\n"
        "        ids.append(late.apply_async((n,), link=committed.si(n)).id)\n"
        "        ids.append(early.delay(n).id)\n"
        f"open({str(ids)!r}, 'w').write(' '.join(ids))\n"
    )
    for round in range(1, 4):
        fleet.start()
        fleet.start()
        goal = round * TASKS // 10
        fleet.wait(lambda goal=goal: executions(fleet) >= goal, 120)
        fleet.massacre()
    assert begun(fleet) < TASKS, "the workers finished before they were killed: the test proves nothing"

    fleet.start()
    fleet.start()
    fleet.wait(lambda: sum(1 for line in fleet.lines() if line.startswith("committed ")) >= half, 300)
    fleet.wait(lambda: all(state_is_final(state) for state in fleet.states(str(ids)).values()), 60)
    check(fleet, ids, half)


def executions(fleet: Fleet) -> int:
    return sum(count for line, count in fleet.lines().items() if "-end" not in line and line[0] != "c")


def begun(fleet: Fleet) -> int:
    """How many different tasks have been executed, once or more."""
    return sum(1 for line in fleet.lines() if line.startswith(("late ", "early ")))


def state_is_final(state: str) -> bool:
    return state.split(maxsplit=1)[0] in {"SUCCESS", "FAILURE", "REVOKED"}


def check(fleet: Fleet, ids: Path, count: int) -> None:
    """Every promise, task by task: late tasks ran and were committed once, early ones ran at most once."""
    lines, states = fleet.lines(), fleet.states(str(ids))
    order = ids.read_text().split()
    assert len(states) == 2 * count
    for number in range(count):
        late, early = states[order[2 * number]], states[order[2 * number + 1]]
        assert late == "SUCCESS", f"late {number} ended as {late}"
        assert lines[f"late-end {number}"] >= 1, f"late {number} has a result but never ran to its end"
        assert lines[f"committed {number}"] == 1, f"late {number} was committed {lines[f'committed {number}']} times"
        assert lines[f"early {number}"] <= 1, f"early {number} ran {lines[f'early {number}']} times"
        if early == "SUCCESS":
            assert lines[f"early-end {number}"] == 1
        else:
            assert early == "FAILURE WorkerLostError", f"early {number} ended as {early}"
            assert lines[f"early {number}"] <= 1
