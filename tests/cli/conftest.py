"""The program `celery`, run as its users run it: as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"
PATIENCE = 60.0


@dataclass(frozen=True)
class Said:
    """What a finished command said."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Program:
    """Runs commands of `celery` in the folder of the test's project, with the state folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, stdin: str | None = None, timeout: float = PATIENCE, **env: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "celery", *args],
            cwd=PROJECT,
            env={**os.environ, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def worker(self, *args: str, app: str = "single", ready: bool = True, **env: str) -> Iterator[Worker]:
        """A worker, which is ready unless told otherwise; it is stopped warmly if the test has not stopped it."""
        log = self.folder / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", *args]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **env}, stdout=output, stderr=output)
        worker = Worker(process, log)
        try:
            if ready:
                worker.expect("ready.")
            yield worker
            if process.poll() is None:
                worker.stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class Worker:
    """A worker in the background, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def expect(self, words: str) -> None:
        """Wait until *words* are in the log."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.text():
            assert self.process.poll() is None, f"the worker ended:\n{self.text()}"
            assert time.monotonic() < deadline, f"{words!r} was never logged:\n{self.text()}"
            time.sleep(0.02)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the worker ended:\n{self.text()}"
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture
def celery(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def worker(celery: Program) -> Callable[..., AbstractContextManager[Worker]]:
    return celery.worker
