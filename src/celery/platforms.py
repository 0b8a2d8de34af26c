"""What differs between systems: signals, pid files, daemons, users and groups, process titles."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import platform as _platform
import signal as _signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from celery.exceptions import SecurityError, SecurityWarning
from celery.local import try_import
from celery.utils.deferred import deferred
from celery.utils.pidfiles import (
    EX_CANTCREAT,
    PIDFILE_FLAGS,
    PIDFILE_MODE,
    PIDLOCKED,
    LockFailed,
    Pidfile,
    check_pidfile,
    create_pidlock,
)

if TYPE_CHECKING:
    import ctypes
    import multiprocessing
else:
    ctypes = deferred("ctypes")
    multiprocessing = deferred("multiprocessing")

PIDFile = Pidfile
resource = try_import("resource")
pwd = try_import("pwd")
grp = try_import("grp")
mputil = deferred("multiprocessing.util")

EX_OK = getattr(os, "EX_OK", 0)
EX_FAILURE = 1
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)
EX_USAGE = getattr(os, "EX_USAGE", 64)

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

DAEMON_WORKDIR = "/"

ROOT_DISALLOWED = (
    "This worker runs as the superuser and accepts pickle, so whoever can write to its queues can do anything on this"
    " machine. Use another user (--uid), take pickle out of accept_content, or, if you must, set C_FORCE_ROOT=1."
    " User information: uid={uid} euid={euid} gid={gid} egid={egid}"
)
ROOT_DISCOURAGED = (
    "This worker runs as the superuser, which is not recommended: use another user (--uid)."
    " User information: uid={uid} euid={euid} gid={gid} egid={egid}"
)
ASSUMING_ROOT = "The group of this process has no name here; it is taken for a privileged one."

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP = {getattr(_signal, name): name for name in sorted(SIGNAMES, reverse=True)}


def pyimplementation() -> str:
    """The name of the Python that runs us, with its version where that is not CPython's."""
    name = _platform.python_implementation()
    if name == "PyPy":
        version = sys.pypy_version_info  # type: ignore[attr-defined]  # there on PyPy
        return f"PyPy {'.'.join(map(str, version[:3]))}"
    return name


def get_fdmax(default: int | None = None) -> int | None:
    """The largest number of open files, *default* where there is no limit."""
    try:
        return int(os.sysconf("SC_OPEN_MAX"))
    except (AttributeError, ValueError, OSError):
        pass
    if resource is None:
        return default
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return default if hard == resource.RLIM_INFINITY else int(hard)


# --- Daemons ----------------------------------------------------------------------------------------------------------


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """The open descriptors of these files."""
    wanted = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found = os.stat(path)  # noqa: PTH116 - as many as there are
            wanted.add((found.st_dev, found.st_ino))
    return [fd for fd in range(1, get_fdmax(2048) or 2048) if _identity(fd) in wanted] if wanted else []


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close every descriptor but those to *keep*: numbers, or files."""
    kept = sorted(fd for item in keep or () if (fd := _fileno(item)) is not None)
    low = 0
    for fd in [*kept, get_fdmax(2048) or 2048]:
        if low < fd:  # an empty range that begins at 0 closes everything (CPython 3.11)
            os.closerange(low, fd)
        low = fd + 1


def _fileno(item: Any) -> int | None:
    if isinstance(item, int):
        return item
    try:
        return int(item.fileno())
    except (AttributeError, OSError, ValueError):
        return None


class DaemonContext:
    """Leave the terminal: a new session, the root folder, standard streams on the null device.

    `fake` does everything but the forks, `umask` is a number or octal text, `after_chdir` is called in the new folder.
    """

    _is_open = False

    def __init__(
        self,
        pidfile: Any = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], Any] | None = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds = (sys.stdin, sys.stdout, sys.stderr)

    def open(self) -> None:
        if self._is_open:
            return
        if not self.fake:
            self._detach()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir is not None:
            self.after_chdir()
        if not self.fake:
            # Files that loggers opened stay; the pool of a parent is nobody's here.
            keep = [fd for fd in map(_fileno, self.stdfds) if fd is not None]
            for fd in keep:
                self.redirect_to_null(fd)
        self._is_open = True

    def __enter__(self) -> Self:
        self.open()
        return self

    def close(self, *args: object) -> None:
        self._is_open = False

    __exit__ = close

    def _detach(self) -> None:
        # Twice: the first child leads the new session, the second cannot get a terminal again.
        if os.fork() > 0:
            os._exit(0)
        os.setsid()
        if os.fork() > 0:
            os._exit(0)

    def redirect_to_null(self, fd: int | None) -> None:
        if fd is None:
            return
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A `DaemonContext` for these options; user and group are changed first.

    Opening it fails with the system's error if the log file or the pid file cannot be written.
    """
    if resource is None:
        raise RuntimeError("This platform does not support detaching: run the program under a service manager.")
    maybe_drop_privileges(uid=uid, gid=gid)

    def check_files() -> None:
        if logfile:
            with open(logfile, "a"):  # noqa: PTH123 - only whether it can be opened
                pass
        if pidfile:
            check_pidfile(pidfile)

    return DaemonContext(umask=umask, workdir=workdir, fake=fake, after_chdir=check_files, **opts)


