"""One SQLite file shared by threads and processes: connections, transactions, waiting, and errors that say what to do.

A process has one connection to a file, whoever uses it, behind one lock.  SQLite lets one writer in at a time anyway;
so threads queue up for the lock, which wakes them at once, and only processes have to poll for each other.  A fork
waits until no statement is running, and the child drops what it inherited before it uses the file.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote

from celery.exceptions import ImproperlyConfigured
from celery.utils.descriptors import is_green

APPLICATION = 0x43454C52
"""Marks the files of this package (`PRAGMA application_id`)."""
VERSION = 5
"""Of the schema; a file with a higher one belongs to a newer release."""
TIMEOUT = 5.0
"""Seconds to wait for other processes, unless the option `timeout` says otherwise."""

_NAPS = (0.0001, 0.0005)
"""Seconds between two tries to get in, at first and at last: a transaction takes 0.2 ms where the disk is fast.
SQLite's own way of waiting sleeps for 1 to 100 ms, so that whoever waits long is overtaken by everyone who comes."""
_CHECKPOINT = 250
"""Pages in the write-ahead log before they are moved to the main file: 1 MB. A longer log is written to new blocks of
the disk for longer, which takes half as long again as writing over old ones: every publish waits for that."""
_LOOK_AGAIN = 0.05
"""Seconds between two looks at whether the file was deleted or replaced."""
_BATCH_CHECKPOINT = 1000
"""The same for a process that writes in batches, whose pages are worth collecting before they are moved."""

_SQL = Path(__file__).parents[1] / "sql"


