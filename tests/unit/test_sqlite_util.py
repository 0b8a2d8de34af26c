"""What can go wrong with a file, and what is said then."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery.backends.sqlite import SQLiteStore
from celery.brokers.sqlite import SQLiteBroker
from celery.exceptions import BackendError, BrokerError, ImproperlyConfigured
from celery.utils.sqlite import APPLICATION, VERSION, Database, queries, split_url
from celery.wire.message import Outgoing, Permit, Record, Settlement


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run *code* in another process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_url("sqlite:////var/lib/a%20b.db") == ("/var/lib/a b.db", {})
    assert split_url("sqlite:///rel/q.db?timeout=2&lease=9") == (
        str(tmp_path / "rel/q.db"),
        {"timeout": "2", "lease": "9"},
    )
    for bad in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host"):
        with pytest.raises(ImproperlyConfigured, match="names no file"):
            split_url(bad)


def test_options_in_the_url(tmp_path: Path) -> None:
    assert SQLiteBroker(url(tmp_path / "q.db") + "?lease=7").lease == 7.0
    assert SQLiteBroker(url(tmp_path / "q.db") + "?lease=7", options={"lease": 8}).lease == 8.0


def test_queries_are_named() -> None:
    for name in ("broker", "store", "schema"):
        statements = queries(name)
        assert statements
        assert all(statements.values())
    connection = sqlite3.connect(":memory:")
    for statement in queries("schema").values():
        connection.executescript(statement)
    for name in ("broker", "store"):
        for statement in queries(name).values():
            connection.execute(f"EXPLAIN {statement}", _nothing(statement))
    connection.close()


def _nothing(statement: str) -> dict[str, None] | list[None]:
    # `?1` has no place here: from Python 3.12 on it counts as a name, which wants a dictionary.
    assert not re.search(r"\?\d", statement)
    names = re.findall(r":(\w+)", statement)
    return dict.fromkeys(names) if names else [None] * statement.count("?")


def test_what_is_not_a_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_text("these are my notes, not a database\n" * 100)
    with pytest.raises(BrokerError, match=r"is not a SQLite database: move it away"):
        SQLiteBroker(url(path)).publish([Outgoing(b"", "q")])
    with pytest.raises(BackendError, match=r"is not a SQLite database: move it away"):
        SQLiteStore(url(path)).get(["k"])
    assert path.read_text().startswith("these are my notes")


def test_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    broker = SQLiteBroker(url(path))
    broker.publish([Outgoing(b"x" * 2000, "q") for _ in range(100)])
    broker.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 8192))
    with pytest.raises(BrokerError, match=r"is damaged .*: move it away together with its -wal and -shm files"):
        broker.consumer(["q"], name="c").claim(100)


def test_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (thing TEXT)")
    connection.close()
    with pytest.raises(BrokerError, match=r"belongs to another program: name another file"):
        SQLiteBroker(url(path)).connect()


def test_database_of_a_newer_release(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id={APPLICATION}")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(BrokerError, match=r"was written by a newer release .*: upgrade"):
        SQLiteBroker(url(path)).connect()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="capability: this system does not list open files")
def test_a_file_that_nobody_has_any_more_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    broker: Any = SQLiteBroker(url(path))
    broker.publish([Outgoing(b"", "q")])
    broker.itself = broker  # what is collected in one go has its finalizers called in any order
    assert path.resolve() in open_files()
    del broker
    gc.collect()
    assert path.resolve() not in open_files()


def open_files() -> set[Path]:
    return {entry.resolve() for entry in Path("/proc/self/fd").iterdir()}


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        BrokerError, match=r"cannot be opened: make sure that the folder .*/none exists and is writable"
    ):
        SQLiteBroker(url(tmp_path / "none" / "q.db")).connect()


def test_read_only_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    # Root may write everywhere: be somebody else.
    done = run(
        """
        import os, sys
        from celery.brokers.sqlite import SQLiteBroker
        from celery.exceptions import BrokerError
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            SQLiteBroker(sys.argv[1]).connect()
        except BrokerError as error:
            print(error)
        """,
        url(folder / "q.db"),
    )
    folder.rmdir()
    assert f"make sure that the folder {folder} exists and is writable for this user" in done.stdout, done.stderr


def test_read_only_file() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    broker = SQLiteBroker(url(folder / "q.db"))
    broker.connect()
    broker.close()
    done = run(
        """
        import os, sys
        from celery.brokers.sqlite import SQLiteBroker
        from celery.exceptions import BrokerError
        from celery.wire.message import Outgoing
        os.chmod(sys.argv[2], 0o444)
        if os.geteuid() == 0:
            os.setuid(65534)
        else:
            os.chmod(os.path.dirname(sys.argv[2]), 0o555)
        try:
            SQLiteBroker(sys.argv[1]).publish([Outgoing(b"", "q")])
        except BrokerError as error:
            print(error)
        """,
        url(folder / "q.db"),
        folder / "q.db",
    )
    folder.chmod(0o755)
    shutil.rmtree(folder)
    assert "writable for this user" in done.stdout, done.stderr


@pytest.mark.parametrize("at_once", [1, 5])
def test_full_disk_changes_nothing_and_heals(tmp_path: Path, at_once: int) -> None:
    path = tmp_path / "q.db"
    broker = SQLiteBroker(url(path), options={"max_pages": 60})
    published = 0

    def fill() -> None:
        nonlocal published
        while True:
            broker.publish([Outgoing(b"x" * 1500, "q")] * at_once)
            published += at_once

    with pytest.raises(BrokerError, match=r"cannot grow because the disk .* is full: nothing was changed; free some"):
        fill()
    assert published > 0
    consumer = broker.consumer(["q"], name="c")
    assert broker.stats(["q"])[0].ready == published
    # What is there can be worked on, and that makes room.
    deliveries = consumer.claim(1000)
    assert consumer.settle([Settlement(delivery) for delivery in deliveries]) == [True] * published
    broker.publish([Outgoing(b"x" * 1500, "q")])
    consumer.close()
    broker.close()


BEFORE = pytest.mark.parametrize("before", [0, 3])
"""Messages sent before: a queue that is known for sure is published to in one statement."""


@BEFORE
def test_locked_for_longer_than_the_timeout(tmp_path: Path, before: int) -> None:
    path = tmp_path / "q.db"
    broker = SQLiteBroker(url(path), options={"timeout": 0.1})
    broker.connect()
    for _ in range(before):
        broker.publish([Outgoing(b"", "q")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerError, match=r"was kept locked by another process for 0.1 seconds: nothing was changed"):
        broker.publish([Outgoing(b"", "q")])
    if not before:  # else reading files the new messages first, which writes
        assert broker.stats(["q"])[0].ready == 0, "readers are not kept out"
    other.execute("COMMIT")
    other.close()
    assert sum(queue.ready for queue in broker.stats()) == before
    broker.publish([Outgoing(b"", "q")])
    assert broker.stats(["q"])[0].ready == before + 1
    broker.close()


@BEFORE
def test_waits_while_another_process_writes(tmp_path: Path, before: int) -> None:
    path = tmp_path / "q.db"
    broker = SQLiteBroker(url(path))
    broker.connect()
    for _ in range(before):
        broker.publish([Outgoing(b"", "q")])
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, lambda: other.execute("COMMIT"))
    timer.start()
    broker.publish([Outgoing(b"", "q")])
    timer.join()
    other.close()
    assert broker.stats(["q"])[0].ready == before + 1
    broker.close()


@pytest.mark.parametrize("at_once", [1, 3])
def test_processes_that_publish_at_once_get_tags_of_their_own(tmp_path: Path, at_once: int) -> None:
    path, each = tmp_path / "q.db", 150
    program = f"""
        import sys
        from celery.brokers.sqlite import SQLiteBroker
        from celery.wire.message import Outgoing

        broker = SQLiteBroker(sys.argv[1])
        for number in range({each} // {at_once}):
            broker.publish([Outgoing(sys.argv[2].encode(), "q", task_id=f"{{number}}-{{n}}") for n in range({at_once})])
        """
    processes = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), url(path), str(number)])
        for number in range(3)
    ]
    assert [process.wait(100) for process in processes] == [0, 0, 0]
    broker = SQLiteBroker(url(path))
    entries = broker.entries("ready", limit=10_000)
    assert sorted(int(entry.tag) for entry in entries) == list(range(1, 3 * each + 1))
    for number in range(3):
        own = [entry.task_id for entry in entries if entry.envelope == str(number).encode()]
        assert own == [f"{step}-{n}" for step in range(each // at_once) for n in range(at_once)]
    broker.close()


def test_busy_thread(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "q.db"), error=BrokerError, timeout=0.05)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO queues (name) VALUES ('held')")
            entered.set()
            leave.wait(30.0)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10.0)
    with pytest.raises(BrokerError, match=r"was kept busy by other threads for 0.05 seconds"), database.read():
        pytest.fail("two threads at once")
    leave.set()
    holder.join()
    with database.read() as connection:
        assert connection.execute("SELECT * FROM queues").fetchall() == [("held",)], "the holder was not disturbed"
    database.close()


def test_deleted_underneath(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    broker = SQLiteBroker(url(path))
    store = SQLiteStore(url(path))
    broker.publish([Outgoing(b"", "q")])
    for file in tmp_path.glob("q.db*"):
        file.unlink()

    def publish_for_a_while() -> None:
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            broker.publish([Outgoing(b"", "q")])

    with pytest.raises(BrokerError, match=r"was deleted or replaced while it was in use"):
        publish_for_a_while()
    broker.publish([Outgoing(b"new", "q")])
    assert store.put([Record("k", b"v")]) == [True]
    assert [entry.envelope for entry in broker.entries("ready")] == [b"new"]
    broker.close()
    store.close()


def test_failed_block_is_undone(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "q.db"), error=BrokerError)

    def fail(with_what: Callable[[sqlite3.Connection], object]) -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO queues (name) VALUES ('q')")
            with_what(connection)

    def interrupt(_: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(interrupt)
    with pytest.raises(BrokerError, match="refused an operation"):
        fail(lambda connection: connection.execute("INSERT INTO nothing VALUES (1)"))
    with database.read() as connection:
        assert connection.execute("SELECT * FROM queues").fetchall() == []
    database.close()


def test_nested_use_is_refused(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "q.db"), error=BrokerError)
    with database.write() as connection:
        connection.execute("INSERT INTO queues (name) VALUES ('outer')")
        with pytest.raises(BrokerError, match="in the middle of a transaction"), database.write():
            pytest.fail("a transaction in a transaction")
        assert connection.in_transaction, "the outer one is untouched"
    with database.read() as connection:
        assert connection.execute("SELECT * FROM queues").fetchall() == [("outer",)]
    database.close()


def test_broker_and_store_share_one_connection(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    broker, store = SQLiteBroker(url(path)), SQLiteStore(url(path))
    broker.connect()
    store.get(["k"])
    broker.close()
    assert store.put([Record("k", b"v")]) == [True]
    store.close()
    assert not (tmp_path / "q.db-wal").exists(), "the last one to close tidies up"


def test_use_after_fork(tmp_path: Path) -> None:
    done = run(
        """
        import os, sys, threading
        from celery.brokers.sqlite import SQLiteBroker
        from celery.wire.message import Outgoing

        broker = SQLiteBroker(sys.argv[1])
        broker.publish([Outgoing(b"before", "q")])
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                broker.publish([Outgoing(b"parent", "q")] * 3)

        busy = threading.Thread(target=keep_busy)
        busy.start()
        children = []
        for number in range(8):
            child = os.fork()
            if not child:
                for _ in range(20):
                    broker.publish([Outgoing(b"child", "q")])
                os._exit(0)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        stop.set()
        busy.join()
        entries = [entry.envelope for entry in broker.entries("ready", limit=10**6)]
        print(codes, entries.count(b"before"), entries.count(b"child"))
        with broker._database.read() as connection:
            print(connection.execute("PRAGMA integrity_check").fetchone())
        """,
        url(tmp_path / "q.db"),
    )
    assert done.stdout.splitlines() == ["[0, 0, 0, 0, 0, 0, 0, 0] 1 160", "('ok',)"], done.stderr


def test_killed_publishers_leave_whole_batches(tmp_path: Path) -> None:
    """The oracle is a pipe: a batch is reported after `publish` returned; the database is looked at after the kill."""
    path = tmp_path / "q.db"
    code = """
        import sys
        from celery.brokers.sqlite import SQLiteBroker
        from celery.wire.message import Outgoing
        broker = SQLiteBroker(sys.argv[1])
        number = 0
        while True:
            broker.publish([Outgoing(b"x" * 500, "q", task_id=f"{number}-{part}") for part in range(20)])
            print(number, flush=True)
            number += 1
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), url(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    reported += [int(line) for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    process.wait()
    broker = SQLiteBroker(url(path))
    found = [entry.task_id for entry in broker.entries("ready", limit=10**6)]
    assert len(found) % 20 == 0, "half a batch"
    assert {f"{number}-{part}" for number in reported for part in range(20)} <= set(found)
    broker.close()


def test_a_file_of_the_schema_before_limits_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    broker = SQLiteBroker(f"sqlite:///{path}")
    broker.publish([Outgoing(b"kept", "q")])
    broker.close()
    old = sqlite3.connect(path)
    made = re.findall(
        r"CREATE (TABLE|INDEX) (\w+)", "".join(queries("upgrades")[f"from_{n}"] for n in range(2, VERSION))
    )
    for kind, name in sorted(made, key=lambda pair: pair[0] == "TABLE"):
        old.execute(f"DROP {kind} {name}")
    old.execute("PRAGMA user_version=2")
    old.commit()
    old.close()
    again = SQLiteBroker(f"sqlite:///{path}")
    consumer = again.consumer(["q"], name="c")
    deliveries = consumer.claim(1)
    assert consumer.start(deliveries, (), {deliveries[0].tag: [Permit("k", 1)]}) == ["ok"]
    consumer.close()
    again.close()
