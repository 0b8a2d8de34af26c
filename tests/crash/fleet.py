"""Workers as real processes over one broker, and the oracle that they write to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "oracle"
TESTS = Path(__file__).parents[1]
LEASE = 1.5
Process = subprocess.Popen[bytes]


class Fleet:
    """Workers over one broker, and the oracle they write to.

    Without *broker* it is the embedded one, in *folder*; results are beside the messages unless *backend* says where.
    *settings* are the application's.
    """

    def __init__(
        self, folder: Path, *, broker: str = "", backend: str = "", lease: float = LEASE, **settings: Any
    ) -> None:
        self.folder = folder
        self.lease = lease
        self.settings: dict[str, Any] = {"worker_lease": lease, **settings}
        if broker:
            self.settings |= {"broker_url": broker, "result_backend": backend or broker}
        self.log = folder / "oracle.log"
        self.log.touch()
        self.env = {
            **os.environ,
            "CELERY_HOME": str(folder / "home"),
            "ORACLE_LOG": str(self.log),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), str(TESTS), os.environ.get("PYTHONPATH")])),
            "C_FORCE_ROOT": "1",
        }
        self.workers: list[Process] = []
        self._client: Process | None = None

    def environment(self, **settings: Any) -> dict[str, str]:
        return {**self.env, "ORACLE_SETTINGS": json.dumps({**self.settings, **settings})}

    def start(
        self, *arguments: str, kill: str = "", concurrency: int = 2, ready: bool = False, **settings: Any
    ) -> Process:
        """A worker; *settings* are its own. Returns when it consumes if *ready*, else at once.

        *kill* names a point at which it kills itself, as the application of the oracle says.
        """
        command = [sys.executable, "-m", "celery", "-A", "oracle_app", "worker", "-l", "WARNING", *arguments]
        command += ["-c", str(concurrency), "-n", f"w{len(self.workers)}@%h"]
        output, index = self.folder / f"w{len(self.workers)}.log", len(self.workers)
        env = {**self.environment(**settings), "ORACLE_KILL": kill, "ORACLE_READY": str(self.folder / f"ready{index}")}
        with output.open("ab") as file:
            process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
        self.workers.append(process)
        if ready:
            self.wait(lambda: process.poll() is not None or (self.folder / f"ready{index}").exists())
            assert process.poll() is None, f"the worker ended with {process.returncode}:\n{self.said[-4000:]}"
        return process

    def client(self, code: str, timeout: float = 120) -> str:
        """Run *code* in the process of a producer, which is the same one for the whole fleet; what it prints."""
        if self._client is None:
            command, log = [sys.executable, str(FOLDER / "client.py")], (self.folder / "client.log").open("ab")
            with log:
                self._client = subprocess.Popen(
                    command, env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
                )
        asked, answers = self._client.stdin, self._client.stdout
        assert asked is not None
        assert answers is not None
        asked.write(json.dumps(code).encode() + b"\n")
        asked.flush()
        raw = b""
        deadline = time.monotonic() + timeout
        poller = select.poll()  # select takes no descriptor above 1023
        poller.register(answers, select.POLLIN)
        while not raw.endswith(b"\n"):
            ready = poller.poll(1000 * max(0.0, deadline - time.monotonic()))
            assert ready, f"no answer within {timeout} s to:\n{code}"
            read = os.read(answers.fileno(), 1 << 20)
            assert read, (self.folder / "client.log").read_text()
            raw += read
        printed, trouble = json.loads(raw)
        assert not trouble, trouble
        return str(printed)

    def publish(self, count: int, *, seconds: float = 0.0, early: bool = True, first: int = 0) -> list[str]:
        """Send *count* late-ack tasks with a callback each, and as many early ones; the ids, late and early in turn.

        Their numbers begin with *first*.
        """
        early_line = f"        ids.append(early.delay(n, {seconds}).id)\n" if early else ""
        printed = self.client(
            "ids = []\n"
            "with app.bulk():\n"
            f"    for n in range({first}, {first + count}):\n"
            f"        ids.append(late.apply_async((n, {seconds}), link=committed.si(n)).id)\n"
            f"{early_line}"
            "print(*ids)\n"
        )
        return printed.split()

    @property
    def said(self) -> str:
        """What the workers have written, the first one's first."""
        files = [self.folder / f"w{index}.log" for index in range(len(self.workers))]
        return "".join(file.read_text(errors="replace") for file in files)

    def lines(self) -> Counter[str]:
        """The oracle's lines, each with the number of times it is there."""
        return Counter(self.log.read_text().splitlines())

    def commits(self) -> dict[int, set[str]]:
        """The callbacks that have run, by number: each commit of a task sends one, with a tag of its own."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for line in self.log.read_text().splitlines():
            if line.startswith("committed "):
                _, number, tag = line.split()
                found[int(number)].add(tag)
        return found

    def begun(self) -> int:
        """How many different tasks have been executed, once or more."""
        return sum(1 for line in self.lines() if line.startswith(("late ", "early ")))

    def executions(self) -> int:
        return sum(count for line, count in self.lines().items() if line.startswith(("late ", "early ")))

    def counts(self) -> str:
        """How many messages are ready, leased, delayed and dead."""
        return self.client("[s] = app.broker.stats(['celery']); print(s.ready, s.leased, s.delayed, s.dead)").strip()

    def idle(self) -> bool:
        """Whether no message is left in the queue or with a worker."""
        return self.counts().startswith("0 0 0 ")

    def close(self) -> None:
        """End everything."""
        self.massacre()
        if self._client is not None:
            self._client.kill()
            self._client.communicate()

    def massacre(self) -> None:
        """SIGKILL to every process of every worker at once."""
        for process in self.workers:
            slaughter(process)
        for process in self.workers:
            process.wait(30)

    def slots(self, worker: Process) -> list[int]:
        """The processes that run tasks for *worker*; waits until there is one."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [child for child in children_of(worker.pid) if _is_slot(child)]
            return bool(found)

        self.wait(look)
        return found

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s; the workers say:\n{self.said[-4000:]}")
            time.sleep(0.02)

    def wait_for_more(self, ran: int, more: int, of: int, seconds: float = 60) -> None:
        """Until *more* have begun than had *ran*, or all there are: *of*."""
        self.wait(lambda: self.begun() >= min(ran + more, of), seconds)

    def kill_pairs(self, count: int, rounds: int, *, seconds: float = 0.0) -> list[str]:
        """Publish so many tasks of both kinds, and kill two workers that are at it, in so many rounds; the ids.

        Some are left to do, or the test proves nothing: as many again are sent where this process was too slow.
        """
        ids = self.publish(count, seconds=seconds)
        while True:
            begun = self.begun()
            for round in range(1, rounds + 1):
                pair = [self.start(), self.start()]
                self.wait(lambda goal=begun + round * count // 4: self.begun() >= goal, 120)  # type: ignore[misc]
                for worker in pair:
                    slaughter(worker)
            if self.begun() < len(ids):
                return ids
            ids += self.publish(count, seconds=seconds, first=len(ids) // 2)

    def states(self, ids: Sequence[str] | Path | str) -> dict[str, str]:
        """State of every task id (in a file, if it is a path), with the exception's name for failures."""
        if isinstance(ids, (str, Path)):
            ids = Path(ids).read_text().split()
        asked = self.folder / "asked"
        asked.write_text(" ".join(ids))
        printed = self.client(
            f"ids = open({str(asked)!r}).read().split()\n"
            "for id in ids:\n"
            "    result = app.AsyncResult(id)\n"
            "    state = result.state\n"
            "    print(id, state, type(result.result).__name__ if state == 'FAILURE' else '')\n"
        )
        return {id: " ".join(rest) for id, *rest in map(str.split, printed.splitlines())}

    def settle(self, ids: Sequence[str], seconds: float = 60) -> dict[str, str]:
        """Wait until all of these tasks have ended; their states."""
        states: dict[str, str] = {}

        def ended() -> bool:
            states.update(self.states([id for id in ids if not is_final(states.get(id, ""))]))
            return all(is_final(states[id]) for id in ids)

        self.wait(ended, seconds)
        return states


def is_final(state: str) -> bool:
    return state.partition(" ")[0] in {"SUCCESS", "FAILURE", "REVOKED"}


def slaughter(process: Process) -> None:
    """SIGKILL to a worker and all below it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def stop(process: Process) -> None:
    """Let a worker and all below it stand still."""
    os.killpg(process.pid, signal.SIGSTOP)


def go_on(process: Process) -> None:
    os.killpg(process.pid, signal.SIGCONT)


@contextmanager
def killing(fleet: Fleet) -> Iterator[Fleet]:
    try:
        yield fleet
    finally:
        fleet.close()


def check_promises(fleet: Fleet, ids: Sequence[str], *, lost_early: bool = True) -> None:
    """Every promise, task by task, of what `Fleet.publish` sent and everything that has become of it.

    Late tasks ran and were committed exactly once; early ones ran at most once, and end as SUCCESS, or, where a worker
    was killed (*lost_early*), as WorkerLostError.
    """
    fleet.wait(lambda: len(fleet.commits()) >= len(ids) // 2)
    fleet.wait(fleet.idle)
    lines, states, commits = fleet.lines(), fleet.states(ids), fleet.commits()
    for number in range(len(ids) // 2):
        late, early = states[ids[2 * number]], states[ids[2 * number + 1]]
        assert late == "SUCCESS", f"late {number} ended as {late}"
        assert lines[f"late-end {number}"] >= 1, f"late {number} has a result but never ran to its end"
        assert len(commits[number]) == 1, f"late {number} was committed {len(commits[number])} times"
        assert lines[f"early {number}"] <= 1, f"early {number} ran {lines[f'early {number}']} times"
        if early == "SUCCESS":
            assert lines[f"early-end {number}"] == 1
        else:
            assert lost_early, f"early {number} ended as {early} although no worker was killed"
            assert early == "FAILURE WorkerLostError", f"early {number} ended as {early}"


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


def _is_slot(pid: int) -> bool:
    """Whether a child of the worker is a process that runs tasks, and no template of such."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "celery-pool\n"
    except OSError:
        return False
