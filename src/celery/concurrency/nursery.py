"""Where the processes of a pool come from, on the worker's side: an interpreter that forks them, or one for each."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.process import current_process
from typing import TYPE_CHECKING, Any

from celery.concurrency import template
from celery.concurrency.process import Process, wait_for
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import ctypes
    import subprocess
    from multiprocessing import spawn
else:
    ctypes = deferred("ctypes")
    spawn = deferred("multiprocessing.spawn")
    subprocess = deferred("subprocess")

PATH = "CELERY_POOL_PATH"
"""The variable in which an interpreter finds where to import from, an entry a line."""
PROGRAM = (
    f"import os, sys; sys.path[:] = os.environ.pop({PATH!r}).split(chr(10));"
    " from celery.concurrency.template import main; main({number})"
)
SEND_TIMEOUT = 5.0
"""Seconds a template may take to read what it is asked for."""
END_TIMEOUT = 2.0
"""Seconds a template may take to end by itself."""
PR_SET_CHILD_SUBREAPER = 36


class Nursery:
    """Processes for one pool.

    With *forks* they come from a template, a process that has imported *modules*.  It is started for the first birth,
    and again when it has ended.  Nothing here waits for it: what is asked for while it imports is asked when it is
    ready, so watch `fileno` for reading and call `attend`.

    Where this process can adopt the children of another one, they are its own, and the template can be ended at any
    time.  Elsewhere the template must live as long as they do.
    """

    def __init__(self, modules: Sequence[str], *, forks: bool = True) -> None:
        self.modules = tuple(modules)
        self.forks = forks
        self.adopts = forks and can_adopt()
        self.trouble = ""
        """Why the template has ended by itself."""
        self._channel: socket.socket | None = None
        self.pid = 0
        """The number of the template, or of the last one."""
        self._lifeline = -1
        self._ready = False
        self._asked: deque[tuple[Process, template.Birth, list[int]]] = deque()
        self._unborn: set[Process] = set()
        """Asked of the template, and not there yet."""

    @property
    def runs(self) -> bool:
        """There is a template."""
        return self._channel is not None

    @property
    def busy(self) -> bool:
        """There is something that was asked for and is not there yet."""
        return bool(self._asked or self._unborn)

    def fileno(self) -> int:
        """Turns readable when there is something to `attend` to; only while the template `runs`."""
        assert self._channel is not None
        return self._channel.fileno()

    def ask(
        self, name: str, life: Callable[..., None], arguments: tuple[Any, ...], descriptors: Sequence[int]
    ) -> Process:
        """Ask for a process that calls *life* with *descriptors* and *arguments*. Does not wait for it.

        Raises `OSError` when there can be none.
        """
        own = current_process()
        if getattr(own, "_inheriting", False):
            raise RuntimeError(
                "The main module starts processes when it is imported, which the processes do too: do it under"
                " `if __name__ == '__main__':`."
            )
        birth = template.Birth(name, life, arguments, bytes(own.authkey), _path(), tuple(sys.argv), _folder())
        if not self.forks:
            return _start_child(birth, descriptors)
        if self._channel is None:
            self._start()
        process, numbers = Process(), [os.dup(number) for number in descriptors]
        if not self.adopts:
            reader, writer = os.pipe()
            process = Process(reader)
            numbers.append(writer)
        self._asked.append((process, birth, numbers))
        if self._ready:
            self._send()
        return process

    def attend(self) -> None:
        """Take notice of what the template has said."""
        assert self._channel is not None
        try:
            word = self._channel.recv(16)
        except ConnectionResetError:
            word = b""
        if word:
            self._ready = True
            self._send()
        else:
            code = self._end(END_TIMEOUT)
            self.trouble = f"the template of the pool processes has ended by itself, with exit code {code}"

    def settle(self, process: Process) -> None:
        """*process* is there, or will not be."""
        for entry in self._asked:
            if entry[0] is process:
                self._asked.remove(entry)
                _close(entry[2])
                break
        self._unborn.discard(process)
        if self.adopts:
            _expect_no_more(process)

    def _send(self) -> None:
        assert self._channel is not None
        while self._asked:
            process, birth, numbers = self._asked.popleft()
            self._unborn.add(process)
            if self.adopts:
                _expect(process)
            try:
                template.send(self._channel, birth, numbers)
            except OSError as exc:
                # Whoever waits for this one finds its stream closed.
                self.end()
                self.trouble = f"the template of the pool processes does not answer: {exc!r}"
            finally:
                _close(numbers)

    def _start(self) -> None:
        self.trouble = ""
        reader, writer = os.pipe()
        try:
            self._channel, self.pid = _start_interpreter()
            template.send(self._channel, template.Wish(self.modules, adopted=self.adopts), [reader])
        except BaseException:
            os.close(writer)
            self._drop_channel()
            raise
        finally:
            os.close(reader)
        self._lifeline = writer

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._ready = False

    def end(self) -> None:
        """End the template. What was asked of it and is not there yet will not be."""
        # One that waits for requests ends at once; one that imports may never look up.
        self._end(END_TIMEOUT if self._ready else 0.0)

    def _end(self, patience: float) -> int | None:
        """End the template; its exit code, if it ends by itself within *patience* seconds."""
        if self._channel is None:
            return None
        self._drop_channel()
        for _, _, numbers in self._asked:
            _close(numbers)
        self._asked.clear()
        code = wait_for(self.pid, patience)
        os.close(self._lifeline)
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_for(self.pid, END_TIMEOUT)
        return code


_expected: set[Process] = set()
"""Those of all pools that are to be adopted."""
_expecting = threading.Lock()


def _expect(process: Process) -> None:
    with _expecting:
        _expected.add(process)
        _reap_orphans(True)


def _expect_no_more(process: Process) -> None:
    with _expecting:
        _expected.discard(process)
        if not _expected:
            _reap_orphans(False)


def can_adopt() -> bool:
    """Whether this system can make this process the parent of its children's orphans, and tell it when one ends."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    with _expecting:
        return bool(_expected) or (_reap_orphans(True) and _reap_orphans(False))