@cache
def queries(name: str) -> Mapping[str, str]:
    """The statements in `celery/sql/<name>.sql` by the names in their `-- name:` lines."""
    parts = re.split(r"^-- name: *(\w+)\n", (_SQL / f"{name}.sql").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """(absolute path, options after the question mark) of `sqlite:///relative.db` or `sqlite:////absolute.db`."""
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    path = unquote(place)
    if not path.startswith("/") or path in {"/", "/:memory:"}:
        raise ImproperlyConfigured(
            f"{url!r} names no file: write sqlite:///relative.db or sqlite:////absolute.db, or use memory:// for "
            f"something that ends with the process."
        )
    return os.path.realpath(path[1:]), dict(parse_qsl(query))


def open_database(url: str, options: Mapping[str, Any], *, error: type[Exception]) -> tuple[Database, dict[str, Any]]:
    """The database that *url* names, and the *options* together with those in the URL, which yield to them."""
    path, given = split_url(url)
    merged = {**given, **options}
    pages = merged.get("max_pages")
    database = Database(
        path,
        error=error,
        timeout=float(merged.get("timeout", TIMEOUT)),
        max_pages=None if pages is None else int(pages),
    )
    return database, merged


class Database:
    """What a broker or a store has of a file; all of them in a process share one connection to it.

    Every failure is raised as *error*, with one sentence that says what to do.  *timeout*: seconds to wait for other
    threads and processes. *max_pages*: the file may not grow beyond this many pages of 4 KiB.
    """

    def __init__(
        self, path: str, *, error: type[Exception], timeout: float = TIMEOUT, max_pages: int | None = None
    ) -> None:
        self.path = path
        self.error = error
        self.timeout = timeout
        self.max_pages = max_pages
        self.joined = -1
        """The opening of the file since which the connection counts us among its users."""
        self._file = _file(path)

    @property
    def generation(self) -> int:
        """Changes whenever the file was opened anew: what is remembered of its content may be wrong then."""
        return self._file.generation

    def write(self, *, durable: bool = True) -> Session:
        """`with db.write() as connection:` is one transaction: all of it, or nothing when the block raises.

        Without *durable* a power cut (not the end of a process) may undo it, unless a durable one came after it.
        """
        return Session(self, self._file, "BEGIN IMMEDIATE", durable=durable)

    def step(self) -> Session:
        """`with db.step() as connection:` for one statement by `execute`, which is a transaction of its own.

        Or for several after `begin`, where that is found out late.
        """
        return Session(self, self._file, "", durable=True)

    def execute(self, connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
        """Execute a statement that writes, in a `step`; waits while another process writes."""
        _get_in(connection, statement, values, self.timeout)

    def begin(self, connection: sqlite3.Connection) -> None:
        """Go on with a `step` as with `write`."""
        _get_in(connection, "BEGIN IMMEDIATE", (), self.timeout)

    def read(self) -> Session:
        """`with db.read() as connection:` sees one moment of the file."""
        return Session(self, self._file, "BEGIN", durable=False)

    def expect_batches(self) -> None:
        """This process writes in batches from now on, as workers do."""
        self._file.expect_batches()

    def changes(self) -> tuple[int, int]:
        """Differs once another process, or this one, has written."""
        with self.read() as connection:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            return int(version), connection.total_changes

    def close(self) -> None:
        """Close the connection once nobody else in this process uses it. Opened again when it is needed."""
        self._file.leave(self)

    def explain(self, error: sqlite3.Error) -> Exception:
        """*error* as the kind of error that our user expects."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        advice = _ADVICE.get(code, "refused an operation ({error}): this is a defect, please report it.")
        text = advice.format(error=error, timeout=self.timeout, folder=Path(self.path).parent)
        return self.trouble(f"The database {self.path} {text}", temporary=code in _ADVICE and code not in _LASTING)

    def trouble(self, text: str, *, temporary: bool = True) -> Exception:
        """An error of the kind that our user expects. *temporary*: the same call may succeed later, unchanged."""
        error = self.error(text)
        error.temporary = temporary  # type: ignore[attr-defined]  # see `celery.exceptions.BrokerError`
        return error


_ADVICE: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "was kept locked by another process for {timeout:g} seconds: nothing was changed; try again, "
    "or raise the option 'timeout'.",
    sqlite3.SQLITE_LOCKED: "is locked by a statement of this process: nothing was changed; try again.",
    sqlite3.SQLITE_FULL: "cannot grow because the disk (or the size limit of the file) is full: nothing was changed; "
    "free some space and try again.",
    sqlite3.SQLITE_READONLY: "is read-only: make the file and the folder {folder} writable for this user.",
    sqlite3.SQLITE_PERM: "may not be opened: make the file and the folder {folder} writable for this user.",
    sqlite3.SQLITE_AUTH: "may not be opened: make the file and the folder {folder} writable for this user.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: make sure that the folder {folder} exists and is writable for this "
    "user.",
    sqlite3.SQLITE_CORRUPT: "is damaged ({error}): move it away together with its -wal and -shm files (a new one is "
    "made), or restore it from a backup.",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database: move it away (a new one is made), or name another file.",
    sqlite3.SQLITE_IOERR: "cannot be read or written ({error}): check the disk; nothing was changed.",
    sqlite3.SQLITE_TOOBIG: "does not take a value of this size (1 GB at most): send a reference instead.",
    sqlite3.SQLITE_NOMEM: "ran out of memory: nothing was changed.",
}
_LASTING = frozenset({sqlite3.SQLITE_TOOBIG})
"""Caused by what was to be written, not by the state of the file."""


class Session:
    """A transaction on the connection of this process. Made by `Database`; used once."""

    __slots__ = ("_begin", "_database", "_durable", "_file")

    def __init__(self, database: Database, file: _File, begin: str, *, durable: bool) -> None:
        self._database = database
        self._file = file
        self._begin = begin
        self._durable = durable

    def __enter__(self) -> sqlite3.Connection:
        file, database = self._file, self._database
        try:
            if not file.lock.acquire(timeout=database.timeout):
                raise database.trouble(
                    f"The database {database.path} was kept busy by other threads for {database.timeout:g} seconds: "
                    f"nothing was changed; try again, or raise the option 'timeout'."
                )
            if not file.inside:
                connection = file.connect(database)
                if file.durable is not self._durable:
                    file.set_durable(durable=self._durable)
                if self._begin:
                    _get_in(connection, self._begin, (), database.timeout)
                file.inside = True
                return connection
        except sqlite3.Error as error:
            file.release()
            raise database.explain(error) from error
        except BaseException:
            # Also what a signal handler raises between any two steps above: a lock left behind would stop everyone.
            file.release()
            raise
        file.lock.release()
        raise database.error(
            f"The database {database.path} is in the middle of a transaction of this thread: do not use it from a "
            f"signal handler or a destructor."
        )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self._file.connection
        try:
            if kind is None and connection is not None and connection.in_transaction:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._database.explain(error) from error
        finally:
            self._file.release()
        if self._file.green:
            time.sleep(0)  # who writes and writes must let other greenlets run
        if isinstance(value, sqlite3.Error):
            raise self._database.explain(value) from value


class _File:
    """The connection of this process to one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.connection: sqlite3.Connection | None = None
        self._closing: weakref.finalize[..., Any] | None = None
        """Closes the connection when nobody has the file any more, before it is collected itself."""
        self.generation = 0
        self.inside = False
        """Whether a transaction is under way: changed by whoever holds the lock."""
        self.durable = True
        self._identity = (0, 0)
        self._looked = 0.0
        self.green = is_green()
        self._checkpoint = _CHECKPOINT
        self._users: weakref.WeakSet[Database] = weakref.WeakSet()

    def connect(self, database: Database) -> sqlite3.Connection:
        """The connection, opened if need be. The caller holds the lock."""
        connection = self.connection
        if connection is not None:
            if self._is_there():
                if database.joined != self.generation:
                    self._join(database)
                return connection
            self.drop()
            raise database.trouble(
                f"The database {self.path} was deleted or replaced while it was in use: what it held is gone unless "
                f"you put it back; the next use starts with the file that is there then, or makes a new one."
            )
        connection = _open(self.path, database, self._checkpoint)
        status = Path(self.path).stat()
        self._identity = (status.st_dev, status.st_ino)
        self._looked = time.monotonic()
        self.durable = True
        self.connection = connection
        self._closing = weakref.finalize(self, connection.close)
        self._closing.atexit = False
        self.generation += 1
        self._join(database)
        return connection

    def _join(self, database: Database) -> None:
        self._users.add(database)
        database.joined = self.generation

    def set_durable(self, *, durable: bool) -> None:
        """Wait for the disk at the next commits, or do not."""
        if durable is not self.durable and self.connection is not None:
            self.connection.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
            self.durable = durable

    def expect_batches(self) -> None:
        with self.lock:
            self._checkpoint = _BATCH_CHECKPOINT
            if self.connection is not None:
                self.connection.execute(f"PRAGMA wal_autocheckpoint={self._checkpoint}")

    def release(self) -> None:
        """Undo what is not committed, and let the next thread in; does nothing if this thread is not in."""
        if not self.lock._is_owned():  # type: ignore[attr-defined]  # as threading.Condition asks
            return
        self.inside = False
        try:
            if self.connection is not None and self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        finally:
            self.lock.release()

    def leave(self, database: Database) -> None:
        with self.lock:
            self._users.discard(database)
            database.joined = -1
            if not self._users:
                self.drop()

    def drop(self) -> None:
        """Close the connection; the next use opens a new one."""
        closing, self._closing, self.connection = self._closing, None, None
        if closing is not None:
            closing()

    def _is_there(self) -> bool:
        """Whether the file is still the one that is open, at the last look."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN:
            return True
        self._looked = now
        try:
            status = os.stat(self.path)  # noqa: PTH116 - on the way of every publish
        except OSError:  # missing, or its folder is, or the disk went away
            return False
        return (status.st_dev, status.st_ino) == self._identity


_files: weakref.WeakValueDictionary[str, _File] = weakref.WeakValueDictionary()
_files_lock = threading.Lock()
_held: list[_File] = []


def _file(path: str) -> _File:
    with _files_lock:
        found = _files.get(path)
        if found is None:
            found = _files[path] = _File(path)
        return found


def _before_fork() -> None:
    """Let running statements end: the child would inherit their locks and half their memory."""
    _files_lock.acquire()
    _held[:] = list(_files.values())
    for file in _held:
        file.lock.acquire()


def _after_fork_in_parent() -> None:
    for file in _held:
        file.lock.release()
    _held.clear()
    _files_lock.release()


def _after_fork_in_child() -> None:
    """Close what was inherited: SQLite's notion of its file locks does not hold in another process."""
    for file in _held:
        file.drop()
        file.inside = False
        file.lock = threading.RLock()
    _held.clear()
    _files_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _get_in(connection: sqlite3.Connection, statement: str, values: Sequence[Any], timeout: float) -> None:
    """Begin, or execute what is a transaction, trying again at short intervals while another process is in."""
    end, nap = None, _NAPS[0]
    while True:
        try:
            connection.execute(statement, values)
            if statement == "BEGIN":
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            now = time.monotonic()
            end = now + timeout if end is None else end
            if now >= end:
                raise
            time.sleep(nap)
            nap = min(nap * 1.2, _NAPS[1])
        else:
            return


def _open(path: str, database: Database, checkpoint: int) -> sqlite3.Connection:
    """A connection with our pragmas to a file with our tables."""
    end = time.monotonic() + database.timeout
    while True:
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, database, checkpoint)
        except sqlite3.OperationalError as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
            # Turning the write-ahead log on needs the file alone, and does not wait for it by itself.
            time.sleep(_NAPS[1])
        except BaseException:
            connection.close()
            raise
        else:
            return connection


def _prepare(connection: sqlite3.Connection, database: Database, checkpoint: int) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise database.error(
            f"The database {database.path} is on a file system without shared memory: put it on a local disk."
        )
    for pragma in (
        "synchronous=FULL",
        f"wal_autocheckpoint={checkpoint}",
        f"journal_size_limit={_BATCH_CHECKPOINT * 4096 * 8}",
        "cache_size=-16000",
        "secure_delete=OFF",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    _migrate(connection, database)
    if database.max_pages is not None:
        connection.execute(f"PRAGMA max_page_count={int(database.max_pages)}")


def _migrate(connection: sqlite3.Connection, database: Database) -> None:
    if _versions(connection) == (APPLICATION, VERSION):
        return
    _get_in(connection, "BEGIN IMMEDIATE", (), database.timeout)
    application, version = _versions(connection)
    try:
        if application == APPLICATION and version > VERSION:
            raise database.error(
                f"The database {database.path} was written by a newer release (schema {version}, this one knows "
                f"{VERSION}): upgrade this installation, or name another file."
            )
        if application != APPLICATION:
            if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
                raise database.error(
                    f"The database {database.path} belongs to another program: name another file in the URL."
                )
            for statement in _statements(queries("schema").values()):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION}")
        else:
            for step in range(version, VERSION):
                for statement in _statements([queries("upgrades")[f"from_{step}"]]):
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _statements(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        bare = re.sub(r"--.*$", "", text, flags=re.MULTILINE)
        yield from (statement for statement in bare.split(";") if statement.strip())
