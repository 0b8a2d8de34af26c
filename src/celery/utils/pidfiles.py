"""Files that hold the pid of a running program, and keep a second one from starting."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import sys
from pathlib import Path

EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)
PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644
PIDLOCKED = "ERROR: Pidfile ({0}) already exists.\nSeems we're already running? (pid: {1})"


class LockFailed(Exception):
    """The pid file cannot be written."""


class Pidfile:
    """A file that holds the pid of a running program, and keeps a second one from starting.

    The program also holds a lock on the file: after a restart of the machine or the container the number that is in
    it may be somebody else's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - a daemon changes its folder
        self._held = -1

    def acquire(self) -> Pidfile:
        """Write the file; raises `LockFailed` when that is not possible."""
        try:
            self.write_pid()
        except OSError as exc:
            raise LockFailed(str(exc)).with_traceback(exc.__traceback__) from exc
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        return os.path.exists(self.path)  # noqa: PTH110 - path is text

    def release(self, *args: object) -> None:
        self.remove()

    __exit__ = release

    def read_pid(self) -> int | None:
        """The pid in the file, None if there is no file; raises ValueError if it is damaged."""
        try:
            text = Path(self.path).read_text()
        except FileNotFoundError:
            return None
        if not text.endswith("\n"):
            raise ValueError(f"Partial or invalid pidfile {self.path}")
        try:
            return int(text.strip())
        except ValueError:
            raise ValueError(f"pidfile {self.path} contents invalid.") from None

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.unlink(self.path)  # noqa: PTH108 - path is text
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def remove_if_stale(self) -> bool:
        """Remove the file if it is damaged or its program does not run any more; whether the place is free."""
        try:
            pid = self.read_pid()
        except ValueError:
            _complain("Broken pidfile found - Removing it.")
            self.remove()
            return True
        if pid is None or pid == os.getpid():
            self.remove()
            return True
        if self.is_live():
            return False
        _complain("Stale pidfile exists - Removing it.")
        self.remove()
        return True

    def is_live(self) -> bool:
        """Whether the program that wrote the file runs."""
        try:
            pid = self.read_pid()
        except ValueError:
            return False
        return pid is not None and is_running(pid) and (self._is_held() or _may_be_ours(pid))

    def _is_held(self) -> bool:
        """Whether a program of ours holds the lock on the file."""
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - path is text
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def write_pid(self) -> None:
        content = f"{os.getpid()}\n".encode()
        fd = os.open(self.path, PIDFILE_FLAGS, PIDFILE_MODE)
        try:
            os.write(fd, content)
            os.fsync(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        self._held = fd


PIDFile = Pidfile


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its remains that nobody has collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        pass
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return sys.platform != "linux" or Path(f"/proc/{pid}").exists()
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def _may_be_ours(pid: int) -> bool:
    """Whether a process may be a program of this package: its command line says, where it can be read."""
    try:
        return b"celery" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def _complain(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")


def create_pidlock(pidfile: str | os.PathLike[str]) -> Pidfile:
    """`take_pidfile` for a program: if another one runs with this file, this says so and raises SystemExit."""
    check_pidfile(pidfile)
    return take_pidfile(pidfile)


def check_pidfile(pidfile: str | os.PathLike[str]) -> None:
    """Remove a stale pid file; if its program runs, say so and raise SystemExit."""
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        _complain(PIDLOCKED.format(pidfile, lock.read_pid()))
        raise SystemExit(EX_CANTCREAT)


def take_pidfile(pidfile: str | os.PathLike[str]) -> Pidfile:
    """Write the pid file and remove it when the process exits.

    A stale one is replaced. Raises `LockFailed` if its program runs, or it cannot be written.
    """
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        raise LockFailed(
            f"{pidfile}: process {lock.read_pid()} runs with this pid file; stop it first, or use another --pidfile."
        )
    lock.acquire()
    owner = os.getpid()

    def release_if_ours() -> None:
        if os.getpid() == owner:  # a forked child leaves the file to its parent
            lock.release()

    atexit.register(release_if_ours)
    return lock
