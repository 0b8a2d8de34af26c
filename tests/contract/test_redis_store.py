"""The result store on Redis: the contract, the rule on Celery's own keys, and waiting while connections break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from celery.backends.compression import compress_payload
from celery.backends.redis import ANSWER_KEPT, RedisStore
from celery.backends.store import TERMINAL, Store
from celery.contrib.testing.contract import StoreContract
from celery.exceptions import BackendError
from celery.redis import link
from celery.wire.message import Arrival, Record
from celery.wire.serialization import dumps
from rig.proxy import Proxy
from rig.redis import RedisServer, free_port

GOLDEN = Path(__file__).parents[1] / "wire" / "golden" / "results"
SOON = 30.0
"""Seconds within which what must happen has happened."""
DAY = 86_400


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def connect(redis_url: str) -> Iterator[Callable[..., RedisStore]]:
    stores: list[RedisStore] = []

    def connect(**options: Any) -> RedisStore:
        stores.append(RedisStore(options.pop("url", redis_url), options=options))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture
def store(connect: Callable[..., RedisStore]) -> RedisStore:
    return connect()


@pytest.fixture
def pass_time(client: redis.Redis) -> Callable[[float], None]:
    """Brings the end of every key nearer: the server's clock cannot be moved."""

    def pass_time(seconds: float) -> None:
        for key in client.scan_iter():
            left = client.pttl(key)
            if left >= 0:
                client.pexpire(key, int(left - seconds * 1000))

    return pass_time


class TestRedisStore(StoreContract):
    @pytest.fixture
    def connect(self, connect: Callable[..., Store]) -> Callable[..., Store]:
        return connect

    @pytest.fixture
    def pass_time(self, pass_time: Callable[[float], None]) -> Callable[[float], None]:
        return pass_time


class TestRedisStoreWithPrefix(TestRedisStore):
    @pytest.fixture
    def connect(self, connect: Callable[..., Store]) -> Callable[..., Store]:
        return lambda **options: connect(**{"global_keyprefix": "site:", **options})


def meta(state: str, result: Any = None, **more: Any) -> bytes:
    """A result as the original writes it."""
    return json.dumps({"status": state, "result": result, "traceback": None, "children": [], **more}).encode()


def final(key: str, prefix: str = "") -> str:
    return f"{prefix}celeriac.final.{key}"


# -- the rule, on values of every kind -------------------------------------------------------------------------------


def as_original_json(state: str) -> bytes:
    return meta(state)


def as_our_json(state: str) -> bytes:
    return meta(state).replace(b": ", b":").replace(b", ", b",")


def as_compressed(state: str) -> bytes:
    return compress_payload(meta(state), "gzip")


def as_msgpack(state: str) -> bytes:
    return dumps(json.loads(meta(state)), "msgpack")[2]


def as_pickle(state: str) -> bytes:
    return dumps(json.loads(meta(state)), "pickle")[2]


KINDS = [as_original_json, as_our_json, as_compressed, as_msgpack, as_pickle]
STATES = ["STARTED", "my own", *TERMINAL]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("writer", ["same", "other"])
def test_the_rule_holds_for_values_in_every_form(
    store: RedisStore, client: redis.Redis, kind: Callable[[str], bytes], old: str, new: str, writer: str
) -> None:
    first = Record("k", kind(old), old, "same", 60.0)
    then = Record("k", kind(new) + b" ", new, writer, 60.0)
    was, is_ = TERMINAL.get(old, 0), TERMINAL.get(new, 0)
    wins = was == 0 or (was == 1 and is_ > 0 and writer == "other")
    assert store.put([first]) == [True]
    assert store.put([then]) == [wins]
    assert client.get("k") == (then if wins else first).value
    left = client.keys("*")
    known = kind not in {as_compressed, as_pickle}
    state = is_ if wins else was
    assert (final("k").encode() in left) == (state == 1 or (state == 2 and not known)), "no companion without need"
    assert all(0 < client.pttl(key) <= 60_000 for key in left)


def test_a_result_that_is_put_again_after_a_broken_connection_counts_as_stored(store: RedisStore) -> None:
    for state in ("SUCCESS", "FAILURE", "STARTED"):
        record = Record(f"k{state}", meta(state), state, "w")
        assert store.put([record]) == [True]
        assert store.put([record]) == [True]


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "RETRY"])
def test_what_an_original_worker_wrote_obeys_the_rule(store: RedisStore, client: redis.Redis, state: str) -> None:
    client.set("k", meta(state), ex=DAY)
    assert store.put([Record("k", meta("STARTED"), "STARTED", "w")]) == [state == "RETRY"]
    assert store.put([Record("k", meta("FAILURE"), "FAILURE", "w")]) == [state != "SUCCESS"]


