"""What others put into Redis, and servers that refuse: one clear word for each, and the worker goes on."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import EncodeError, OperationalError

from celery import Celery
from celery.brokers.redis import RedisBroker
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import BackendError, BrokerError, DecodeError
from celery.wire.message import Outgoing
from celery.wire.protocol import encode_envelope, task_message
from celery.worker import WorkController
from engine.notes import noted
from rig.redis import RedisServer

DEADLINE = 1.0
"""Seconds that a publisher waits at most, in these tests."""
SOON = 15.0
"""Seconds that a busy machine may take for what is done at once."""
ADD = "engine.jobs.add"


@pytest.fixture
def app(redis_server: RedisServer, redis_url: str) -> Iterator[Celery]:
    app = make_app(redis_url, redis_server.url(1))
    yield app
    app.close()


def make_app(broker: str, backend: str) -> Celery:
    app = Celery("jobs", broker=broker, backend=backend, include=["engine.jobs"])
    app.conf.update(broker_publish_timeout=DEADLINE, worker_hijack_root_logger=False)
    app.set_default()
    return app


def work(app: Celery, **options: Any) -> AbstractContextManager[TestWorkController]:
    given = {"pool": "threads", "concurrency": 2, "perform_ping_check": False, "shutdown_timeout": 60.0, **options}
    return start_worker(app, **given)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def is_idle(app: Celery) -> bool:
    [stats] = app.broker.stats(["celery"])
    return stats.ready == stats.leased == 0


@pytest.fixture
def own(server: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may do anything to."""
    running = RedisServer(server("redis"), tmp_path / "own")
    yield running
    running.stop()


# -- messages ----------------------------------------------------------------------------------------------------------


def envelope(task_id: str, *, task: str | None = ADD, **changes: Any) -> bytes:
    """A task message with other fields: of the envelope, or of its `headers` and `properties`."""
    said = json.loads(encode_envelope(task_message(ADD, task_id, (1, 2), {})))
    said["headers"] |= {"task": task, **changes.pop("headers", {})}
    said["properties"] |= changes.pop("properties", {})
    return json.dumps(said | {name.replace("_", "-"): value for name, value in changes.items()}).encode()


def body(text: str) -> str:
    return b64encode(text.encode()).decode()


NO_MESSAGES = {
    b"": "no envelope",
    b"rubbish": "no envelope",
    bytes(range(256)): "no envelope",
    b"\x00\xff" * 1000: "no envelope",
    b"null": "NoneType",
    b"[]": "a list",
    b"7": "type int",
    b'{"body"': "no envelope",
    b'{"body": 1}': "its body is of type int",
    b'{"body": "x"}': "no task",
    b'{"body": "\xff"}': "utf-8",
    b'{"body":' + b"[" * 100_000: "nested too deeply",
    b'{"wrapped": true}': "no envelope",
    b'{"wrapped":"\xff"}': "utf-8",
    b"0 0 0 123\nrubbish": "no envelope",
    envelope("an-id").replace(b'"headers": {', b'"headers": null, "other": {'): "no task",
    envelope("an-id").replace(b'"properties": {', b'"properties": [], "other": {'): "properties are a list",
}
"""Entry -> a word of the reason with which it is dead."""
NO_TASKS = {
    envelope("shape", body=body('{"a": 1}')): "not arguments",
    envelope("cut", body=body("[1,")): "not the JSON it should be",
    envelope("base64", body="!!!"): "not the JSON it should be",
    envelope("type", content_type="application/odd"): "accept_content",
    envelope("pickle", content_type="application/x-python-serialize", content_encoding="binary"): "accept_content",
    envelope("encoding", content_encoding="klingon"): "klingon",
    envelope("rot13", properties={"body_encoding": "rot13"}): "rot13",
    envelope("compression", headers={"compression": "application/x-odd"}): "application/x-odd",
    envelope("gzip", headers={"compression": "application/x-gzip"}): "decompressing",
    envelope("eta", headers={"eta": "tomorrow"}): "ISO 8601",
    envelope("expires", headers={"expires": "soon"}): "ISO 8601",
    envelope("retries", headers={"retries": "many"}): "retries",
    envelope("timelimit", headers={"timelimit": ["a", None]}): "timelimit",
    envelope("priority", properties={"priority": "high"}): "priority",
    envelope("unknown", task="no.such.task"): "no.such.task",
}
"""The same for those that name a task, which then fails."""


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_corrupt_messages_are_dead_with_their_reasons(
    app: Celery, redis_server: RedisServer, pool: str, jobs: Any
) -> None:
    wanted = NO_MESSAGES | NO_TASKS
    with work(app, pool=pool):
        for entry in wanted:
            redis_server.ask("LPUSH", "celery", entry)
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        for id in ("shape", "type", "encoding", "compression", "eta", "retries", "unknown"):
            with pytest.raises(Exception, match=r"."):
                app.AsyncResult(id).get(timeout=30)
        wait_until(lambda: app.broker.stats(["celery"])[0].dead == len(wanted))
    reasons = {entry.envelope: entry.reason for entry in app.broker.entries("dead")}
    missing = {entry: word for entry, word in wanted.items() if word not in reasons.get(entry, "")}
    assert {
        entry[:60]: (word, reasons.get(entry)) for entry, word in missing.items() if entry[:9] != b'{"wrapped'
    } == {}
    assert len(reasons) == len(wanted)


