"""`celery beat`, and the beat inside of `celery worker -B`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from celery import VERSION_BANNER, Celery
from celery.utils.pidfiles import is_running
from cli.conftest import PATIENCE, PROJECT, Worker


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    return tmp_path


@contextmanager
def beat(folder: Path, *args: str, app: str = "timed", **env: str) -> Iterator[Worker]:
    """`celery beat` with its schedule in *folder*; stopped at the end if the test has not."""
    log = folder / f"beat-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "celery", "-A", app, "beat", "-l", "INFO", "-s", str(folder / "schedule"), *args]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **env}, stdout=output, stderr=output)
    running = Worker(process, log)
    try:
        yield running
        if process.poll() is None:
            assert running.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def waiting() -> int:
    """Messages of the application in its embedded broker."""
    stats = Celery("timed", set_as_current=False).broker.stats(["celery"])
    return stats[0].ready if stats else 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_sends_until_it_is_told_to_stop(here: Path, signum: int) -> None:
    with beat(here) as running:
        running.expect("Scheduler: Sending due task often (timed.mark)")
        assert running.stop(signum) == 0
    text = running.text()
    for words in (
        f"celery beat v{VERSION_BANNER} is starting.", "LocalTime -> ",
        ". broker -> sqlite://", ". loader -> celery.loaders.app.AppLoader",
        ". scheduler -> celery.beat.PersistentScheduler", f". db -> {here}/schedule", ". logfile -> [stderr]@%INFO",
        ". maxinterval -> 5.00 minutes (300s)", "beat: Starting...", "beat: Shutting down...",
    ):  # fmt: skip
        assert words in text
    assert waiting() >= 1


def test_a_worker_with_a_beat_of_its_own(worker: Any, here: Path) -> None:
    for pool in ("prefork", "threads"):
        with worker(
            "-B", "-c", "1", "-P", pool, "-s", str(here / "schedule"), app="timed", MARKS=str(here / pool)
        ) as it:
            wait(lambda pool=pool: (here / pool).exists() and (here / pool).read_text().count("often\n") >= 3)
            it.expect("beat: Starting...")
            assert it.stop() == 0
        assert "Sending due task often" in it.text()
    # Nothing is sent any more.
    count = waiting()
    time.sleep(0.5)
    assert waiting() == count


def test_workers_whose_beats_share_a_schedule_send_each_tick_once(worker: Any, celery: Any, here: Path) -> None:
    """The schedule in the store: one beat leads, and another takes over when it leaves."""
    marks = here / "marks"

    def more(count: int) -> None:
        before = marks.read_text().count("often\n") if marks.exists() else 0
        wait(lambda: marks.exists() and marks.read_text().count("often\n") >= before + count)

    options = {"app": "timed", "MARKS": str(marks)}
    with worker(
        "-B", "-c", "1", "--scheduler", "store", "-n", "w1@%h", "--health", f"unix:{here}/health", **options
    ) as first:
        more(2)
        assert celery("health", "--socket", f"{here}/health", "--check", "ready", "-t", "30").code == 0
        with worker("-B", "-c", "1", "--scheduler", "store", "-n", "w2@%h", **options) as second:
            second.expect("beat: Starting...")
            more(3)
            assert "Sending due task" not in second.text()
            assert first.stop() == 0
            more(3)
            assert second.stop() == 0
    assert "Sending due task often" in second.text()
    received = re.findall(r"Task timed\.mark\[(\S+)\] received", first.text() + second.text())
    assert len(set(received)) == len(received) >= 8


def test_in_the_background(celery: Any, here: Path) -> None:
    log, pidfile = here / "beat.log", here / "beat.pid"
    options = ("-s", str(here / "schedule"), "-f", str(log), "--pidfile", str(pidfile), "-l", "INFO")
    said = celery("-A", "timed", "beat", "--detach", *options)
    assert (said.code, said.text) == (0, "")
    pid = int(pidfile.read_text())
    try:
        wait(lambda: "Sending due task often" in log.read_text())
        refused = celery("-A", "timed", "beat", *options)
        assert refused.code == os.EX_CANTCREAT
        other = celery("-A", "timed", "beat", "--detach", *options[:2])
        assert other.code == 1
        assert "Another beat has the schedule file" in other.err
        said = celery("-A", "timed", "beat", "--stop", "--pidfile", str(pidfile))
        assert (said.code, said.out) == (0, f"Stopped beat: process {pid}.\n")
    finally:
        if is_running(pid):
            with suppress(ProcessLookupError):  # it was on its way out
                os.kill(pid, signal.SIGKILL)
    assert not pidfile.exists()
    said = celery("-A", "timed", "beat", "--stop", "--pidfile", str(pidfile))
    assert (said.code, said.err) == (1, f"Error: No beat runs by {pidfile}.\n")


def test_stop_without_a_pid_file_stops_all_of_the_application(celery: Any, here: Path) -> None:
    (here / "a").mkdir()
    (here / "b").mkdir()
    with beat(here / "a") as one, beat(here / "b") as two, beat(here, app="single") as other:
        for running in (one, two, other):
            running.expect("beat: Starting...")
        said = celery("-A", "timed", "beat", "--stop")
        assert said.code == 0
        assert {one.process.wait(PATIENCE), two.process.wait(PATIENCE)} == {0}
        assert str(one.process.pid) in said.out
        assert other.process.poll() is None
    said = celery("-A", "timed", "beat", "--stop")
    assert said.code == 1
    assert said.err == "Error: No beat runs for 'timed' by this user on this machine.\n"


def test_one_that_was_killed_leaves_nothing_to_stop(celery: Any, here: Path) -> None:
    with beat(here) as running:
        running.expect("beat: Starting...")
        running.process.kill()
        running.process.wait()
    assert celery("-A", "timed", "beat", "--stop").code == 1
    with beat(here) as again:  # and its schedule file is free
        again.expect("beat: Starting...")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-S", "nowhere:Scheduler"], "The scheduler 'nowhere:Scheduler' cannot be loaded"),
        (["-s", "/nowhere/schedule"], "The schedule file '/nowhere/schedule' cannot be written"),
        (["--max-interval", "x"], "--max-interval"),
        (["-l", "loud"], "--loglevel"),
    ],
)
def test_mistakes_are_told_in_a_sentence(celery: Any, args: list[str], words: str) -> None:
    said = celery("-A", "timed", "beat", *args)
    assert said.code in {1, 2}
    assert words in said.err
    assert "Traceback" not in said.text


def test_all_options_of_celery_are_taken(here: Path) -> None:
    options = (
        "-S celery.beat:Scheduler --max-interval 3 --no-enable-remote-control -n beat@%h --umask 022 --pidfile"
        f" {here}/%n.pid"
    )
    with beat(here, *options.split()) as running:
        running.expect(". scheduler -> celery.beat.Scheduler")
        running.expect(". maxinterval -> 3.00 seconds (3s)")
        wait((here / "beat.pid").exists)


def test_it_says_how_it_is(celery: Any, here: Path) -> None:
    """Over HTTP, and by remote control."""
    with beat(here, "--health", f"unix:{here}/health", "--enable-remote-control", "-n", "b@here", "-S", "store") as it:
        it.expect("Sending due task often")
        metrics = celery("health", "--socket", f"{here}/health", "--check", "metrics", "-t", "30").out
        assert "celery_beat_leader 1" in metrics
        assert "celery_beat_entries 2" in metrics
        assert 'celery_beat_next_run_timestamp_seconds{entry="seldom"}' in metrics
        assert celery("health", "--socket", f"{here}/health", "--check", "live", "-t", "30").code == 0
        said = celery("-A", "timed", "inspect", "ping", "-d", "b@here", "-t", "30")
        assert (said.code, "pong" in said.out) == (0, True), said.text


def test_bad_entries_hold_up_nobody(here: Path) -> None:
    with beat(here, app="badly_timed") as running:
        running.expect("Sending due task good")
        running.expect("Sending due task good")
    text = running.text()
    for words in (
        "Entry 'typo' of the schedule: it is left out: it has no 'shedule'",
        "Entry 'solar' of the schedule: its schedule <crontab: * sunset * * * (m/h/dM/MY/d)> fails: crontab(hour=",
        " needs a place: set beat_location = (latitude, longitude)",
        "Entry 'unknown' of the schedule: this application knows no task 'nowhere.task'.",
    ):
        assert text.count(words) == 1