def test_a_new_execution_is_free_after_an_original_client_has_forgotten_the_result(
    store: RedisStore, client: redis.Redis
) -> None:
    for kind in KINDS:
        key = kind.__name__
        store.put([Record(key, kind("FAILURE"), "FAILURE", "w"), Record(f"{key}2", kind("SUCCESS"), "SUCCESS", "w")])
        client.delete(key, f"{key}2")  # the companions stay
        for again in (key, f"{key}2"):
            assert store.put([Record(again, kind("STARTED"), "STARTED", "w")]) == [True]
            assert store.put([Record(again, kind("FAILURE"), "FAILURE", "w")]) == [True]
            assert store.put([Record(again, kind("SUCCESS"), "SUCCESS", "w")]) == [False]
            assert store.put([Record(again, kind("SUCCESS"), "SUCCESS", "x")]) == [True]


def test_plain_writes_take_the_companion_along(store: RedisStore, client: redis.Redis) -> None:
    store.put([Record("k", b"raw", "SUCCESS", "w")])
    assert client.get(final("k")) == b"2w"
    store.set("k", b"plain")
    assert client.keys("*") == [b"k"]
    store.put([Record("k", b"raw", "SUCCESS", "w")])
    client.delete("k")
    assert store.add("k", b"mine", ttl=60.0)
    assert client.exists(final("k")) == 0
    store.put([Record("k", b"raw", "REVOKED", "w")])
    assert store.delete(["k"]) == 1
    assert client.keys("celeriac.final*") == []


def test_one_of_many_threads_wins(connect: Callable[..., RedisStore], client: redis.Redis) -> None:
    stores, keys = [connect() for _ in range(6)], [f"k{number}" for number in range(50)]
    start = threading.Barrier(len(stores))

    def race(writer: int) -> list[bool]:
        start.wait()
        records = [Record(key, meta("SUCCESS", writer), "SUCCESS", str(writer)) for key in keys]
        return [won for at in range(0, len(records), 7) for won in stores[writer].put(records[at : at + 7])]

    with ThreadPoolExecutor(len(stores)) as pool:
        won = list(pool.map(race, range(len(stores))))
    for number, key in enumerate(keys):
        winners = [writer for writer, flags in enumerate(won) if flags[number]]
        assert len(winners) == 1
        assert json.loads(client.get(key))["result"] == winners[0]


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_a_plain_result_is_one_key_and_one_message_on_the_channel_of_its_name(
    store: RedisStore, client: redis.Redis
) -> None:
    listening = client.pubsub(ignore_subscribe_messages=True)
    listening.subscribe("celery-task-meta-a")
    store.put([Record("celery-task-meta-a", meta("SUCCESS", 3), "SUCCESS", "w", DAY)])
    message = None
    while message is None:
        message = listening.get_message(timeout=SOON)
    assert message["channel"] == b"celery-task-meta-a"
    assert message["data"] == client.get("celery-task-meta-a") == meta("SUCCESS", 3)
    assert client.keys("*") == [b"celery-task-meta-a"]
    assert DAY - 60 < client.ttl("celery-task-meta-a") <= DAY
    listening.close()


def test_a_plain_result_costs_two_commands(store: RedisStore, client: redis.Redis) -> None:
    store.put([Record("warm", meta("SUCCESS"), "SUCCESS", "w", DAY)])
    client.config_resetstat()
    store.put([Record("a", meta("SUCCESS"), "SUCCESS", "w", DAY)])
    ran = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}
    assert {name: ran[name] for name in ("evalsha", "set", "publish", "exists")} == dict.fromkeys(
        ("evalsha", "set", "publish", "exists"), 1
    )
    assert not {"get", "getrange", "type", "del"} & set(ran)


@pytest.mark.parametrize("path", sorted(set(GOLDEN.glob("*.json")) - {GOLDEN / "group.json"}), ids=lambda p: p.stem)
def test_what_the_original_captured_is_told_from_its_beginning(
    store: RedisStore, client: redis.Redis, path: Path
) -> None:
    value = path.read_bytes()
    state = json.loads(value)["status"]
    client.set("k", value, ex=DAY)
    later = [Record("k", b"x", "STARTED", "w"), Record("k", meta("FAILURE"), "FAILURE", "w")]
    assert store.put(later) == [state not in TERMINAL, state != "SUCCESS"]


