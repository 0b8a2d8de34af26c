"""What a worker holds of a broker that forgets what it hands out, in files: a killed worker's messages are found there.

Many transports remove a message when a consumer takes it, and leave it to the consumer to put it back.  Each consumer
has a folder here, locked for as long as its process lives; whoever finds one that nobody has locked puts back what is
in it.  That helps on the same machine, and against the end of processes; not against the end of the machine's disk.
Queues that were the consumer's own are noted beside, and are deleted instead.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from celery.bridge.messages import INNER
from celery.utils.digests import sha1
from celery.utils.uuids import uuid
from celery.wire.message import Queue
from celery.wire.protocol import Message

LOCK, OWN = "lock", "own"
HELD, STARTED = ".held", ".started"


class Left(NamedTuple):
    """A message of a consumer that is gone. `queue` is where it came from."""

    queue: str
    message: Message
    started: bool


class _Kept(msgspec.Struct, array_like=True):
    queue: str
    message: Message


_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode = msgspec.msgpack.Decoder(_Kept).decode
_decode_own = msgspec.msgpack.Decoder(list[Queue]).decode


def place(root: Path, url: str, options: Mapping[str, Any]) -> Path:
    """Where what is held of this broker is, below *root*. Options that are words name the broker too."""
    words = sorted((name, value) for name, value in options.items() if isinstance(value, str | os.PathLike))
    return root / sha1(f"{url} {[(name, os.fspath(value)) for name, value in words]}".encode())


class Spool:
    """The folder of one consumer. Thread-safe: each file belongs to one message, and who has that.

    *own*: queues that are to be deleted if this process ends.
    """

    def __init__(self, folder: Path, own: Sequence[Queue] = ()) -> None:
        self._folder = folder / uuid()
        self._folder.mkdir(mode=0o700, parents=True)
        self._lock = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if own:
            (self._folder / OWN).write_bytes(_encode(own))

    def disown(self) -> None:
        """The queues that were its own are deleted, or somebody else's now."""
        (self._folder / OWN).unlink(missing_ok=True)

    def keep(self, number: int, queue: str, message: Message) -> None:
        """From now on *message* is put back if this process ends."""
        path = self._path(number, HELD)
        path.with_suffix(".new").write_bytes(_encode(_Kept(queue, message)))
        path.with_suffix(".new").rename(path)

    def mark(self, numbers: Iterable[int]) -> None:
        """These are started now."""
        for number in numbers:
            self._path(number, HELD).rename(self._path(number, STARTED))

    def drop(self, numbers: Iterable[int]) -> None:
        """These have ended, or are back."""
        for number in numbers:
            self._path(number, HELD).unlink(missing_ok=True)
            self._path(number, STARTED).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let go of the folder: it is removed if it is empty, else whoever sweeps finds it. Idempotent."""
        if self._lock >= 0:
            if os.listdir(self._folder) == [LOCK]:  # noqa: PTH208 - nothing but their names is wanted
                shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def _path(self, number: int, suffix: str) -> Path:
        return self._folder / f"{number:012}{suffix}"


def sweep(folder: Path, put_back: Callable[[Left], object], delete: Callable[[Queue], object]) -> int:
    """Have *put_back* called with what consumers left that are gone, but for what was in queues of their own.

    These go to *delete*.  Returns how many messages were put back; raises what the two raise.
    """
    if not folder.is_dir():
        return 0
    return sum(_sweep_one(consumer, put_back, delete) for consumer in sorted(folder.iterdir()))


def _sweep_one(folder: Path, put_back: Callable[[Left], object], delete: Callable[[Queue], object]) -> int:
    count = 0
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0  # it is being made, or another has swept it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        own = _read_own(folder)
        for path in sorted(folder.iterdir()):
            if path.suffix in {HELD, STARTED}:
                kept = _decode(path.read_bytes())
                if kept.queue not in {name for queue in own for name in (queue.name, INNER + queue.name)}:
                    put_back(Left(kept.queue, kept.message, path.suffix == STARTED))
                    count += 1
                path.unlink()
        for queue in own:
            delete(queue)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return count  # its owner lives
    finally:
        os.close(lock)
    return count


def _read_own(folder: Path) -> list[Queue]:
    try:
        return _decode_own((folder / OWN).read_bytes())
    except FileNotFoundError:
        return []
    except msgspec.DecodeError:
        return []  # its process ended while it wrote that: it had not declared them yet
