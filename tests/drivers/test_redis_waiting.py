"""Waiting for writes to Redis: one connection for all threads, none missed, whatever breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from celery.backends.redis import RedisStore
from celery.redis import inbox
from celery.wire.message import Record
from rig.redis import RedisServer

SOON = 30.0
"""Seconds within which what must happen has happened."""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def connect(redis_url: str) -> Iterator[Callable[[], RedisStore]]:
    stores: list[RedisStore] = []

    def connect() -> RedisStore:
        stores.append(RedisStore(redis_url))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture
def store(connect: Callable[[], RedisStore]) -> RedisStore:
    return connect()


@pytest.fixture
def quick_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "IDLE", 0.1)
    monkeypatch.setattr(inbox, "TICK", 0.02)


def until(condition: Callable[[], object]) -> None:
    """Wait, for a bounded time, until *condition* holds: for what the server does by itself."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def subscribers(client: redis.Redis) -> list[dict[str, Any]]:
    return [found for found in client.client_list() if int(found["sub"]) or int(found["psub"])]


def names(written: Mapping[str, bytes | None] | None) -> set[str] | None:
    return None if written is None else set(written)


def test_one_connection_is_made_when_somebody_waits_and_closed_when_nobody_does(
    store: RedisStore, client: redis.Redis, quick_inbox: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: not subscribers(client))  # those of tests before this one
    monkeypatch.setattr(inbox, "IDLE", SOON)
    store.put([Record("k", b"1")])
    assert subscribers(client) == []
    with store.watch(["k"]), store.watch(["k", "l"]):
        assert [int(found["sub"]) for found in subscribers(client)] == [2]
    monkeypatch.setattr(inbox, "IDLE", 0.1)
    until(lambda: not subscribers(client))
    with store.watch(["k"]) as watch:
        store.set("k", b"2")
        assert watch.wait(SOON)
        assert names(watch.written()) == {"k"}


def test_a_watch_says_what_was_written(store: RedisStore) -> None:
    with store.watch(["a", "b"]) as watch, store.watch(["b"]) as other:
        assert watch.written() == {}
        store.put([Record("a", b"1"), Record("c", b"1")])
        assert watch.wait(SOON)
        assert names(watch.written()) == {"a"}
        store.put([Record("b", b"1")])
        assert other.wait(SOON)
        assert watch.wait(SOON)
        assert names(watch.written()) == names(other.written()) == {"b"}
        watch.ring()
        assert watch.wait(SOON)
        assert watch.written() == {}
        assert not watch.wait(0.0)


