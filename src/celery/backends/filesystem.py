"""Results in a folder that workers and clients share: `file:///path`. Each is a file, as original Celery has it.

A file is called like its key and holds the value alone; what is known of it besides stands in a file beside it,
`celeriac.<key>`, where that cannot be told from the value: how final it is, who wrote it, when it ends.  Without such
a file it ends `expires` seconds (the setting `result_expires`) after it was written.  Files appear whole: they are
written under another name and renamed.  Whoever writes holds a lock on `celeriac.lock`, across processes, and on
NFS across machines.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec

from celery.backends.polls import PollingWatch
from celery.backends.store import TERMINAL, Store, StoreCapabilities, Watch, in_order
from celery.exceptions import BackendError, ImproperlyConfigured
from celery.utils.clock import SYSTEM, Clock
from celery.utils.digests import sha1
from celery.wire.message import Arrival, Record

BESIDE = "celeriac."
LOCK, JOINS = "celeriac.lock", "celeriac.joins"
COMPLETE = "complete"
JOIN_KEPT = 86_400.0
"""Seconds a completed join is kept, so that a late copy of one of its parts is recognised."""
EXPIRES = 86_400.0
EXPIRE_FOR = 0.5
"""Seconds after which `expire` returns although there is more."""
LONGEST = 200
"""Bytes of a name; above that a hash stands for the rest."""
_STATUS = re.compile(rb'\{"status": ?"(SUCCESS|FAILURE|REVOKED)"').match


class _Note(msgspec.Struct):
    """What stands beside a value. It is about the value with that digest and no other."""

    digest: str
    final: int = 0
    writer: str = ""
    expires: float | None = None


class _Value(msgspec.Struct):
    data: bytes
    final: int
    writer: str | None
    """None: of original Celery, or a success."""


class FilesystemStore(Store):
    """A store in one folder. Option: `expires` (seconds)."""

    can = StoreCapabilities(durable=True, shared=True, notify=False, expire=True)

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.folder = folder_of(url)
        given = self.options.get("expires", EXPIRES)
        self.expires = float(given) if given else None

    def close(self) -> None:
        """Nothing is kept open."""

    def put(self, records: Sequence[Record]) -> list[bool]:
        if not records:
            return []
        with self._locked():
            return [self._put(record) for record in records]

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._trouble():
            return [None if (found := self._read(_name(key))) is None else found.data for key in keys]

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        with self._locked():
            self._write(_name(key), value, 0, "", ttl)

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> None:
        with self._locked():
            for key, value in values.items():
                self._write(_name(key), value, 0, "", ttl)

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        with self._locked():
            name = _name(key)
            if self._read(name) is not None:
                return False
            self._write(name, value, 0, "", ttl)
            return True

    def delete(self, keys: Sequence[str]) -> int:
        with self._locked():
            return sum(self._delete(key) for key in keys)

    def watch(self, keys: Sequence[str]) -> Watch:
        return PollingWatch()

    def expire(self) -> int:
        gone, until = 0, time.monotonic() + EXPIRE_FOR
        now = self.clock.time()
        with self._trouble():
            names = {path.name for path in self.folder.iterdir()}
            for name in names:
                if name.startswith((BESIDE, ".")) or not self._may_be_over(name, now, noted=BESIDE + name in names):
                    continue
                with self._locked():
                    if self._read(name) is None:
                        gone += self._remove(name)
                if time.monotonic() >= until:
                    return gone
            for folder in self._join_folders():
                done = folder / COMPLETE
                if done.exists() and done.stat().st_mtime + JOIN_KEPT <= now:
                    with self._locked():
                        self._remove_join(folder)
                    gone += 1
        return gone

    # -- joins -----------------------------------------------------------------------------------------------------

    def arrive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        if not arrivals:
            return []
        with self._locked():
            return [self._arrive(arrival) for arrival in arrivals]

    def arrived(self, group: str) -> list[bytes]:
        folder = self._join_folder(group)
        with self._trouble():
            try:
                paths = list(folder.iterdir())
            except FileNotFoundError:
                return []
            return in_order([_part(path) for path in paths if path.name.startswith("p")])

    def _arrive(self, arrival: Arrival) -> bool:
        folder = self._join_folder(arrival.group)
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / COMPLETE
        name = _name(arrival.index)
        if done.exists():
            return done.read_text() == name and not arrival.grows
        if arrival.grows:
            (folder / f"g{name}").touch()
            return False
        part = folder / f"p{name}"
        if not part.exists():
            index = arrival.index.encode()
            self._place(part, b"%d\n%s%s" % (len(index), index, arrival.value))
        kinds = [path.name[:1] for path in folder.iterdir()]
        if kinds.count("p") != arrival.size + kinds.count("g"):
            return False
        self._place(done, name.encode())
        return True

    def _join_folder(self, group: str) -> Path:
        return self.folder / JOINS / _name(group)

    def _join_folders(self) -> list[Path]:
        try:
            return list((self.folder / JOINS).iterdir())
        except FileNotFoundError:
            return []

    def _remove_join(self, folder: Path) -> bool:
        try:
            paths = list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return False
        for path in sorted(paths, key=lambda path: path.name == COMPLETE):  # what says that it is complete goes last
            path.unlink(missing_ok=True)
        folder.rmdir()
        return True

    # -- values ----------------------------------------------------------------------------------------------------

    def _put(self, record: Record) -> bool:
        name, final = _name(record.key), TERMINAL.get(record.state, 0)
        found = self._read(name)
        if found is not None and (
            found.final == 2 or (found.final == 1 and (not final or record.writer == found.writer))
        ):
            return False
        self._write(name, record.value, final, record.writer, record.ttl)
        return True

    def _read(self, name: str) -> _Value | None:
        """What stands under *name* and has not expired."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data, written = file.read(), os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, IsADirectoryError):
            return None
        note = self._note(name, data)
        if note is not None:
            found, expires = _Value(data, note.final, note.writer), note.expires
        else:
            found = _Value(data, _final_of(data), None)
            expires = None if self.expires is None else written + self.expires
        return None if expires is not None and expires <= self.clock.time() else found

    def _note(self, name: str, data: bytes) -> _Note | None:
        try:
            raw = (self.folder / f"{BESIDE}{name}").read_bytes()
        except FileNotFoundError:
            return None
        try:
            note = msgspec.json.decode(raw, type=_Note)
        except msgspec.MsgspecError:
            return None
        return note if note.digest == sha1(data) else None

    def _may_be_over(self, name: str, now: float, *, noted: bool) -> bool:
        """Whether it is worth the lock to look, without reading the value."""
        if noted:
            try:
                note = msgspec.json.decode((self.folder / f"{BESIDE}{name}").read_bytes(), type=_Note)
            except (OSError, msgspec.MsgspecError):
                return True
            return note.expires is not None and note.expires <= now
        try:
            return self.expires is not None and (self.folder / name).stat().st_mtime + self.expires <= now
        except FileNotFoundError:
            return False

    def _write(self, name: str, value: bytes, final: int, writer: str, ttl: float | None) -> None:
        beside = self.folder / f"{BESIDE}{name}"
        now = self.clock.time()
        plain = ttl == self.expires and final == _final_of(value) and final != 1
        if not plain:
            note = _Note(sha1(value), final, writer, None if ttl is None else now + ttl)
            self._place(beside, msgspec.json.encode(note))
        self._place(self.folder / name, value)
        if plain:
            beside.unlink(missing_ok=True)

    def _place(self, path: Path, data: bytes) -> None:
        """Have *data* there, whole, written now."""
        beside = self.folder / f".celeriac-{uuid4().hex}"
        now = self.clock.time()
        try:
            beside.write_bytes(data)
            os.utime(beside, (now, now))
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _delete(self, key: str) -> bool:
        name = _name(key)
        live = self._read(name) is not None
        self._remove(name)
        return self._remove_join(self._join_folder(key)) or live

    def _remove(self, name: str) -> bool:
        try:
            (self.folder / name).unlink()
            there = True
        except FileNotFoundError:
            there = False
        (self.folder / f"{BESIDE}{name}").unlink(missing_ok=True)
        return there

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all who write, in whatever process."""
        with self._trouble():
            file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            finally:
                os.close(file)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raised = BackendError(f"Results in {self.folder} cannot be read or written: {error.strerror or error}.")
            raised.temporary = True
            raise raised from error


def folder_of(url: str) -> Path:
    """The folder that *url* names. Raises `ImproperlyConfigured` for one that is not there or cannot be written to."""
    part = urlsplit(url)
    if part.scheme != "file" or part.netloc not in {"", "localhost"} or not part.path.strip("/"):
        raise ImproperlyConfigured(f"result_backend={url!r} names no folder: write file:///path/to/folder.")
    folder = Path(unquote(part.path))
    if not folder.is_dir():
        raise ImproperlyConfigured(f"There is no folder {folder} for results: make it, for all who share it.")
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return folder
    raise ImproperlyConfigured(f"The folder {folder} for results cannot be read and written by this user.")


def _name(key: str) -> str:
    """The name of the file of *key*: the key itself, unless no file can be called so."""
    name = key.replace("/", "%2F").replace("\0", "%00")
    if name.startswith((".", BESIDE)) or not name:
        name = f"%{name}"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 41].decode(errors='ignore')}.{sha1(key.encode())}"


def _final_of(value: bytes) -> int:
    """How final a value is, as far as it can be told from itself."""
    found = _STATUS(value)
    return 0 if found is None else TERMINAL[found[1].decode()]


def _part(path: Path) -> tuple[str, bytes]:
    length, _, rest = path.read_bytes().partition(b"\n")
    at = int(length)
    return rest[:at].decode(), rest[at:]


def __getattr__(name: str) -> Any:
    """The class for programs that derive from it: it stands above the store, which is all that an app needs."""
    if name == "FilesystemBackend":
        return import_module("celery.backends.filesystembackend").FilesystemBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
