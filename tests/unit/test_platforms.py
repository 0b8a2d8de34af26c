"""Pid files, signals, daemons, users."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery import platforms
from celery.exceptions import SecurityError, SecurityWarning
from celery.platforms import (
    DaemonContext,
    LockFailed,
    Pidfile,
    close_open_fds,
    create_pidlock,
    detached,
    fd_by_path,
    ignore_errno,
    maybe_drop_privileges,
    parse_gid,
    parse_uid,
    set_mp_process_title,
    set_process_title,
    signal_name,
    signals,
)
from celery.utils.pidfiles import take_pidfile

# --- Pid files --------------------------------------------------------------------------------------------------------


def test_a_pid_file_is_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with Pidfile(path) as lock:
        assert path.read_text() == f"{os.getpid()}\n"
        assert lock.read_pid() == os.getpid()
        assert lock.is_locked()
        with pytest.raises(LockFailed):
            Pidfile(path).acquire()
    assert not path.exists()
    assert Pidfile(path).read_pid() is None


@pytest.mark.parametrize("text", ["bogus\n", "12", ""])
def test_a_damaged_pid_file_is_told_and_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.pid"
    path.write_text(text)
    with pytest.raises(ValueError, match="pidfile"):
        Pidfile(path).read_pid()
    assert Pidfile(path).remove_if_stale()
    assert not path.exists()


def test_a_stale_pid_file_is_replaced(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "w.pid"
    path.write_text(f"{ended.pid}\n")
    lock = create_pidlock(path)
    assert lock.read_pid() == os.getpid()
    lock.release()


IDLE = "import sys; print(1, flush=True); input()"
HOLD = f"from celery.platforms import create_pidlock; import sys; create_pidlock(sys.argv[1]); {IDLE}"


@contextmanager
def running(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has begun, and ends after this."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield program
        program.communicate("")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(HOLD, id="one of ours, which holds the lock"),
        pytest.param(f"# celery\n{IDLE}", id="an original one, by its command line"),
    ],
)
def test_a_running_program_keeps_its_pid_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str) -> None:
    path = tmp_path / "w.pid"
    with running(code, str(path)) as program:
        path.write_text(f"{program.pid}\n")
        with pytest.raises(SystemExit) as caught:
            create_pidlock(path)
        with pytest.raises(LockFailed, match=f"process {program.pid} runs with this pid file"):
            take_pidfile(path)
    assert caught.value.code == platforms.EX_CANTCREAT
    assert f"already running? (pid: {program.pid})" in capsys.readouterr().err


def test_a_pid_file_whose_number_belongs_to_somebody_else_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with running(IDLE) as program:
        path.write_text(f"{program.pid}\n")
        lock = create_pidlock(path)
    assert lock.read_pid() == os.getpid()
    lock.release()


def test_a_pid_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LockFailed, match="No such file"):
        create_pidlock(tmp_path / "no" / "w.pid")


def test_the_pid_file_goes_with_the_process_but_not_with_its_children(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    code = (
        "import os, sys; from celery.platforms import create_pidlock; create_pidlock(sys.argv[1])\n"
        "pid = os.fork()\n"
        "if pid == 0: sys.exit()\n"
        "os.waitpid(pid, 0); print(os.path.exists(sys.argv[1]))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"
    assert not path.exists()


# --- Signals ----------------------------------------------------------------------------------------------------------


def test_signals_by_name() -> None:
    assert signals.signum("TERM") == signals.signum("SIGTERM") == signals.signum(15) == 15
    assert signals.supported("INT")
    assert not signals.supported("NOPE")
    assert (signal_name(9), platforms.SIGMAP[15]) == ("KILL", "SIGTERM")
    with pytest.raises(AttributeError):
        signals.signum("NOPE")
    with pytest.raises(TypeError, match="uppercase"):
        signals.signum("term")


def test_handlers_are_set_ignored_and_reset() -> None:
    before = signals["USR2"]
    got = threading.Event()
    try:
        signals["USR2"] = lambda *args: got.set()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert got.wait(10)
        signals.ignore("USR2", "NOPE")
        assert signals["USR2"] == signals.ignored
        signals.reset("USR2")
        assert signals["USR2"] == signals.default
        signals.update(USR2=signals.ignored, NOPE=signals.ignored)
        assert signals["USR2"] == signals.ignored
    finally:
        signals["USR2"] = before
    signals.arm_alarm(60)
    assert 0 < signals.reset_alarm() <= 60


# --- Daemons and descriptors ------------------------------------------------------------------------------------------

DAEMON = """
import os, sys
from celery.platforms import detached
out = os.path.abspath(sys.argv[1])
print("before", flush=True)
with detached(logfile=out + ".log", workdir=os.path.dirname(out), umask="027"):
    print("to nobody", flush=True)
    facts = f"{os.getsid(0) != os.getpid()} {os.getcwd()} {oct(os.umask(0))}"
    with open(out + ".tmp", "w") as file: file.write(facts)
    os.rename(out + ".tmp", out)