def test_values_are_bytes_of_any_kind_and_size(store: RedisStore) -> None:
    values = [b"", b"\x00\xff\r\n", bytes(range(256)) * 40_000]
    store.put([Record(f"k{number}", value, "FAILURE", "w") for number, value in enumerate(values)])
    assert store.get(["k0", "k1", "k2"]) == values


def test_batches_of_any_size(store: RedisStore, client: redis.Redis) -> None:
    records = [Record(f"k{number}", b"%d" % number) for number in range(12_000)]
    assert store.put(records) == [True] * 12_000
    assert store.get([record.key for record in records]) == [record.value for record in records]
    parts = [Arrival("g.", f"id:{number}", b"%d" % number, 12_000) for number in range(12_000)]
    assert store.arrive(parts) == [False] * 11_999 + [True]
    assert store.arrived("g.") == [b"%d" % number for number in range(12_000)]
    assert store.delete([*(record.key for record in records), "g."]) == 12_001
    assert client.keys("*") == []


def test_the_database_and_the_prefix_keep_results_apart(connect: Callable[..., RedisStore], redis_url: str) -> None:
    other = connect(url=redis_url.removesuffix("/0") + "/3")
    prefixed = connect(global_keyprefix="site:")
    for store, value in ((connect(), b"0"), (other, b"3"), (prefixed, b"p")):
        store.put([Record("site:k" if store is prefixed else "k", value, "FAILURE", "w")])
        store.arrive([Arrival("site:g." if store is prefixed else "g.", "x:0", value, 2)])
    assert [s.get(["k"])[0] for s in (connect(), other)] == [b"0", b"3"]
    assert [s.arrived("g.") for s in (connect(), other)] == [[b"0"], [b"3"]]
    assert prefixed.arrived("site:g.") == [b"p"]
    with redis.Redis.from_url(redis_url) as client:
        assert set(client.keys("site:*")) == {
            b"site:k", b"site:celeriac.final.site:k", b"site:g.j", b"site:g.d",
        }  # fmt: skip


# -- joins ------------------------------------------------------------------------------------------------------------


def test_a_join_has_no_end_until_it_is_complete_and_then_a_day(store: RedisStore, client: redis.Redis) -> None:
    store.arrive([Arrival("g.", "x:0", b"a", 2), Arrival("g.", "+y", b"", 2, grows=True)])
    assert {client.pttl(f"g.{key}") for key in "jdt"} == {-1}
    store.arrive([Arrival("g.", "y:1", b"b", 2), Arrival("g.", "z:1", b"c", 2)])
    assert all(DAY - 60 < client.ttl(f"g.{key}") <= DAY for key in "jdtc")
    client.expire("g.j", 100)
    assert store.arrive([Arrival("g.", "z:1", b"b", 2)]) == [True]
    assert client.ttl("g.j") <= 100, "a repeated part does not prolong it"


def test_a_join_that_the_original_began_is_counted_on(store: RedisStore, client: redis.Redis) -> None:
    """Its client has told the size, and its workers have recorded a part, for a day; older releases without `.d`."""
    client.set("g.s", "3", ex=DAY)
    client.zadd("g.j", {b'[1, "one", "SUCCESS", 1]': 0})
    client.incr("g.t")
    client.expire("g.j", DAY)
    client.expire("g.t", DAY)
    parts = [Arrival("g.", f"id{place}:{place}", b'[1, "id%d", "SUCCESS", 1]' % place, 0) for place in range(1, 4)]
    assert store.arrive(parts[:2]) == [False, False]
    assert {client.ttl(f"g.{key}") for key in "jdst"} == {-1}, "a join that is not complete has no end"
    assert store.arrive(parts[2:]) == [True]
    assert store.arrived("g.")[0] == b'[1, "one", "SUCCESS", 1]'
    assert len(store.arrived("g.")) == 4


def test_a_join_that_the_original_has_in_hand_is_left_to_it(store: RedisStore, client: redis.Redis) -> None:
    client.set("g.s", "1", ex=DAY)
    client.set("g.c", "389dd904b69e44308343e56dfc45d554", px=60_000)
    first, again = Arrival("g.", "a:0", b"0", 0), Arrival("g.", "a:0", b"0", 0)
    assert store.arrive([first]) == [False]
    assert not client.exists("g.j")
    client.set("g.c", "done", ex=300)
    assert store.arrive([again]) == [False]
    client.delete("g.c")
    assert store.arrive([again]) == [True], "whoever had it in hand died before it could send the body"
    assert client.get("g.c") == b"celeriac a:0"