def test_what_was_written_need_not_be_read(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = f"celery-task-meta-{uuid4()}", f"celery-task-meta-{uuid4()}"
    with store.watch([mine, other]) as watch:
        # WHEN values are written, one of them twice
        store.set(mine, b"1")
        store.put([Record(other, b"2"), Record(mine, b"3")])

        # THEN the watch has the last of each
        written: dict[str, bytes | None] = {}
        while written.get(mine) != b"3":
            assert watch.wait(SOON)
            written |= watch.written() or {}
        assert written == {mine: b"3", other: b"2"}

        # BUT it keeps few bytes for who does not come
        monkeypatch.setattr(inbox, "MOST_KEPT", 10)
        store.set(mine, b"12345678")
        store.set(other, b"12345678")
        while written[other] is not None:
            assert watch.wait(SOON)
            written |= watch.written() or {}
        assert written == {mine: b"12345678", other: None}


def test_what_another_database_has_of_the_same_name_is_not_taken_for_ones_own(
    redis_server: RedisServer, store: RedisStore
) -> None:
    """Channels are the server's. Random ids are in one database only; those that programs make up need not be."""
    elsewhere = RedisStore(redis_server.url(1))
    try:
        with store.watch(["celery-task-meta-report"]) as watch:
            elsewhere.set("celery-task-meta-report", b"theirs")
            assert watch.wait(SOON)
            assert watch.written() == {"celery-task-meta-report": None}
            assert store.get(["celery-task-meta-report"]) == [None]
    finally:
        elsewhere.close()


def test_the_lost_connection_wakes_everybody(store: RedisStore, client: redis.Redis) -> None:
    with store.watch(["a"]) as watch, store.watch(["b"]) as other:
        for _ in range(3):
            client.client_kill_filter(_type="pubsub")
            for each in (watch, other):
                assert each.wait(SOON)
                assert each.written() is None, "anything may have been missed"
            assert not watch.wait(0.0)
            store.set("a", b"1")
            assert watch.wait(SOON)
            assert names(watch.written()) == {"a"}


def test_the_lost_connection_wakes_threads_that_sleep(store: RedisStore, client: redis.Redis) -> None:
    watches = [store.watch([str(number)]) for number in range(4)]
    with ThreadPoolExecutor(len(watches)) as pool:
        waits = [pool.submit(watch.wait, SOON) for watch in watches]
        client.client_kill_filter(_type="pubsub")
        assert [wait.result(SOON) for wait in waits] == [True] * 4
    for watch in watches:
        watch.close()


def test_waiting_goes_on_when_the_server_was_restarted(server: Callable[[str], Path], tmp_path: Path) -> None:
    running = RedisServer(server("redis"), tmp_path / "server")
    store, writer = RedisStore(running.url()), RedisStore(running.url())
    waiting = threading.Event()
    values: list[bytes | None] = []

    def wait() -> None:
        with store.watch(["k"]) as watch:
            while (value := store.get(["k"])[0]) is None:
                waiting.set()
                watch.wait(SOON)
            values.append(value)

    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        assert waiting.wait(SOON)
        running.stop()
        running.start()
        writer.put([Record("k", b"1")])
        waiter.join(SOON)
        assert values == [b"1"]
    finally:
        store.close()
        writer.close()
        running.stop()
        waiter.join(SOON)


def test_a_thousand_threads_wait_at_once_on_one_connection(
    store: RedisStore, connect: Callable[[], RedisStore], client: redis.Redis
) -> None:
    keys = [f"k{number}" for number in range(1000)]
    got: dict[str, bytes | None] = {}
    ready = threading.Semaphore(0)

    def wait(key: str) -> None:
        with store.watch([key]) as watch:
            ready.release()
            while (value := store.get([key])[0]) is None:
                assert watch.wait(3 * SOON), key
            got[key] = value

    threads = [threading.Thread(target=wait, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for _ in keys:
        assert ready.acquire(timeout=SOON)
    assert [int(found["sub"]) for found in subscribers(client)] == [1000]
    writer = connect()
    for at in range(0, 1000, 10):
        writer.put([Record(key, key.encode()) for key in keys[at : at + 10]])
    for thread in threads:
        thread.join(3 * SOON)
    assert got == {key: key.encode() for key in keys}


def test_threads_that_come_and_go_miss_nothing(store: RedisStore, connect: Callable[[], RedisStore]) -> None:
    """The leader changes all the time, and so do the channels."""
    writer = connect()

    def rounds(name: str) -> int:
        for number in range(150):
            key = f"{name}-{number}"
            with store.watch([key]) as watch:
                pool.submit(writer.put, [Record(key, b"1")])
                assert watch.wait(SOON)
                assert names(watch.written()) == {key}
        return number

    with ThreadPoolExecutor(10) as pool:
        assert [done.result(6 * SOON) for done in [pool.submit(rounds, f"t{n}") for n in range(6)]] == [149] * 6


def test_ten_thousand_keys_in_one_watch(store: RedisStore, connect: Callable[[], RedisStore]) -> None:
    keys = [f"k{number}" for number in range(10_000)]
    writer = connect()
    with store.watch(keys) as watch:
        heard: set[str] = set()
        for at in range(0, 10_000, 2500):
            writer.put([Record(key, b"1") for key in keys[at : at + 2500]])
            while len(heard) < at + 2500:
                assert watch.wait(SOON)
                heard |= names(watch.written()) or set()
    assert heard == set(keys)


def test_a_waiter_that_gives_up_leaves_the_others_waiting(store: RedisStore) -> None:
    """Whoever reads for the others may be the one whose time is over, or whose watch is closed."""
    with ThreadPoolExecutor(3) as pool:
        for end in ("time", "close"):
            leader, follower = store.watch(["x"]), store.watch(["k"])
            first = pool.submit(leader.wait, 0.05 if end == "time" else SOON)
            second = pool.submit(follower.wait, SOON)
            if end == "close":
                leader.close()
            assert first.result(SOON) is False
            store.set("k", b"1")
            assert second.result(SOON) is True
            leader.close()
            follower.close()


def test_closing_the_store_wakes_who_waits_and_the_watch_goes_on(store: RedisStore) -> None:
    with store.watch(["k"]) as watch, ThreadPoolExecutor(1) as pool:
        wait = pool.submit(watch.wait, SOON)
        store.close()
        assert wait.result(SOON) is True
        assert not watch.wait(0.0)
        store.set("k", b"1")
        assert watch.wait(SOON)


# -- processes --------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> None:
    """Run *work* in a fork of this process; fails if it does."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 3 * SOON
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)


def test_parent_and_child_both_go_on_after_a_fork(store: RedisStore, client: redis.Redis) -> None:
    with store.watch(["k"]) as watch, ThreadPoolExecutor(1) as pool:
        wait = pool.submit(watch.wait, SOON)  # it holds locks and sleeps while the process is copied

        def work() -> None:
            assert watch.wait(SOON), "it joins again, and anything may have been missed"
            assert watch.written() is None
            with store.watch(["l"]) as own:
                store.put([Record("k", b"1"), Record("l", b"1")])
                assert own.wait(SOON)
                assert watch.wait(SOON)
                assert store.get(["k"]) == [b"1"]

        in_child(work)
        assert wait.result(SOON) is True
        assert names(watch.written()) == {"k"}
        store.set("k", b"2")
        assert watch.wait(SOON)
        assert names(watch.written()) == {"k"}


def test_another_process_is_heard(redis_url: str, store: RedisStore) -> None:
    script = (
        "import sys; from celery.backends.redis import RedisStore; from celery.wire.message import Record;"
        "RedisStore(sys.argv[1]).put([Record('k', b'from afar', 'FAILURE', 'w', 60.0)])"
    )
    with store.watch(["k"]) as watch:
        subprocess.run([sys.executable, "-c", script, redis_url], check=True, timeout=3 * SOON)
        assert watch.wait(SOON)
        assert store.get(["k"]) == [b"from afar"]
    assert store.put([Record("k", b"", "FAILURE", "w")]) == [False]
