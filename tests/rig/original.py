"""The original Celery, in an environment of its own, and programs of either kind over one application file."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

VERSION = "5.7.0"
PACKAGES = (f"celery[redis]=={VERSION}", "hiredis")
PATIENCE = 240.0
"""Seconds that making the environment may take."""


def cache(name: str) -> Path:
    """Where an environment is kept between runs: below the user's folder for such things."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "celeriac" / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"


def original_python() -> Path:
    """The interpreter of an environment with the original in it, made if need be; see `environment`."""
    return environment(f"original-celery-{VERSION}", *PACKAGES)


def environment(name: str, *packages: str) -> Path:
    """The interpreter of an environment of its own with *packages* in it, made if need be.

    Raises LookupError with one line where it cannot be made.
    """
    folder = cache(name)
    python = folder / "bin" / "python"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # runs at the same time wait for the one that makes it
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                _run(sys.executable, "-m", "venv", str(folder))
                _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages)
                (folder / "complete").touch()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        reason = said.strip().splitlines()[-1] if said.strip() else type(error).__name__
        raise LookupError(f"{' '.join(packages)} cannot be installed into {folder}: {reason}") from error
    return python


def _run(*command: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE, env=env)


class Party:
    """Producers and workers of one kind over the application `app` of the module in *file*; *env* is theirs too."""

    def __init__(self, name: str, python: Path | str, file: Path, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.python = str(python)
        self.file = file
        self.folder = folder
        self.env = {**os.environ, **env, "PYTHONPATH": str(file.parent), "C_FORCE_ROOT": "1"}
        self.env.pop("CELERY_HOME", None)
        self.workers: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, code: str, timeout: float = 100) -> str:
        """Run *code* beside the application; what it prints."""
        command = [self.python, "-c", f"from {self.file.stem} import *\n{code}"]
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{self.name}: {done.stderr}"
        return done.stdout.strip()

    def celery(self, *words: str, code: int = 0, timeout: float = 100) -> str:
        """What the command line of this kind prints for the application; it must end with *code*."""
        command = [self.python, "-m", "celery", "-A", self.file.stem, *words]
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == code, f"{self.name}: celery {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def worker(self, *arguments: str, concurrency: int = 2) -> subprocess.Popen[bytes]:
        """A worker that consumes when this returns."""
        command = [self.python, "-m", "celery", "-A", self.file.stem, "worker", "-l", "INFO", "-c", str(concurrency)]
        command += ["-n", f"{self.name}{len(self.workers)}@%h", *arguments]
        log = self._log(len(self.workers))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        self.workers.append(process)
        self.wait(lambda: " ready." in log.read_text(errors="replace"))
        return process

    @contextmanager
    def client(self, code: str) -> Iterator[subprocess.Popen[str]]:
        """*code* beside the application, running; ended with the block."""
        command = [self.python, "-c", f"from {self.file.stem} import *\n{code}"]
        process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL to a worker and all its processes."""
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(30)

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.name}{number}.log"

    @property
    def said(self) -> str:
        """What its workers have written."""
        return "".join(self._log(number).read_text(errors="replace") for number in range(len(self.workers)))

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s; {self.name} says:\n{self.said[-4000:]}")
            time.sleep(0.02)

    def end(self) -> None:
        """End all workers, by force: what they held is flushed with the server's database."""
        for process in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@contextmanager
def ending(*parties: Party) -> Iterator[None]:
    try:
        yield
    finally:
        for party in parties:
            party.end()
