"""Packages that others made for Celery, as they are, on this one: each does what it is for, with a real worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rig.packages import ROOT, packages_python

HERE = Path(__file__).parent
PATIENCE = 90.0


@pytest.fixture(scope="session")
def python() -> Path:
    try:
        return packages_python()
    except LookupError as error:
        pytest.skip(str(error))


class Program:
    """One of the applications beside this file: its worker and its clients."""

    def __init__(self, python: Path, module: str, url: str, folder: Path) -> None:
        self.python, self.module, self.folder = str(python), module, folder
        path = os.pathsep.join([str(ROOT / "src"), str(HERE)])
        self.env = {**os.environ, "URL": url, "PYTHONPATH": path, "C_FORCE_ROOT": "1"}
        self.log = folder / "worker.log"

    def run(self, code: str) -> str:
        command = [self.python, "-c", f"from {self.module} import *\n{code}"]
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr + self.said
        return done.stdout

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @contextmanager
    def worker(self, *arguments: str) -> Iterator[None]:
        command = [self.python, "-m", "celery", "-A", self.module, "worker", "-l", "INFO", "-c", "2", *arguments]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.wait(" ready.")
            yield
            process.terminate()
            assert process.wait(PATIENCE) == 0, self.said
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while words not in self.said:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def lines(self, word: str, text: str) -> list[Any]:
        return [json.loads(line.removeprefix(word)) for line in text.splitlines() if line.startswith(f"{word} ")]


def test_sentry_captures_what_fails(python: Path, redis_url: str, tmp_path: Path) -> None:
    program = Program(python, "app_sentry", redis_url, tmp_path)
    with program.worker():
        said = program.run("drive()")
        program.wait('SENTRY ["transaction", "boom"')
    assert "RAISED" in said
    outer = next(line.split()[1] for line in said.splitlines() if line.startswith("OUTER"))
    sent = program.lines("SENTRY", program.said)
    assert ["event", "boom", "ValueError", outer] in sent
    assert ["transaction", "boom", None, outer] in sent, "the trace that began where the task was sent"


def test_spans_of_opentelemetry_hang_together(python: Path, redis_url: str, tmp_path: Path) -> None:
    program = Program(python, "app_otel", redis_url, tmp_path)
    with program.worker():
        said = program.run("drive()")
        program.wait('SPAN ["run/add"')
    [sender] = program.lines("SPAN", said)
    [runner] = program.lines("SPAN", program.said)
    assert (sender[0], runner[0], runner[4]) == ("apply_async/add", "run/add", "SUCCESS")
    assert runner[1] == sender[1]
    assert runner[3] == sender[2]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_batches_singletons_and_once(python: Path, redis_url: str, tmp_path: Path, pool: str) -> None:
    program = Program(python, "app_rest", redis_url, tmp_path)
    before = program.run("before()")
    assert "SINGLE True" in before
    assert "ONCE REJECTED" in before or "ONCE None" in before
    assert "WAIT 2" in before
    with program.worker("-P", pool):
        said = program.run("drive()")
    assert "ADDED [1, 2, 3, 4, 5]" in said
    assert "BATCHES True [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]" in said
    assert "LATE [0, 2]" in said, "so few wait for their time"
    assert "AGAIN 1 1" in said


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_results_and_chords_of_django(python: Path, redis_url: str, tmp_path: Path, pool: str) -> None:
    """django-celery-results: a backend that counts the parts of chords in tables of its own."""
    program = Program(python, "app_django", redis_url, tmp_path)
    program.run("before()")
    with program.worker("-P", pool):
        said = program.run("drive()")
    assert said.splitlines() == ["TASK 3", "CHORD 90", "GROUP 106", "FAILED ChordError"]


def test_what_others_import_is_there(python: Path, redis_url: str, tmp_path: Path) -> None:
    program = Program(python, "app_rest", redis_url, tmp_path)
    program.run(
        "import django\nfrom django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_celery_results'], DATABASES={'default': {'ENGINE':"
        " 'django.db.backends.sqlite3', 'NAME': ':memory:'}})\ndjango.setup()\n"
        "import django_celery_results.backends.database, django_celery_results.backends.cache\n"
        "import pytest_celery.plugin\n"
    )
