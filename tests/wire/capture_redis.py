"""Write the golden databases beside this script: everything that a running original Celery keeps in Redis.

Run by hand, with the Python of an environment that holds the original and not this package:

    python -m venv /tmp/original && /tmp/original/bin/pip install "celery[redis]==5.7.0"
    /tmp/original/bin/python tests/wire/capture_redis.py

It starts a redis-server of its own on a free port, lets the original send, hold and run tasks, and writes every key of
the database: `golden/databases/<case>.json`, a map from the key to its type, whether it expires, and its value; bytes
as the characters of Latin-1. The files are committed; a new capture changes ids, times and names of processes only.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from kombu import Exchange, Queue

from celery import Celery, group, states
from celery.exceptions import Ignore

GOLDEN = Path(__file__).parent / "golden" / "databases"
SETTINGS = json.loads(os.environ.get("GOLDEN_SETTINGS", "{}"))
SOON = dt.datetime(2035, 1, 1, tzinfo=dt.UTC)
PREFIXED = {"global_keyprefix": "shop:", "sep": "|", "priority_steps": [0, 4, 8], "queue_order_strategy": "priority"}
ORDERS = Queue("orders", Exchange("orders", "topic"), "orders.*")

app = Celery("golden")
app.conf.update(task_default_queue="golden", broker_connection_retry_on_startup=True, **SETTINGS)


@app.task(name="golden.add")
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="golden.fail")
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(name="golden.again", bind=True)
def again(self: Any) -> None:
    raise self.retry(exc=KeyError("not yet"), countdown=3600)


@app.task(name="golden.progress", bind=True)
def progress(self: Any) -> None:
    """Leaves the state that it gave itself: what it raises is not stored."""
    self.update_state(state="PROGRESS", meta={"done": 3, "of": 10})
    raise Ignore


@app.task(name="golden.silent", ignore_result=True)
def silent() -> int:
    return 1


def send() -> None:
    add.apply_async((1,), task_id="plain")
    add.apply_async((2,), task_id="urgent", priority=0)
    add.apply_async((3,), task_id="middling", priority=5)
    add.apply_async((4,), task_id="lowest", priority=9)
    add.apply_async((5,), task_id="later", eta=SOON)
    add.apply_async((6,), task_id="perishable", expires=SOON)
    add.apply_async((7,), task_id="second")


def send_to_exchange() -> None:
    add.apply_async((1,), task_id="new", queue=ORDERS, routing_key="orders.new")
    add.apply_async((2,), task_id="paid", queue=ORDERS, routing_key="orders.paid")


def hold(server: redis.Redis) -> None:
    """A worker holds two messages that are not due, and three wait for it."""
    with worker("-Q", "golden"):
        add.apply_async((1,), task_id="held", eta=SOON)
        add.apply_async((2,), task_id="held-urgent", eta=SOON, priority=0)
        wait(lambda: server.hlen("unacked") == 2)
        for number in range(3):
            add.apply_async((number,), task_id=f"waiting-{number}", queue="elsewhere")
        snapshot(server, "held")


def run(server: redis.Redis) -> None:
    with worker("-Q", "golden"):
        add.apply_async((1, 2), task_id="success")
        fail.apply_async(("no é",), task_id="failure")
        again.apply_async(task_id="retry")
        progress.apply_async(task_id="progress")
        silent.apply_async(task_id="silent")
        saved = group(add.s(1, 1).set(task_id="one"), add.s(2, 2).set(task_id="two")).apply_async(task_id="both")
        saved.save()
        done = [f"celery-task-meta-{name}" for name in ("success", "failure", "retry", "progress", "one", "two")]
        wait(lambda: server.exists(*done) == len(done))
        app.backend.store_result("revoked", None, states.REVOKED)
        snapshot(server, "results", "celery-*")


def run_compressed(server: redis.Redis) -> None:
    app.conf.result_compression = "gzip"
    with worker("-Q", "golden"):
        add.apply_async((1, 2), task_id="success")
        wait(lambda: server.exists("celery-task-meta-success"))
        snapshot(server, "results-gzip", "celery-*")


def send_with_options() -> None:
    other = Celery("golden", broker=app.conf.broker_url)
    other.conf.update(task_default_queue="golden", broker_transport_options=PREFIXED)
    for number, priority in enumerate((None, 0, 3, 4, 7, 8, 9)):
        other.send_task("golden.add", (number,), task_id=f"p{priority}", priority=priority)


def snapshot(server: redis.Redis, case: str, pattern: str = "*") -> None:
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"list": lambda key: [text(item) for item in server.lrange(key, 0, -1)],
        b"set": lambda key: sorted(text(item) for item in server.smembers(key)),
        b"hash": lambda key: {text(field): text(value) for field, value in sorted(server.hgetall(key).items())},
        b"zset": lambda key: [[text(member), score] for member, score in server.zrange(key, 0, -1, withscores=True)],
        b"string": lambda key: text(server.get(key)),
    }
    found = {
        text(key): {"type": text(kind), "expires": server.ttl(key) > 0, "value": readers[kind](key)}
        for key in sorted(server.keys(pattern))
        for kind in [server.type(key)]
    }
    (GOLDEN / f"{case}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    server.flushall()


def text(raw: bytes) -> str:
    known = raw.replace(sys.prefix.encode(), b"/original").replace(str(Path(__file__).parent).encode(), b"/golden")
    return known.decode("latin-1")


def wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the original did not get there within a minute")
        time.sleep(0.05)


@contextmanager
def worker(*arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "capture_redis", "worker", "-P", "solo", "-l", "ERROR", *arguments]
    settings = {name: app.conf[name] for name in ("broker_url", "result_backend", "result_compression")}
    env = {**os.environ, "GOLDEN_SETTINGS": json.dumps(settings), "C_FORCE_ROOT": "1"}
    process = subprocess.Popen(command, cwd=Path(__file__).parent, env=env)
    try:
        yield
    finally:
        process.kill()  # a warm end would put back what it holds
        process.wait()


@contextmanager
def server() -> Iterator[redis.Redis]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(port=port)
            wait(lambda: answers(client))
            app.conf.broker_url = app.conf.result_backend = f"redis://127.0.0.1:{port}/0"
            yield client
            client.close()
        finally:
            process.terminate()
            process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    with server() as client:
        send()
        snapshot(client, "queue")
        send_to_exchange()
        snapshot(client, "exchange")
        hold(client)
        run(client)
        run_compressed(client)
        send_with_options()
        snapshot(client, "prefixed")


if __name__ == "__main__":
    main()
