"""What is killed, whenever it is killed: nothing is lost and nothing is committed twice.

Real worker processes on the embedded broker, SIGKILL, and an oracle outside the store: a file to which every
execution appends one line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]
FOLDER = Path(__file__).parent / "oracle"
TASKS = int(os.environ.get("CRASH_TASKS", "20000"))


class Fleet:
    """Workers over one embedded broker in one folder, and the oracle they write to."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "oracle.log"
        self.log.touch()
        self.output = folder / "workers.log"
        self.env = {
            **os.environ,
            "CELERY_HOME": str(folder / "home"),
            "ORACLE_LOG": str(self.log),
            "PYTHONPATH": str(FOLDER),
            "C_FORCE_ROOT": "1",
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, *, kill: str = "", concurrency: int = 2) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "oracle_app", "worker", "-l", "WARNING"]
        command += ["-c", str(concurrency), "-n", f"w{len(self.workers)}@%h"]
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                command, env={**self.env, "ORACLE_KILL": kill}, stdout=output, stderr=output, start_new_session=True
            )
        self.workers.append(process)
        return process

    def client(self, code: str, timeout: float = 120) -> str:
        """Run *code* in a producer's process; what it prints."""
        source = f"from oracle_app import *\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", source], env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lines(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())

    def massacre(self) -> None:
        """SIGKILL to every process of every worker at once."""
        for process in self.workers:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.workers:
            process.wait(30)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s; the workers say:\n{self.output.read_text()[-4000:]}")
            time.sleep(0.02)

    def states(self, ids: str) -> dict[str, str]:
        """State of every task id in the file *ids*, with the exception's name for failures."""
        printed = self.client(
            f"ids = open({ids!r}).read().split()\n"
            "for id in ids:\n"
            "    result = app.AsyncResult(id)\n"
            "    state = result.state\n"
            "    print(id, state, type(result.result).__name__ if state == 'FAILURE' else '')\n"
        )
        return {id: " ".join(rest) for id, *rest in map(str.split, printed.splitlines())}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with killing(Fleet(tmp_path)) as fleet:
        yield fleet


@contextmanager
def killing(fleet: Fleet) -> Iterator[Fleet]:
    try:
        yield fleet
    finally:
        fleet.massacre()


def children_of(pid: int) -> list[int]:
    rows = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    table = [tuple(map(int, row.split())) for row in rows.splitlines()]
    found, pending = [], [pid]
    while pending:
        parent = pending.pop()
        below = [child for child, above in table if above == parent]
        found += below
        pending += below
    return found


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
