"""The result store in memcached: the contract, the bytes of original Celery, and servers that go away."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery import Celery
from celery.backends.cache import CacheBackend, MemcachedStore
from celery.backends.memory import MemoryStore
from celery.backends.store import TERMINAL, Store
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.contract import StoreContract
from celery.contrib.testing.worker import start_worker
from celery.exceptions import BackendError, ImproperlyConfigured
from celery.wire.message import Arrival, Record
from contract.chords import run_tasks_and_chords
from rig.memcached import Memcached
from rig.redis import free_port

DAY = 86_400
SOON = 30.0


@pytest.fixture(scope="module")
def shared(server: Callable[[str], Path]) -> Iterator[Memcached]:
    running = Memcached(server("memcached"))
    yield running
    running.stop()


@pytest.fixture
def memcached(shared: Memcached) -> Memcached:
    """An empty server."""
    shared.command("flush_all")
    return shared


@pytest.fixture
def connect(memcached: Memcached) -> Iterator[Callable[..., MemcachedStore]]:
    made: list[MemcachedStore] = []

    def store(url: str = "", **options: object) -> MemcachedStore:
        made.append(MemcachedStore(url or memcached.url(), options=options))
        return made[-1]

    yield store
    for each in made:
        each.close()


@pytest.fixture
def store(connect: Callable[..., MemcachedStore]) -> MemcachedStore:
    return connect()


class TestMemcachedStore(StoreContract):
    @pytest.fixture
    def connect(self, connect: Callable[..., MemcachedStore]) -> Callable[..., Store]:
        return connect

    @pytest.fixture
    def pass_time(self, memcached: Memcached) -> Callable[[float], object]:
        return memcached.pass_time


def meta(state: str, result: object = None) -> bytes:
    return json.dumps({"status": state, "result": result, "traceback": None, "children": []}).encode()


@pytest.mark.parametrize("state", ["STARTED", "SUCCESS", "FAILURE", "REVOKED", "my own"])
@pytest.mark.parametrize("new", ["STARTED", "FAILURE", "SUCCESS"])
def test_what_an_original_worker_wrote_obeys_the_rule(
    store: MemcachedStore, memcached: Memcached, state: str, new: str
) -> None:
    value = meta(state)
    memcached.command(b"set k 0 0 %d" % len(value), value)
    was = TERMINAL.get(state, 0)
    wins = was == 0 or (was == 1 and new in TERMINAL)
    assert store.put([Record("k", meta(new) + b" ", new, "w")]) == [wins]


def test_a_result_is_one_plain_value_for_a_day(memcached: Memcached) -> None:
    app = TestApp(broker="memory://plain", backend=memcached.url())
    app.backend.store_result("a", {"é": 1}, "SUCCESS")
    assert set(memcached.left()) == {"celery-task-meta-a"}
    assert DAY - 60 < memcached.left()["celery-task-meta-a"] <= DAY + 1
    raw = memcached.command("get celery-task-meta-a").split(b"\r\n")[1]
    assert json.loads(raw)["result"] == {"é": 1}
    flags = int(memcached.command("get celery-task-meta-a").split()[2])
    assert flags & 0x3F == 0, "the bits in which clients of other kinds say what a value is"
    app.close()


def test_times_above_thirty_days_are_meant(store: MemcachedStore, memcached: Memcached) -> None:
    store.set("k", b"1", 90 * DAY)
    assert 89 * DAY < memcached.left()["k"] <= 90 * DAY + 1


def test_keys_of_any_kind(store: MemcachedStore) -> None:
    keys = ["with a blank", "é\n", "x" * 300, "x" * 300 + "y", "100%", "100%25"]
    store.put([Record(key, key.encode(), "FAILURE", "w") for key in keys])
    assert store.get(keys) == [key.encode() for key in keys]
    assert store.delete(keys) == 6


def test_values_are_bytes_up_to_what_the_server_takes(store: MemcachedStore) -> None:
    values = [b"", b"\x00\xff\r\n", bytes(range(256)) * 3000]
    store.put([Record(f"k{number}", value, "FAILURE", "w") for number, value in enumerate(values)])
    assert store.get(["k0", "k1", "k2"]) == values
    with pytest.raises(BackendError, match="memcached at 127"):
        store.put([Record("large", bytes(2_000_000))])
    assert store.put([Record("small", b"1")]) == [True]


def test_a_large_join(store: MemcachedStore, memcached: Memcached) -> None:
    parts = [Arrival("g.", f"id:{number}", b"%d" % number, 2000) for number in range(2000)]
    assert store.arrive(parts) == [False] * 1999 + [True]
    assert store.arrived("g.") == [b"%d" % number for number in range(2000)]
    assert all(0 < left <= DAY for left in memcached.left().values())
    assert store.delete(["g."]) == 1
    assert memcached.left() == {}


def test_several_servers(server: Callable[[str], Path], memcached: Memcached, connect: Callable[..., Store]) -> None:
    second = Memcached(server("memcached"))
    try:
        store = connect(f"cache+memcached://{memcached.address};{second.address}/")
        keys = [f"k{number}" for number in range(50)]
        store.put([Record(key, key.encode()) for key in keys])
        assert store.get(keys) == [key.encode() for key in keys]
        assert set(memcached.left()) | set(second.left()) == set(keys)
        assert memcached.left()
        assert second.left()
    finally:
        second.stop()


def test_a_server_that_was_started_again_is_found(server: Callable[[str], Path]) -> None:
    running = Memcached(server("memcached"))
    store = MemcachedStore(running.url())
    try:
        store.set("k", b"1")
        running.stop()
        running.start()
        assert store.get(["k"]) == [None]
        assert store.add("k", b"2")
    finally:
        store.close()
        running.stop()


def test_an_unreachable_server_is_one_clear_error() -> None:
    store = MemcachedStore(f"cache+memcached://127.0.0.1:{free_port()}/")
    with pytest.raises(BackendError, match="cannot be reached") as caught:
        store.put([Record("k", b"1")])
    assert caught.value.temporary
    store.close()


def test_threads_and_a_fork_share_a_store(store: MemcachedStore) -> None:
    threads = [
        threading.Thread(target=lambda n=number: [store.set(f"k{n}", b"%d" % n) for _ in range(50)])
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    pid = os.fork()
    if not pid:
        try:
            code = 0 if store.get(["k3"]) == [b"3"] else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get([f"k{number}" for number in range(8)]) == [b"%d" % number for number in range(8)]


@pytest.mark.parametrize("kind", ["memcached", "memcache", "pymemcache", "pylibmc"])
def test_tasks_and_chords_over_every_name_it_has(memcached: Memcached, kind: str) -> None:
    app = TestApp(broker=f"memory://{kind}", backend=memcached.url(kind))
    run_tasks_and_chords(app)


def test_the_setting_cache_backend_names_the_place(memcached: Memcached) -> None:
    app = Celery(broker="memory://", backend="cache")
    with pytest.raises(ImproperlyConfigured, match="cache_backend"):
        _ = app.backend
    app.conf.cache_backend = f"memcached://{memcached.address}/"
    app.conf.cache_backend_options = {"timeout": 3.0}
    app.backend.store_result("a", 1, "SUCCESS")
    assert "celery-task-meta-a" in memcached.left()
    assert app.backend.store.options["timeout"] == 3.0
    app.close()
    memory = Celery(broker="memory://", backend="cache")
    memory.conf.cache_backend = "memory"
    assert memory.AsyncResult("a").state == "PENDING"
    memory.close()


def test_its_class_can_be_derived_from(memcached: Memcached) -> None:
    class Mine(CacheBackend):
        """Somebody's."""

    app = Celery(broker="memory://")
    backend = Mine(app, url=memcached.url(), options={"timeout": 2.0})
    backend.store_result("a", 7, "SUCCESS")
    assert backend.get_result("a") == 7
    assert isinstance(Mine(app, backend="memory").store, MemoryStore)
    with pytest.raises(ImproperlyConfigured, match="no place"):
        Mine(app)
    backend.store.close()
    app.close()


def test_a_result_that_is_too_large_fails_its_task(memcached: Memcached) -> None:
    app = TestApp(broker="memory://large", backend=memcached.url())

    @app.task(name="large", shared=False)
    def large() -> str:
        return "x" * 2_000_000

    with start_worker(app, pool="threads", perform_ping_check=False):
        assert "refuses" in str(large.delay().get(timeout=SOON, propagate=False))
    app.close()


@pytest.mark.parametrize("url", ["cache+memcached://host:nought/"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        MemcachedStore(url)