def test_what_is_answered_once_is_repeated_to_a_caller_whose_connection_broke(
    redis_server: RedisServer, connect: Callable[..., RedisStore], client: redis.Redis
) -> None:
    with Proxy(redis_server.port) as proxy:
        store = connect(url=proxy.url())
        asked: list[Callable[[], bool]] = [
            lambda: store.arrive([Arrival("g.", "a:0", b"a", 1)])[0],
            lambda: store.add("k", b"1", ttl=60.0),
            lambda: store.put([Record("r", meta("SUCCESS"), "SUCCESS", "w", 60.0)])[0],
        ]
        for ask in asked:
            store.get(["warm"])
            proxy.cut.clear()
            proxy.cut_after("down", 0)  # the server carries it out, and its answer gets lost
            assert ask()
            assert proxy.cut.is_set()
    left = client.keys("celeriac.answer.*")
    assert len(left) == 1
    assert all(0 < client.pttl(key) <= ANSWER_KEPT for key in left)


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["get", "put", "watch", "arrive", "delete"])
def test_an_unreachable_server_is_one_error_in_time(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TIMEOUT", 60.0)
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", options={"timeout": 0.3})
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: store.get(["k"]),
        "put": lambda: store.put([Record("k", b"")]),
        "watch": lambda: store.watch(["k"]),
        "arrive": lambda: store.arrive([Arrival("g.", "a:0", b"0", 1)]),
        "delete": lambda: store.delete(["k"]),
    }
    began = time.monotonic()
    with pytest.raises(BackendError, match="cannot be reached") as caught:
        calls[ask]()
    assert time.monotonic() - began < SOON
    assert caught.value.temporary
    store.close()


def test_many_who_wait_for_an_unreachable_server_are_all_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TIMEOUT", 60.0)
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", options={"timeout": 0.3})
    began = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        watches = [pool.submit(store.watch, [str(number)]) for number in range(30)]
        errors = [watch.exception(SOON) for watch in watches]
    assert all(isinstance(error, BackendError) for error in errors)
    assert time.monotonic() - began < SOON
    store.close()


def test_a_key_of_another_type_is_named(store: RedisStore, client: redis.Redis) -> None:
    client.rpush("celery-task-meta-a", "no result")
    records = [Record("celery-task-meta-b", b"1"), Record("celery-task-meta-a", b"1")]
    with pytest.raises(BackendError, match="celery-task-meta-a holds a list"):
        store.put(records)
    assert not client.exists("celery-task-meta-b"), "nothing of the batch is stored"
    with pytest.raises(BackendError, match="celery-task-meta-a holds no result"):
        store.get(["celery-task-meta-a"])
    store.set("celery-task-meta-a", b"1")
    assert store.put(records) == [True, True]


def test_a_server_out_of_memory_refuses_and_nothing_is_half_done(server: Callable[[str], Path], tmp_path: Path) -> None:
    running = RedisServer(server("redis"), tmp_path / "server", maxmemory="2mb", maxmemory_policy="noeviction")
    store = RedisStore(running.url())
    try:
        with pytest.raises(BackendError, match="memory"):
            any(store.put([Record(f"k{number}", bytes(100_000))]) == [False] for number in range(100))
        assert store.delete([f"k{number}" for number in range(100)]) > 0
        assert store.put([Record("k", b"1")]) == [True]
    finally:
        store.close()
        running.stop()


def test_nothing_is_left_behind_but_what_is_documented(
    store: RedisStore, client: redis.Redis, pass_time: Callable[[float], None]
) -> None:
    for kind in KINDS:
        for state in STATES:
            store.put([Record(f"celery-task-meta-{kind.__name__}{state}", kind(state), state, "w", 60.0)])
    store.arrive([Arrival(f"{name}.", "a:0", b"0", 2 if name == "live" else 1) for name in ("g", "h", "live")])
    store.add("token", b"1", ttl=60.0)
    store.delete(["h."])
    pass_time(120.0)
    assert {key.decode() for key in client.scan_iter()} == {"g.j", "g.d", "g.c", "live.j", "live.d"}
    pass_time(DAY)
    assert set(client.scan_iter()) == {b"live.j", b"live.d"}
    assert store.delete(["live."]) == 1
    assert client.dbsize() == 0
