"""The shutdown ladder of a real worker: what each signal does to running and waiting tasks, and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.crash
FOLDER = Path(__file__).parent / "ladder"


class Ladder:
    """A worker process, a folder in which its tasks say what they do, and a client's view of the results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "worker.log"
        self.env = {
            **os.environ,
            "CELERY_HOME": str(folder / "home"),
            "LADDER_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
            "C_FORCE_ROOT": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, ready: bool = True, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "ladder_app", "worker", "-l", "INFO", "-c", "1", *arguments]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**self.env, **env}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        if ready:
            self.wait(lambda: " ready." in self.said)
        return self.process

    @property
    def said(self) -> str:
        return self.output.read_text()

    def client(self, code: str) -> str:
        """Run *code* beside the app; what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", f"from ladder_app import *\n{code}"],
            env=self.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def send(self, task: str, *names: str) -> None:
        self.client(f"[{task}.apply_async((name,), task_id=name) for name in {names!r}]")

    def state(self, name: str) -> str:
        return self.client(f"r = app.AsyncResult({name!r}); print(r.state, type(r.result).__name__)")

    def stats(self) -> str:
        return self.client("[s] = app.broker.stats(['celery']); print(s.ready, s.leased, s.dead)")

    def signal(self, name: str) -> None:
        assert self.process is not None
        self.process.send_signal(getattr(signal, name))

    def exit(self, seconds: float = 30.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def wait_for(self, name: str) -> None:
        self.wait((self.folder / f"{name}.began").exists)

    def end(self, name: str) -> None:
        (self.folder / f"{name}.end").touch()

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s; the worker says:\n{self.said[-3000:]}")
            time.sleep(0.02)


@pytest.fixture
def ladder(tmp_path: Path) -> Iterator[Ladder]:
    ladder = Ladder(tmp_path)
    yield ladder
    if ladder.process is not None and ladder.process.poll() is None:
        ladder.process.kill()
        ladder.process.wait(10)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 0), ("SIGINT", 1)])
def test_warm_finishes_what_runs_and_gives_back_the_rest(ladder: Ladder, name: str, code: int) -> None:
    ladder.start()
    ladder.send("early", "a", "b", "c")
    ladder.wait_for("a")
    ladder.signal(name)
    ladder.wait(lambda: ladder.stats() == "2 1 0")
    ladder.end("a")
    assert ladder.exit() == code
    assert "worker: Warm shutdown (MainProcess)" in ladder.said
    assert ladder.state("a") == "SUCCESS str"
    assert ladder.stats() == "2 0 0"


def test_cold_requeues_late_ack_tasks(ladder: Ladder) -> None:
    ladder.start()
    ladder.send("late", "a", "b")
    ladder.wait_for("a")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert "worker: Cold shutdown (MainProcess)" in ladder.said
    assert ladder.stats() == "2 0 0"
    assert ladder.state("a").startswith("PENDING")


def test_cold_fails_early_ack_tasks(ladder: Ladder) -> None:
    ladder.start()
    ladder.send("early", "a", "b")
    ladder.wait_for("a")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert ladder.state("a") == "FAILURE WorkerLostError"
    assert ladder.stats() == "1 0 0"


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT"])
def test_the_second_signal_is_cold(ladder: Ladder, first: str) -> None:
    ladder.start()
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal(first)
    ladder.wait(lambda: "Warm shutdown" in ladder.said)
    ladder.signal(first)
    assert ladder.exit() == (1 if first == "SIGINT" else 0)
    assert ladder.stats() == "1 0 0"


def test_a_remapped_term_is_cold(ladder: Ladder) -> None:
    ladder.start(REMAP_SIGTERM="SIGQUIT")
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal("SIGTERM")
    assert ladder.exit() == 0
    assert ladder.stats() == "1 0 0"


def test_a_soft_shutdown_gives_what_runs_some_time(ladder: Ladder) -> None:
    ladder.start(LADDER_SOFT="20")
    ladder.send("early", "a")
    ladder.wait_for("a")
    ladder.signal("SIGQUIT")
    ladder.wait(lambda: "Soft shutdown" in ladder.said)
    ladder.end("a")
    assert ladder.exit() == 0
    assert ladder.state("a") == "SUCCESS str"


def test_a_soft_shutdown_ends(ladder: Ladder) -> None:
    ladder.start(LADDER_SOFT="0.5")
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert "Cold shutdown" in ladder.said
    assert ladder.stats() == "1 0 0"


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_cold_ends_pools_that_share_the_process(ladder: Ladder, pool: str) -> None:
    ladder.start("-P", pool)
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert ladder.stats() == "1 0 0"


def test_an_idle_worker_needs_no_soft_shutdown(ladder: Ladder) -> None:
    ladder.start(LADDER_SOFT="20")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert "Soft shutdown" not in ladder.said


def test_an_idle_worker_goes_through_a_soft_shutdown_if_it_is_to(ladder: Ladder) -> None:
    ladder.start(LADDER_SOFT="20", LADDER_SOFT_IDLE="1")
    ladder.signal("SIGQUIT")
    assert ladder.exit() == 0
    assert "shutting down: SIGQUIT Soft 0" in ladder.said


def test_the_last_rung_ends_a_worker_that_cannot_climb_down(ladder: Ladder) -> None:
    process = ladder.start(LADDER_STUCK="1")
    ladder.signal("SIGINT")
    ladder.wait_for("shutdown")
    ladder.signal("SIGINT")
    ladder.wait(lambda: "Cold shutdown" in ladder.said)
    ladder.signal("SIGTERM")  # asks for no more than that
    assert process.poll() is None
    ladder.signal("SIGINT")
    assert ladder.exit() == 1
    assert "Hard shutdown" in ladder.said


def test_how_it_ends_is_told_to_receivers_of_the_signal(ladder: Ladder) -> None:
    ladder.start()
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal("SIGINT")
    ladder.wait(lambda: "shutting down: SIGINT Warm 1" in ladder.said)
    ladder.signal("SIGINT")
    assert ladder.exit() == 1
    assert "shutting down: SIGINT Cold 1" in ladder.said


def test_stacks_are_logged_on_request(ladder: Ladder) -> None:
    log = ladder.folder / "the.log"
    ladder.start("-f", str(ladder.folder / "the.log"), ready=False)
    ladder.wait(lambda: log.exists() and " ready." in log.read_text())
    ladder.signal("SIGUSR1")
    ladder.wait(lambda: all(name in log.read_text() for name in ("MainThread", "celery-leases")))
    ladder.signal("SIGTERM")
    assert ladder.exit() == 0


def test_hangup_runs_the_worker_anew_when_its_tasks_have_ended(ladder: Ladder) -> None:
    process = ladder.start("-n", "again@%h", "--pidfile", str(ladder.folder / "w.pid"))
    ladder.send("early", "a")
    ladder.wait_for("a")
    ladder.signal("SIGHUP")
    ladder.wait(lambda: "Restarting celery worker (" in ladder.said)
    ladder.end("a")
    ladder.wait(lambda: ladder.said.count(" ready.") == 2)
    assert process.poll() is None
    assert (ladder.folder / "w.pid").read_text() == f"{process.pid}\n"
    assert ladder.state("a") == "SUCCESS str"
    ladder.send("early", "b")
    ladder.wait_for("b")
    ladder.end("b")
    ladder.wait(lambda: ladder.state("b") == "SUCCESS str")
    ladder.signal("SIGTERM")
    assert ladder.exit() == 0
    assert not (ladder.folder / "w.pid").exists()


def test_a_worker_that_is_stopped_while_it_restarts_ends(ladder: Ladder) -> None:
    ladder.start()
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.signal("SIGHUP")
    ladder.wait(lambda: "Restarting celery worker" in ladder.said)
    ladder.signal("SIGTERM")
    assert ladder.exit() == 0
    assert ladder.stats() == "1 0 0"


def test_a_terminated_task_is_revoked_and_the_worker_lives_on(ladder: Ladder) -> None:
    ladder.start()
    ladder.send("late", "a")
    ladder.wait_for("a")
    ladder.client("app.control.revoke('a', terminate=True)")
    ladder.send("late", "b")
    ladder.wait_for("b")
    ladder.end("b")
    ladder.wait(lambda: ladder.state("b") == "SUCCESS str")
    assert ladder.state("a") == "REVOKED TaskRevokedError"
    ladder.signal("SIGTERM")
    assert ladder.exit() == 0