def test_dead_messages_are_sent_back_or_dropped(app: Celery, redis_server: RedisServer) -> None:
    with work(app):
        redis_server.ask("LPUSH", "celery", b"rubbish", envelope("again", task="no.such.task"))
        wait_until(lambda: app.broker.stats(["celery"])[0].dead == 2)
        rubbish, again = sorted(app.broker.entries("dead"), key=lambda entry: entry.task_id)
        app.task(name="no.such.task", shared=False)(lambda x, y: x + y)
        assert app.broker.replay([again.tag]) == 1
        wait_until(lambda: is_idle(app))
        assert app.broker.remove([rubbish.tag]) == 1
        assert app.broker.entries("dead") == []


def test_fifty_megabytes(app: Celery, redis_server: RedisServer, jobs: Any) -> None:
    app.conf.broker_publish_timeout = app.conf.redis_socket_timeout = 60.0
    with work(app) as worker:
        redis_server.ask("LPUSH", "celery", b'{"body": "' + b"x" * 50_000_000)
        assert jobs.length.delay("x" * 50_000_000).get(timeout=60) == 50_000_000
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        wait_until(lambda: app.broker.stats(["celery"])[0].dead == 1)
        [entry] = app.broker.entries("dead")
        assert len(entry.envelope) == 50_000_010
        wait_until(lambda: worker.consumer is not None and worker.consumer.connected)
    assert app.broker.remove([entry.tag]) == 1


# -- keys of others ----------------------------------------------------------------------------------------------------


def test_somebody_else_uses_the_key_of_a_queue(
    app: Celery, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, jobs: Any
) -> None:
    with work(app, queues=["celery", "taken"]):
        redis_server.ask("SET", "taken", "theirs")
        for options in ({}, {"countdown": 0.01}):
            began = time.monotonic()
            with pytest.raises(OperationalError, match="the key taken holds"):
                jobs.add.apply_async((1, 2), queue="taken", **options)
            assert time.monotonic() - began < DEADLINE + SOON
        assert [jobs.add.delay(n, 2).get(timeout=30) for n in range(3)] == [2, 3, 4]
        assert {stats.name: stats.ready for stats in app.broker.stats()} == {"celery": 0, "taken": 0}
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            app.broker.purge("taken")
        assert redis_server.ask("GET", "taken") == b"theirs"
        redis_server.ask("DEL", "taken")
        assert jobs.add.apply_async((1, 2), queue="taken").get(timeout=30) == 3
    assert caplog.text.count("The key 'taken' is no list of messages") == 1


def test_somebody_else_uses_the_key_of_a_priority(app: Celery, redis_server: RedisServer, jobs: Any) -> None:
    redis_server.ask("SET", "celery\x06\x166", "theirs")
    with work(app):
        with pytest.raises(OperationalError, match="holds no list of messages"):
            jobs.add.apply_async((1, 2), priority=7)
        assert jobs.add.apply_async((1, 2), priority=3).get(timeout=30) == 3
        assert jobs.add.delay(1, 2).get(timeout=30) == 3


def test_what_cannot_go_back_to_its_queue_is_dead_and_can_be_replayed(
    redis_server: RedisServer, redis_url: str
) -> None:
    with RedisBroker(redis_url) as broker:
        broker.publish([Outgoing(envelope(str(number)), "q", task_id=str(number)) for number in range(3)])
        consumer = broker.consumer(["q"], name="c")
        claimed = consumer.claim(3)
        redis_server.ask("SET", "q", "theirs")
        consumer.release(claimed)
        entries = broker.entries("dead")
        assert all("could not be put into its queue" in entry.reason for entry in entries)
        redis_server.ask("DEL", "q")
        assert broker.remove([entries[0].tag]) == 1
        assert broker.replay([entry.tag for entry in entries]) == 2
        assert len(consumer.claim(3)) == 2
        consumer.close()


@pytest.mark.parametrize("key", ["celeriac.returned.celery", "celeriac.later.celery", "celeriac.dead.celery"])
def test_somebody_else_uses_a_key_of_ours(app: Celery, redis_server: RedisServer, key: str, jobs: Any) -> None:
    redis_server.ask("SET", key, "theirs")
    with work(app):
        assert [jobs.add.delay(n, 2).get(timeout=30) for n in range(3)] == [2, 3, 4]
    assert redis_server.ask("LLEN", "celery") == 0