# --- Users and groups -------------------------------------------------------------------------------------------------


def parse_uid(uid: int | str) -> int:
    """The number of a user given by number or name; raises KeyError for an unknown name."""
    try:
        return int(uid)
    except ValueError:
        try:
            return int(pwd.getpwnam(uid).pw_uid)
        except (AttributeError, KeyError):
            raise KeyError(f"User does not exist: {uid}") from None


def parse_gid(gid: int | str) -> int:
    """The number of a group given by number or name; raises KeyError for an unknown name."""
    try:
        return int(gid)
    except ValueError:
        try:
            return int(grp.getgrnam(gid).gr_gid)
        except (AttributeError, KeyError):
            raise KeyError(f"Group does not exist: {gid}") from None


def setgroups(groups: Collection[int]) -> None:
    """Set the supplementary groups, as many as the system takes; without the right to, only if they differ."""
    limit = os.sysconf("SC_NGROUPS_MAX") if hasattr(os, "sysconf") else -1
    wanted = list(groups)[:limit] if limit > 0 else list(groups)
    try:
        os.setgroups(wanted)
    except PermissionError:
        if set(os.getgroups()) - set(wanted):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Take the supplementary groups of a user."""
    os.initgroups(pwd.getpwuid(uid).pw_name, gid)


def setgid(gid: int | str) -> None:
    os.setgid(parse_gid(gid))


def setuid(uid: int | str) -> None:
    os.setuid(parse_uid(uid))


def maybe_drop_privileges(uid: int | str | None = None, gid: int | str | None = None) -> None:
    """Become another user and group: the group first, then the supplementary groups, then the user, for good.

    Without *gid* it is the user's own group. Raises SecurityError if the superuser could still come back.
    """
    if sys.platform == "win32" or (uid is None and gid is None) or (not uid and not gid):
        return
    if os.geteuid() and os.getuid():  # not privileged: only what is so already can be asked for
        if uid is not None and parse_uid(uid) != os.getuid():
            raise SecurityError(
                "This process may not become another user: start it as the superuser, or without --uid."
            )
        return
    number = parse_uid(uid) if uid else None
    group = parse_gid(gid) if gid else None
    if number is not None:
        group = pwd.getpwuid(number).pw_gid if group is None else group
        os.setgid(group)
        initgroups(number, group)
        os.setuid(number)
        with contextlib.suppress(PermissionError):
            os.setuid(0)
            if number:
                raise SecurityError("The user was changed, but could become the superuser again.")
    elif group is not None:
        os.setgid(group)


def check_privileges(accept_content: Collection[str]) -> None:
    """Warn of running as the superuser; raise SecurityError if pickle is accepted too and `C_FORCE_ROOT` is not set."""
    advice = advise_on_privileges(accept_content)
    if advice:
        warnings.warn(advice, SecurityWarning, stacklevel=2)


def advise_on_privileges(accept_content: Collection[str]) -> str:
    """`check_privileges`, but the warning is returned; empty if there is nothing to warn of."""
    if IS_WINDOWS or not hasattr(os, "getuid"):
        return ""
    ids = {"uid": os.getuid(), "euid": os.geteuid(), "gid": os.getgid(), "egid": os.getegid()}
    if ids["uid"] and ids["euid"]:
        return ""
    pickles = {"pickle", "application/x-python-serialize"}
    if pickles & set(accept_content) and not os.environ.get("C_FORCE_ROOT"):
        raise SecurityError(ROOT_DISALLOWED.format(**ids))
    return ROOT_DISCOURAGED.format(**ids)


# --- Signals ----------------------------------------------------------------------------------------------------------

Handler = Callable[[int, FrameType | None], Any] | int | _signal.Handlers | None


class Signals:
    """The signals of this process by name: `signals["INT"] = handler`, `signals.ignore("HUP")`.

    Names are `INT` or `SIGINT`. Setting one that the system does not have, or setting one outside the main thread,
    does nothing: programs name signals that not every system knows.
    """

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Send ALRM after *seconds*."""
        if hasattr(_signal, "setitimer"):
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
        else:
            _signal.alarm(math.ceil(seconds))

    def reset_alarm(self) -> int:
        return _signal.alarm(0)

    def supported(self, name: str) -> bool:
        """Whether the system has a signal of that name."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: str | int) -> int:
        """The number of a signal; raises AttributeError for an unknown one."""
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError("signal name must be uppercase string.")
        return int(getattr(_signal, name if name.startswith("SIG") else f"SIG{name}"))

    def reset(self, *signal_names: str) -> None:
        """Back to the system's own handling."""
        self.update((name, self.default) for name in signal_names)

    def ignore(self, *names: str) -> None:
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: str) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: str, handler: Handler) -> None:
        with contextlib.suppress(AttributeError, ValueError):
            _signal.signal(self.signum(name), handler)

    def update(self, _d_: Any = None, **sigmap: Handler) -> None:
        """Set several handlers."""
        for name, handler in {**dict(_d_ or {}), **sigmap}.items():
            self[name] = handler


