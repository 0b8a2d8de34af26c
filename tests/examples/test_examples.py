"""Every example runs as its page says, with a worker in a process of its own; so does the start in the README."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 60.0


@contextmanager
def worker(folder: Path, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-l", "INFO", "-c", "2"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while "ready." not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run(folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session", params=["embedded", "redis"])
def place(request: pytest.FixtureRequest) -> str:
    """Where messages and results are."""
    if request.param == "redis":
        request.getfixturevalue("redis_server")
    return str(request.param)


@pytest.fixture
def somewhere(place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as users set it for that place."""
    if place == "redis":
        for variable in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
            monkeypatch.setenv(variable, request.getfixturevalue("redis_url"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quickstart", "2 + 3 = 5\ndoubled: [0, 2, 4, 6, 8]\na second later: the contents of a page\n"),
        ("async_tasks", "tea, 3 minutes\ntea, 4 minutes\ntea, 5 minutes\n"),
    ],
)
def test_an_example(name: str, expected: str, somewhere: None, tmp_path: Path) -> None:
    with worker(EXAMPLES / name, tmp_path / "worker.log"):
        assert run(EXAMPLES / name, "run.py") == expected


def test_every_example_is_run() -> None:
    tested = {"quickstart", "async_tasks", "stdlib_index"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith("__")} == tested


def test_the_start_in_the_readme(tmp_path: Path) -> None:
    tasks, client = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "tasks.py").write_text(tasks)
    (tmp_path / "client.py").write_text(client)
    with worker(tmp_path, tmp_path / "worker.log"):
        assert run(tmp_path, "client.py") == "5\n9900\nTrue\n"


@pytest.mark.timeout(240)
def test_the_demo(tmp_path: Path) -> None:
    """On a small library of its own: `make demo` takes the whole one."""
    library = tmp_path / "library"
    library.mkdir()
    for number in range(30):
        (library / f"module_{number:02}.py").write_text(f"def function_{number}():\n    return {number}\n")
    (library / "module_07.py").write_text("def broken(:\n")
    done = subprocess.run(
        [sys.executable, "-m", "examples.stdlib_index", str(library)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"^\| (\S+(?: \S+)*) +\| (\S+).*\|$", done.stdout, re.MULTILINE))
    assert rows["files"] == "31"  # one is made by the demo, and is no valid Python either
    assert rows["functions"] == "28"
    assert rows["failures"] == "2"
    assert rows["retries"] == "2"
    assert rows["revoked"] == "1"
    assert "exit code 0" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_interrupted_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """`tests/conftest.py` looks for processes; the folder of the broker goes as well."""
    # In a background job SIGINT is ignored, and what is ignored is inherited.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        demo = subprocess.Popen(
            [sys.executable, "-m", "examples.stdlib_index"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, former)
    assert demo.stdout is not None
    assert "is ready" in demo.stdout.readline()
    assert list(tmp_path.iterdir())
    demo.send_signal(number)
    _, said = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    assert said == "\nInterrupted: the worker is stopped, and its folder removed.\n"
    assert not list(tmp_path.iterdir())