def _reap_orphans(wanted: bool) -> bool:
    """Have the kernel make this process, or again the system's first one, the parent of orphans below it."""
    try:
        return bool(_libc().prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _start_child(birth: template.Birth, descriptors: Sequence[int]) -> Process:
    """A child that is an interpreter of its own."""
    channel, pid = _start_interpreter()
    process, numbers = Process(), list(descriptors)
    with channel, contextlib.ExitStack() as after:
        if not hasattr(os, "pidfd_open"):
            # Open in that process alone, and closed by the kernel when it ends.
            reader, writer = os.pipe()
            after.callback(os.close, writer)
            process, numbers = Process(reader), [*descriptors, writer]
        template.send(channel, template.Wish(forks=False))
        template.send(channel, birth, numbers)
    process.known_as(pid)
    return process


def _start_interpreter() -> tuple[socket.socket, int]:
    """An interpreter that runs `template.main`; the socket to it and its number."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-P",  # the path is handed over; where the folder is gone, 3.13.0 imports nothing without
                    "-c",
                    PROGRAM.format(number=theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                env={**os.environ, PATH: "\n".join(_path())},
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
    # It is waited for by its number, not by this object.
    process.returncode = 0
    ours.settimeout(SEND_TIMEOUT)
    return ours, process.pid


def _path() -> tuple[str, ...]:
    return tuple(entry for entry in sys.path if isinstance(entry, str))


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - it is handed on as it is
    except FileNotFoundError:
        return None


def main_module() -> dict[str, Any]:
    """How a child finds the main module of this process, for `template.prepare_main`."""
    data = spawn.get_preparation_data("")
    return {name: value for name, value in data.items() if name.startswith("init_main_")}


def _close(numbers: Sequence[int]) -> None:
    for number in numbers:
        os.close(number)