def test_keys_of_others_stay_as_they_are(app: Celery, redis_server: RedisServer, tmp_path: Path, jobs: Any) -> None:
    others = {"session:1": "a", "celery-something": "b", "celeriacs": "c", "unacked_mutex": "d"}
    redis_server.ask("MSET", *[word for pair in others.items() for word in pair])
    with work(app, purge=True):
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        assert jobs.flaky.delay(str(tmp_path / "log"), 1, 0.01).get(timeout=30) == 1
        app.control.purge()
    assert redis_server.ask("MGET", *others) == [value.encode() for value in others.values()]


def test_somebody_else_uses_the_key_of_a_result(
    app: Celery, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, jobs: Any
) -> None:
    push = "redis.call('SELECT', 1) redis.call('LPUSH', KEYS[1], 'theirs')"
    redis_server.ask("EVAL", push, 1, "celery-task-meta-taken")
    with work(app):
        with app.bulk():
            result, other = jobs.add.apply_async((1, 2), task_id="taken"), jobs.add.delay(1, 2)
        assert other.get(timeout=30) == 3
        wait_until(lambda: is_idle(app))
        wait_until(lambda: "celery-task-meta-taken" in caplog.text)
        with pytest.raises(BackendError, match="of another type"):
            result.get(timeout=30)
    assert app.broker.stats(["celery"])[0].dead == 0


def test_a_result_that_is_none(app: Celery, redis_server: RedisServer, jobs: Any) -> None:
    redis_server.ask("EVAL", "redis.call('SELECT', 1) redis.call('SET', KEYS[1], 'theirs')", 1, "celery-task-meta-odd")
    with pytest.raises(DecodeError):
        app.AsyncResult("odd").get(timeout=30)
    with work(app):
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        result = jobs.add.apply_async((1, 2), task_id="odd")
        wait_until(lambda: is_idle(app))
        assert result.get(timeout=30) == 3


# -- servers that refuse -----------------------------------------------------------------------------------------------


def test_arguments_that_cannot_be_written(app: Celery, jobs: Any) -> None:
    with pytest.raises(EncodeError):
        jobs.add.delay(object(), 2)
    assert app.broker.stats(["celery"])[0].ready == 0


def test_nobody_is_there(own: RedisServer, jobs: Any) -> None:
    app = make_app(own.url(), own.url(1))
    own.stop()
    began = time.monotonic()
    with pytest.raises(OperationalError, match="cannot be reached: Connection refused"):
        jobs.add.delay(1, 2)
    assert DEADLINE - 0.5 < time.monotonic() - began < DEADLINE + SOON
    app.close()


def test_a_replica_takes_nothing(own: RedisServer, server: Callable[[str], Path], tmp_path: Path, jobs: Any) -> None:
    replica = RedisServer(server("redis"), tmp_path / "replica", replicaof=f"127.0.0.1 {own.port}")
    app = make_app(replica.url(), replica.url(1))
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="it is a replica; give the URL of the primary"):
            jobs.add.delay(1, 2)
        assert time.monotonic() - began < DEADLINE + SOON
        app.conf.broker_connection_retry_on_startup = False
        with pytest.raises(BrokerError, match="it is a replica"):
            WorkController(app, pool="solo").start()
    finally:
        app.close()
        replica.stop()


def test_a_server_that_becomes_a_replica_and_a_primary_again(
    own: RedisServer, server: Callable[[str], Path], tmp_path: Path, jobs: Any
) -> None:
    primary = RedisServer(server("redis"), tmp_path / "primary")
    app = make_app(own.url(), own.url(1))
    try:
        with work(app) as worker:
            assert jobs.add.delay(1, 2).get(timeout=30) == 3
            own.ask("REPLICAOF", "127.0.0.1", primary.port)
            with pytest.raises(OperationalError, match="it is a replica"):
                jobs.add.delay(1, 2)
            own.ask("REPLICAOF", "NO", "ONE")
            began = time.monotonic()
            assert jobs.add.delay(1, 2).get(timeout=30) == 3
            assert time.monotonic() - began < SOON
            assert worker.consumer is not None
    finally:
        app.close()
        primary.stop()


def test_a_server_that_is_full(own: RedisServer, tmp_path: Path, jobs: Any) -> None:
    """Publishers are told so, what was accepted is done, and it goes on when there is room."""
    app = make_app(own.url(), own.url(1))
    log = tmp_path / "log"
    with work(app):
        with app.bulk():
            results = [jobs.mark.delay(str(log), str(number), 0.02) for number in range(20)]
        wait_until(lambda: noted(log))
        own.ask("CONFIG", "SET", "maxmemory", "1mb")
        for options in ({}, {"countdown": 60}):
            began = time.monotonic()
            with pytest.raises(OperationalError, match="maxmemory is reached"):
                jobs.add.apply_async((1, 2), **options)
            assert time.monotonic() - began < DEADLINE + SOON
        assert [result.get(timeout=30) for result in results] == [str(number) for number in range(20)]
        assert app.control.ping(timeout=30, limit=1)
        own.ask("CONFIG", "SET", "maxmemory", "0")
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
    assert set(noted(log).values()) == {1}
    app.close()
