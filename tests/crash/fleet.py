"""Workers as real processes over one embedded broker, and the oracle that they write to."""

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

FOLDER = Path(__file__).parent / "oracle"


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

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def lines(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())

    def idle(self) -> bool:
        """Whether no message is left in the queue or with a worker."""
        code = "print(*(s.ready + s.leased + s.delayed for s in app.broker.stats(['celery'])))"
        return self.client(code).strip() == "0"

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
