"""Waking those who wait, in this process and in others, without polling.

In a process a bell is an event descriptor.  Between processes it is a named pipe in a folder that both know: whoever
waits makes one, whoever has something to tell writes a byte to each.  The name of a pipe says what it listens to.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from celery.utils.descriptors import POLLIN, pipe, poll, read, write

logger = logging.getLogger(__name__)

_RING = b"\1\0\0\0\0\0\0\0"
"""What an event descriptor takes for 1; a pipe takes anything."""
_COARSE = 50_000_000
"""Nanoseconds within which two changes of a folder may bear the same time."""
_MOST_NAMES = 20
"""Names that fit into the name of a pipe; who listens to more hears all."""


class Chime:
    """A bell for one waiter, with a descriptor that is readable from `ring` until `clear`.

    `ring` and `close` may be called by any thread and by a signal handler; `wait` and `clear` belong to the waiter.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.closed = False
        self._reader, self._writer = _open_pair() if descriptor is None else (descriptor, descriptor)
        self._poll = poll()
        self._poll.register(self._reader, POLLIN)

    def fileno(self) -> int:
        return self._reader

    def ring(self) -> None:
        """Wake the waiter, now or at its next `wait`."""
        try:
            write(self._writer, _RING)
        except BlockingIOError:
            return  # it is full of rings: readable as it should be

    def clear(self) -> None:
        """Forget the rings so far."""
        try:
            while len(read(self._reader, 4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def wait(self, timeout: float | None) -> bool:
        """Block until a ring (True, and the rings are forgotten), the close, or the end of *timeout* seconds."""
        if self.closed or not self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000.0):
            return False
        if not self.closed:
            self.clear()
        return not self.closed

    def close(self) -> None:
        """End a `wait` that is under way and all later ones. Idempotent."""
        self.closed = True
        self.ring()

    def __del__(self) -> None:
        # Not in `close`: a thread that rings at that moment would write into whatever gets the number next.
        if hasattr(self, "_writer"):
            os.close(self._reader)
            if self._writer != self._reader:
                os.close(self._writer)


def wait_until(chime: Chime, ready: Callable[[], bool], timeout: float | None) -> bool:
    """Wait on *chime* until *ready* says yes; False when *timeout* seconds passed or the chime was closed."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        if ready():
            return True
        left = None if end is None else end - time.monotonic()
        if chime.closed or (left is not None and left <= 0):
            return False
        chime.wait(left)


def _open_pair() -> tuple[int, int]:
    """(reading end, writing end), one and the same where the system has event descriptors."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    return pipe()


class Belfry:
    """The bells of all processes that share a folder. Thread-safe, and safe to use after a fork.

    What somebody listens to has a *kind* and possibly a name within it.  A ring never blocks; it reaches everyone
    whose `listen` returned before, so: listen first, then look.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place = str(folder)
        self._lock = threading.Lock()
        self._seen = -1
        self._sure = False
        self._found = False
        self._pipes: dict[str, tuple[str, frozenset[str], int]] = {}
        self._by_kind: dict[str, list[tuple[str, frozenset[str], int]]] = {}
        self._warned = False
        _belfries.add(self)

    def listen(self, kind: str, names: Iterable[str] = (), *, changed: Callable[[], object]) -> Chime:
        """A bell for rings of *kind* that are for one of *names* (none: for all of them).

        Where the file system has no named pipes, a thread looks every 20 to 250 ms whether `changed()` returns
        something new.
        """
        marks = [_mark(name) for name in names]
        if len(marks) > _MOST_NAMES:
            marks = []
        path = self.folder / ".".join([kind, str(os.getpid()), f"{next(_serial)}-{time.time_ns():x}", *marks])
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            os.mkfifo(path, 0o600)
        except AttributeError:
            return _PolledChime(path, changed)
        except OSError as error:
            self._warn(error)
            return _PolledChime(path, changed)
        return _PipeChime(path)

    def ring(self, kind: str, names: Iterable[str] = ()) -> None:
        """Ring everyone who listens to *kind* and to one of *names* (none: everyone who listens to *kind*)."""
        if not self._found and not os.access(self._place, os.F_OK):
            return  # nobody ever listened
        try:
            changed = os.stat(self._place).st_mtime_ns  # noqa: PTH116 - on the way of every publish
            self._found = True
        except FileNotFoundError:
            self._found = False
            return
        except OSError as error:
            self._warn(error)
            return
        with self._lock:
            if changed != self._seen or not self._sure:
                self._look(changed)
            pipes = self._by_kind.get(kind)
            if pipes:
                marks = {_mark(name) for name in names}
                for pipe in pipes:
                    if not marks or not pipe[1] or not marks.isdisjoint(pipe[1]):
                        self._ring(pipe)

    def hears(self, kind: str, names: Iterable[str] = ()) -> bool:
        """Whether anybody may listen to *kind* and to one of *names* (none: to *kind*)."""
        marks = {_mark(name) for name in names}
        try:
            found = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return False
        except OSError:
            return True
        pipes = (name.split(".")[3:] for name in found if name.startswith(f"{kind}."))
        return any(not marks or not heard or not marks.isdisjoint(heard) for heard in pipes)

    def close(self) -> None:
        """Close the pipes to others; opened again by the next ring."""
        with self._lock:
            self._forget(set(self._pipes))
            self._seen = -1

    def _look(self, changed: int) -> None:
        """Open the pipes that are new and close those that are gone."""
        # A pipe made within the granularity of the folder's time does not change that time: do not trust a young one.
        self._sure = time.time_ns() - changed > _COARSE
        self._seen = changed
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            self._warn(error)
            return
        self._forget(set(self._pipes) - names)
        for name in names.difference(self._pipes):
            kind, *rest = name.split(".")
            if len(rest) < 2:
                continue  # not made by us
            marks = rest[2:]
            try:
                descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                self._sweep(name)
            else:
                self._pipes[name] = (name, frozenset(marks), descriptor)
                self._by_kind.setdefault(kind, []).append(self._pipes[name])

    def _forget(self, names: set[str]) -> None:
        for name in names:
            pipe = self._pipes.pop(name)
            self._by_kind[name.partition(".")[0]].remove(pipe)
            os.close(pipe[2])

    def _ring(self, pipe: tuple[str, frozenset[str], int]) -> None:
        try:
            write(pipe[2], _RING)
        except BlockingIOError:
            self._sweep(pipe[0])  # full of rings: nobody reads them now, perhaps never again
        except OSError:
            self._sweep(pipe[0])

    def _sweep(self, name: str) -> None:
        """Remove a pipe whose listener has died (one that was just made has no reader yet, but a living owner)."""
        if not _is_alive(int(name.split(".")[1])):
            _unlink(self.folder / name)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "Cannot wake other processes through %s (%s): they will look by themselves once a second. "
                "Make the folder readable and writable for all users of the database.",
                self.folder,
                error.strerror,
            )

    def __del__(self) -> None:
        self.close()


_serial = itertools.count(1)
_belfries: weakref.WeakSet[Belfry] = weakref.WeakSet()
_held: list[Belfry] = []
_forking = threading.Lock()


def _before_fork() -> None:
    """No ring may be under way while the process is copied: the child would never see its lock released."""
    _forking.acquire()
    _held[:] = list(_belfries)
    for belfry in _held:
        belfry._lock.acquire()


def _after_fork() -> None:
    for belfry in _held:
        belfry._lock.release()
    _held.clear()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


@lru_cache(maxsize=4096)
def _mark(name: str) -> str:
    """*name* as it appears in the name of a pipe; two names with the same mark hear each other's rings."""
    return f"{zlib.crc32(name.encode()):08x}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unlink(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


class _PipeChime(Chime):
    """A chime that other processes can ring, by its path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner = os.getpid()
        # Open for reading and writing: it never sees the end of the file when the last ringer leaves.
        super().__init__(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))

    def close(self) -> None:
        super().close()
        if self._owner == os.getpid():
            self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        if not self.closed and self._owner == os.getpid():
            self._path.unlink(missing_ok=True)
        super().__del__()


class _PolledChime(Chime):
    """A chime that rings itself when what it looks at has changed. A folder says that somebody listens, if it can."""

    def __init__(self, path: Path, changed: Callable[[], object]) -> None:
        super().__init__()
        with suppress(OSError):  # whoever made it has been told of the folder that cannot be written to
            path.mkdir()
        self._path = path
        self._stop = threading.Event()
        # What it is now: who listens hears of what changes from here on, whenever the thread begins.
        args = changed, changed()
        threading.Thread(target=self._look, args=args, name="celery-bell", daemon=True).start()

    def _look(self, changed: Callable[[], object], last: object) -> None:
        pause = 0.02
        while not self._stop.wait(pause):
            now = changed()
            pause = 0.02 if now != last else min(pause * 1.2, 0.25)
            if now != last:
                last = now
                self.ring()

    def close(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            with suppress(OSError):
                self._path.rmdir()
        super().close()