signals = Signals()
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: int) -> str:
    """`KILL` for 9."""
    return SIGMAP[signum].removeprefix("SIG")


def set_pdeathsig(name: str) -> None:
    """Have the system send this process a signal when its parent dies (Linux; elsewhere nothing is done)."""
    if not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signals.signum(name))


# --- Process titles ---------------------------------------------------------------------------------------------------


def strargv(argv: list[str]) -> str:
    """The arguments of a command line, without the program."""
    return " ".join(argv[1:])


def set_process_title(progname: str, info: str | None = None) -> str:
    """Show the process as `[progname] info` in `ps`, where setproctitle is installed; the title."""
    title = f"[{progname}]" + (f" {info}" if info else "")
    with contextlib.suppress(ImportError):
        import_module("setproctitle").setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """`set_process_title` with the name of the pool process."""
    if hostname:
        progname = f"{progname}: {hostname}"
    return set_process_title(f"{progname}:{multiprocessing.current_process().name}", info=info)


# --- Errors of the system ---------------------------------------------------------------------------------------------


def get_errno_name(n: int | str) -> int:
    """The number of an error given by number or name."""
    return int(getattr(errno, n)) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: int | str, **kwargs: Any) -> Iterator[None]:
    """Ignore errors of the system by number or name: `with ignore_errno("ENOENT"):`; *types* are OSError's if given."""
    types: Any = kwargs.get("types") or (OSError,)
    numbers = set(map(get_errno_name, errnos))
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in numbers:
            raise


def isatty(fh: Any) -> bool | None:
    """Whether a file is a terminal; None if it cannot be asked."""
    try:
        return bool(fh.isatty())
    except AttributeError:
        return None


__all__ = [
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "PIDFILE_FLAGS",
    "PIDFILE_MODE",
    "PIDLOCKED",
    "SIGMAP",
    "SYSTEM",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "check_privileges",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "ignore_errno",
    "initgroups",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "set_mp_process_title",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
    "signal_name",
    "signals",
]