"""


def test_a_daemon_leaves_its_terminal(tmp_path: Path) -> None:
    out = tmp_path / "out"
    read, write = os.pipe()
    process = subprocess.run(
        [sys.executable, "-c", DAEMON, str(out)],
        capture_output=True,
        text=True,
        pass_fds=[write],
        check=True,
        timeout=60,
    )
    os.close(write)
    assert os.read(read, 1) == b""  # the pipe ends when the daemon does
    os.close(read)
    assert process.stdout == "before\n"
    assert out.read_text().split() == ["True", str(tmp_path), "0o27"]
    assert (tmp_path / "out.log").exists()


def test_a_daemon_says_that_its_log_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0)
    os.umask(mask)
    try:
        with pytest.raises(FileNotFoundError):
            detached(logfile=str(tmp_path / "no" / "x.log"), workdir=str(tmp_path), fake=True).open()
        with DaemonContext(fake=True, workdir=str(tmp_path), umask=mask):
            assert Path.cwd() == tmp_path
    finally:
        os.umask(mask)


def test_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        assert fd_by_path([str(tmp_path / "x"), "/no/such/file"]) == [file.fileno()]
    code = (
        "import os; from celery.platforms import close_open_fds\n"
        "a = os.open(os.devnull, 0); b = os.open(os.devnull, 0); c = os.open(os.devnull, 0)\n"
        "close_open_fds([0, 1, 2, b])\n"
        "os.fstat(b)\n"
        "for fd in (a, c):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: print('closed')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "closed\nclosed\n"
    assert callable(close_open_fds)


# --- Users, titles, errors --------------------------------------------------------------------------------------------


def test_users_and_groups() -> None:
    assert (parse_uid("root"), parse_uid("7"), parse_gid("root"), parse_gid(7)) == (0, 7, 0, 7)
    with pytest.raises(KeyError, match="User does not exist: nobody-at-all"):
        parse_uid("nobody-at-all")
    with pytest.raises(KeyError, match="Group does not exist: nobody-at-all"):
        parse_gid("nobody-at-all")
    maybe_drop_privileges()


@pytest.mark.skipif(os.getuid() != 0, reason="capability: only the superuser can become somebody else")
def test_privileges_are_dropped_for_good() -> None:
    code = (
        "import os; from celery.platforms import maybe_drop_privileges as drop\n"
        "drop(uid='nobody'); print(os.getuid() != 0, os.getgid() != 0, 0 in os.getgroups())\n"
        "try: os.setuid(0)\n"
        "except PermissionError: print('for good')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "True True False\nfor good\n"


def test_pickle_as_the_superuser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 0)
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    with pytest.raises(SecurityError, match="C_FORCE_ROOT"):
        platforms.check_privileges(["json", "pickle"])
    with pytest.warns(SecurityWarning, match="superuser"):
        platforms.check_privileges(["json"])
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    with pytest.warns(SecurityWarning, match="superuser"):
        platforms.check_privileges(["application/x-python-serialize"])
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: 1000)
    platforms.check_privileges(["pickle"])


def test_titles() -> None:
    assert set_process_title("celeryd", "busy") == "[celeryd] busy"
    assert set_mp_process_title("celeryd", "busy", hostname="w@h") == "[celeryd: w@h:MainProcess] busy"


def test_errors_by_name() -> None:
    with ignore_errno("ENOENT", errno.EACCES):
        Path("/no/such/file").read_text()
    with pytest.raises(FileNotFoundError), ignore_errno("EACCES"):
        Path("/no/such/file").read_text()


def test_every_public_name_is_there() -> None:
    assert all(hasattr(platforms, name) for name in platforms.__all__)
    assert platforms.PIDFile is Pidfile
