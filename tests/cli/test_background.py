"""Workers in the background: one by itself, and several together."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from celery.utils.nodenames import gethostname
from celery.utils.pidfiles import is_running

HOST = gethostname()
NOBODY = "redis://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for pid files and logs; the programs whose pid files are left in it are killed."""
    yield tmp_path
    for path in tmp_path.glob("*.pid"):
        pid = int(path.read_text())
        if is_running(pid):
            with suppress(ProcessLookupError):  # it was on its way out
                os.kill(pid, signal.SIGKILL)


def wait(condition: Callable[[], Any], log: Path | None = None) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, log.read_text() if log else "not within a minute"
        time.sleep(0.02)
    return found


def test_a_worker_is_ready_when_the_command_returns(celery: Any, folder: Path) -> None:
    pidfile, log = folder / "w1.pid", folder / "w1.log"
    options = ("-P", "solo", "-l", "INFO", "-n", "w1@%h", "-f", f"{folder}/%n.log", "--pidfile", f"{folder}/%n.pid")
    said = celery("-A", "single", "worker", "-D", *options)
    assert (said.code, said.text) == (0, "")
    wait(lambda: f"w1@{HOST} ready." in log.read_text(), log)  # the next thing that it does
    pid = int(pidfile.read_text())
    assert os.getsid(pid) != os.getsid(0)

    # A second one is refused, whether it goes into the background or stays.
    for mode in (["-D"], []):
        refused = celery("-A", "single", "worker", *mode, *options[:-4], "--pidfile", str(pidfile))
        assert refused.code == os.EX_CANTCREAT
        assert str(pidfile) in refused.err
        assert str(pid) in refused.err

    # It starts anew in place, and stays in the background.
    os.kill(pid, signal.SIGHUP)
    wait(lambda: log.read_text().count(" ready.") == 2, log)
    assert pidfile.read_text() == f"{pid}\n"
    os.kill(pid, signal.SIGTERM)
    wait(lambda: not is_running(pid), log)
    assert not pidfile.exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("-f", "nowhere/w.log"), 1, "nowhere/w.log: No such file or directory"),
        (("--pidfile", "nowhere/w.pid"), 73, "nowhere/w.pid: No such file or directory"),
        (("--uid", "nobody-of-this-name"), 1, "User does not exist: nobody-of-this-name."),
        (("--executable", "/nowhere/python"), 1, "/nowhere/python cannot be run: No such file or directory."),
        (("-I", "broken"), 1, "A module of tasks could not be imported: ModuleNotFoundError"),
        (("-P", "nobody"), 2, "'nobody' is not one of"),
    ],
)
def test_what_keeps_it_from_starting_is_told_to_who_started_it(
    celery: Any, options: tuple[str, ...], code: int, words: str
) -> None:
    said = celery("-A", "single", "worker", "-D", "-P", "solo", *options)
    assert said.code == code
    assert words in said.err


def test_a_broker_out_of_reach_is_told(celery: Any, folder: Path) -> None:
    settings = json.dumps({"broker_connection_retry_on_startup": False, "broker_url": NOBODY})
    said = celery("-A", "settled", "worker", "-D", "-P", "solo", APP_SETTINGS=settings)
    assert said.code == os.EX_UNAVAILABLE
    assert "cannot be reached: Connection refused" in said.err


def test_a_worker_that_waits_for_its_broker_says_so_and_stays(celery: Any, folder: Path) -> None:
    options = ("-P", "solo", "-f", str(folder / "w.log"), "--pidfile", str(folder / "w.pid"))
    said = celery("-A", "single", "-b", NOBODY, "worker", "-D", *options)
    pid = int((folder / "w.pid").read_text())
    assert said.code == 0
    assert f"The worker, process {pid}, stays in the background and tries again." in said.err
    assert is_running(pid)
    os.kill(pid, signal.SIGTERM)
    wait(lambda: not is_running(pid))
    (folder / "w.pid").unlink(missing_ok=True)


def test_its_files_may_be_settings(celery: Any, folder: Path) -> None:
    settings = json.dumps({
        "worker_pidfile": f"{folder}/%n.pid", "worker_logfile": f"{folder}/%n.log", "worker_umask": "077"
    })  # fmt: skip
    said = celery("-A", "settled", "worker", "-D", "-P", "solo", "-l", "INFO", APP_SETTINGS=settings)
    assert said.code == 0, said.err
    assert (folder / "celery.log").stat().st_mode & 0o777 == 0o600
    pid = int((folder / "celery.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    wait(lambda: not is_running(pid), folder / "celery.log")


def test_nodes_are_started_restarted_and_stopped_together(celery: Any, folder: Path) -> None:
    files = (f"--pidfile={folder}/%n.pid", f"--logfile={folder}/%n%I.log")
    nodes = ("one", "two", "-A", "single", "-l", "INFO", "-c", "1", "-c:two", "2", *files)

    def pids() -> list[int]:
        return [int((folder / f"{name}.pid").read_text()) for name in ("one", "two")]

    started = celery("multi", "start", *nodes)
    assert started.code == 0, started.text
    assert [line.split()[1:] for line in started.out.splitlines()[2:]] == [[f"{n}@{HOST}:", "OK"] for n in nodes[:2]]
    first = pids()

    # Each child has a log of its own, by its place.
    celery("-A", "single", "call", "single.shout", "-a", '["hello"]')
    logs = [folder / name for name in ("one-1.log", "two-1.log", "two-2.log")]
    wait(lambda: any("hello" in log.read_text() for log in logs if log.exists()))
    assert not (folder / "one-2.log").exists()

    again = celery("multi", "start", *nodes)
    assert again.code == 1
    assert again.out.count("FAILED") == 2
    assert celery("multi", "restart", *nodes).code == 0
    assert not set(first) & set(pids())
    killed = pids()[1]
    assert celery("multi", "kill", "two", *files).code == 0
    wait(lambda: not is_running(killed))
    stopped = celery("multi", "stopwait", *nodes)
    assert stopped.code == 0
    assert f"> two@{HOST}: DOWN" in stopped.out
    assert not (folder / "one.pid").exists()


def test_a_worker_ends_with_its_terminal(celery: Any, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    log = tmp_path / "out.log"
    command = [sys.executable, "-m", "celery", "-A", "single", "worker", "-P", "solo", "-l", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parent / "project", stdin=theirs, stdout=output, stderr=output
        )
    try:
        wait(lambda: " ready." in log.read_text(), log)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        assert "Warm shutdown" in log.read_text()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


@pytest.mark.skipif(os.getuid() != 0, reason="capability: only the superuser can become somebody else")
def test_a_program_becomes_somebody_else() -> None:
    code = (
        "import os, pwd; from celery.bin.background import become; become('nobody', None, 0o27);"
        "them = pwd.getpwnam('nobody');"
        "print(os.getuid() == them.pw_uid, os.getgid() == them.pw_gid, oct(os.umask(0)), 0 in os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "0o27", "False"]
