"""`celery worker --reload`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery.bin import reload

SOURCE = """
import os
from celery import Celery
app = Celery("changing")

@app.task
def which():
    return {version!r}
"""


class Changing:
    """A project whose source changes, and its worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "worker.out"
        self.write(SOURCE.format(version="one"))
        command = [sys.executable, "-m", "celery", "-A", "changing", "worker", "--reload", "-P", "solo", "-l", "INFO"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.env
            )

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, source: str) -> None:
        """In one step: two changes would be two new workers, if they came apart from each other."""
        draft = self.folder / "draft"
        draft.write_text(source)
        draft.replace(self.folder / "changing.py")

    def wait(self, condition: Callable[[str], Any]) -> None:
        until = time.monotonic() + 60
        while not condition(self.log.read_text()):
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def ready(self, times: int) -> None:
        self.wait(lambda said: said.count(" ready.") == times)

    def ask(self) -> str:
        code = "from changing import *; print(which.delay().get(timeout=30))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=self.env)
        return done.stdout.strip() or done.stderr


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Changing]:
    made = Changing(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.terminate()
        made.process.wait(60)


def test_a_worker_starts_anew_when_its_source_changes(changing: Changing) -> None:
    changing.ready(1)
    assert changing.ask() == "one"
    changing.write(SOURCE.format(version="two"))
    changing.ready(2)
    assert "reload: changing.py changed" in changing.log.read_text()
    assert changing.ask() == "two"

    # Half a program: it waits for the rest.
    changing.write("from celery import Celery\napp = Celery(")
    changing.wait(lambda said: "it is tried again at the next change" in said)
    assert changing.process.poll() is None
    changing.write(SOURCE.format(version="three"))
    changing.ready(3)
    assert changing.ask() == "three"

    changing.process.send_signal(signal.SIGTERM)
    assert changing.process.wait(60) == 0
    assert changing.log.read_text().count("Warm shutdown") == 3


def test_it_is_no_way_to_run_in_the_background(celery: Any) -> None:
    said = celery("-A", "single", "worker", "--reload", "-D")
    assert said.code == 2
    assert "--reload is for development" in said.err


def test_the_package_is_missing(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "watchfiles.py").write_text("raise ImportError\n")
    said = celery("-A", "single", "worker", "--reload", PYTHONPATH=str(tmp_path))
    assert said.code == 1
    assert said.err == "Error: --reload needs the package watchfiles: pip install 'celery[reload]'.\n"


def test_the_source_is_watched_before_the_worker_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is saved while it starts is no change to a worker that has read it, and one to a worker that has not."""
    happened = []

    def watch(*paths: str, stop_event: Any, **options: Any) -> Iterator[Any]:
        happened.append("watches")
        while not stop_event.is_set():
            pass
        yield from ()

    def begin(supervisor: reload.Supervisor) -> None:
        happened.append("begins")
        supervisor.ended.set()

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch, PythonFilter=object))
    monkeypatch.setattr(reload.Supervisor, "begin", begin)
    assert reload.watch_and_run([str(tmp_path)]) == 0
    assert happened == ["watches", "begins"]


def test_who_wants_an_end_while_the_worker_is_made_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = reload.Supervisor()
    make = subprocess.Popen

    def told_meanwhile(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        supervisor.tell(signal.SIGTERM)
        return make([sys.executable, "-c", "import time; time.sleep(60)"])

    monkeypatch.setattr(subprocess, "Popen", told_meanwhile)
    supervisor.begin()
    assert supervisor.end() == 128 + signal.SIGTERM
    assert supervisor.is_set()
