"""Write the golden files beside this script: messages and results as the original Celery puts them into Redis.

Run by hand, with the Python of an environment that holds the original and not this package:

    python -m venv /tmp/original && /tmp/original/bin/pip install "celery[redis,msgpack,yaml]==5.7.0"
    /tmp/original/bin/python tests/wire/capture_golden.py

It starts a redis-server of its own on a free port, sends every message below, lets a worker of the original run some
of them, and writes what lies in Redis, byte for byte but for the folders in tracebacks: `golden/<case>.json` for a
message (`<case>-<n>.json` where a case sends several) and `golden/results/<case>.json` for a result. The files are
committed; a new capture changes ids and times only.
"""

from __future__ import annotations

import datetime as dt
import decimal
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from kombu import Exchange, Queue

from celery import Celery, chain, chord, group
from celery.canvas import StampingVisitor

GOLDEN = Path(__file__).parent / "golden"
URL = os.environ.get("GOLDEN_REDIS_URL", "")

app = Celery("golden", broker=URL or "memory://", backend=URL or None)
app.conf.update(
    accept_content=["json", "pickle", "yaml", "msgpack"],
    task_default_queue="golden",
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    result_extended=bool(os.environ.get("GOLDEN_EXTENDED")),
    task_store_errors_even_if_ignored=False,
)


class OrderError(Exception):
    """An exception with arguments of its own."""


@app.task(name="golden.add")
def add(x: Any = 0, y: Any = 0, **rest: Any) -> Any:
    return x + y


@app.task(name="golden.echo")
def echo(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


@app.task(name="golden.later", queue="parked")
def later(one: Any) -> None:
    """Never run: what is sent to it is captured."""


@app.task(name="golden.fail")
def fail(text: str) -> None:
    raise ValueError(text, 7, {"a": 1}, {1, 2})


@app.task(name="golden.fail_own")
def fail_own() -> None:
    raise OrderError("no stock", decimal.Decimal("1.5"))


@app.task(name="golden.again", bind=True, max_retries=5)
def again(self: Any, x: int) -> None:
    try:
        raise KeyError("not yet")
    except KeyError as exc:
        raise self.retry(exc=exc, countdown=3600, queue="parked", priority=3) from exc


@app.task(name="golden.dates")
def dates() -> Any:
    return {"at": dt.datetime(2026, 8, 1, 12, 30, tzinfo=dt.UTC), "id": uuid.UUID(int=7), "raw": b"\xff\x00"}


class Stamps(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"batch": "b-17", "stamped_headers": ["batch"]}


SPECIALS = {
    "datetime": dt.datetime(2026, 8, 1, 12, 30, 0, 123456),  # noqa: DTZ001 - naive ones are carried too
    "aware": dt.datetime(2026, 8, 1, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    "date": dt.date(2026, 8, 1),
    "time": dt.time(23, 59, 58),
    "decimal": decimal.Decimal("12.340"),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "text bytes": b"plain",
    "raw bytes": b"\xff\x00\x80",
    "float": 1.5e300,
    "big": 2**70,
    "text": 'žluťoučký kůň 🐎 " \\ \n',
    "nested": [{"a": [None, True, (1, 2)]}],
}
SOON = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)

MESSAGES: dict[str, Callable[[], Any]] = {
    "plain": lambda: add.delay(1, 2),
    "no-arguments": echo.delay,
    "json-specials": lambda: echo.delay(SPECIALS, when=SPECIALS["aware"]),
    "msgpack": lambda: echo.apply_async(([1, "é", b"\xff", None, 1.5],), {"a": {"b": 1}}, serializer="msgpack"),
    "yaml": lambda: echo.apply_async((1, "é", None), {"a": [1.5, dt.date(2026, 8, 1)]}, serializer="yaml"),
    "pickle": lambda: echo.apply_async((SPECIALS, {1, 2}), serializer="pickle"),
    "eta": lambda: add.apply_async((1, 2), eta=SOON),
    "eta-naive": lambda: add.apply_async((1, 2), eta=SOON.replace(tzinfo=None)),
    "countdown": lambda: add.apply_async((1, 2), countdown=90.5),
    "expires-seconds": lambda: add.apply_async((1, 2), expires=120),
    "expires-at": lambda: add.apply_async((1, 2), expires=SOON),
    "priority": lambda: add.apply_async((1, 2), priority=5),
    "priority-urgent": lambda: add.apply_async((1, 2), priority=0),
    "link": lambda: add.apply_async((1, 2), link=[add.s(3), echo.si("done").set(queue="other")]),
    "link-error": lambda: add.apply_async((1, 2), link_error=[echo.s("failed"), echo.si()]),
    "chain": lambda: chain(add.s(1, 2), add.s(3), add.s(4), add.s(5)).apply_async(),
    "group": lambda: group(add.s(i, i) for i in range(3)).apply_async(),
    "chord": lambda: chord([add.s(1, 1), add.s(2, 2)], echo.s(final=True)).apply_async(),
    "zlib": lambda: echo.apply_async(("x" * 2000,), compression="zlib"),
    "bzip2": lambda: echo.apply_async(("x" * 2000,), compression="bzip2"),
    "lzma": lambda: echo.apply_async(("x" * 2000,), compression="lzma"),
    "pickle-zlib": lambda: echo.apply_async(({1, 2},), compression="gzip", serializer="pickle"),
    "stamps": lambda: _stamped().apply_async(),
    "headers": lambda: add.apply_async((1, 2), headers={"tenant": "acme", "trace": {"id": 5, "hops": [1.5]}, "n": 3}),
    "header-specials": lambda: add.apply_async((1, 2), headers={"at": SPECIALS["aware"], "raw": b"\xff"}),
    "shadow": lambda: add.apply_async((1, 2), shadow="golden.other-name"),
    "time-limits": lambda: add.apply_async((1, 2), time_limit=30, soft_time_limit=20.5),
    "ignore-result": lambda: add.apply_async((1, 2), ignore_result=True),
    "replaced": lambda: add.apply_async((1, 2), replaced_task_nesting=2),
    "own-ids": lambda: add.apply_async(
        (1, 2), task_id="order-17", root_id="root-1", parent_id="parent-1", group_id="g"
    ),
    "long-repr": lambda: echo.apply_async((["word"] * 1000,), {"text": "y" * 3000}),
    "own-repr": lambda: add.apply_async((1, 2), argsrepr="<secret>", kwargsrepr="<none>"),
    "exchange": lambda: add.apply_async((1, 2), queue=Queue("orders", Exchange("orders"), "orders.new")),
    "send-task": lambda: app.send_task("golden.unknown", ["a"], {"b": 1}, queue="golden"),
    "reply-to": lambda: add.apply_async((1, 2), reply_to="somebody", correlation_id="c-1"),
    "surrogate": lambda: echo.delay("\ud800"),
    "nan": lambda: echo.delay(float("nan"), float("inf")),
}
PROTOCOL_1: dict[str, Callable[[], Any]] = {
    "protocol1-plain": lambda: add.delay(1, 2),
    "protocol1-rich": lambda: add.apply_async(
        (1, 2), {"z": SPECIALS["aware"]}, eta=SOON, expires=SOON, link=add.s(3), link_error=echo.s(), group_id="g-1",
        time_limit=30, soft_time_limit=20, priority=3,
    ),
    "protocol1-pickle": lambda: echo.apply_async(({1, 2},), serializer="pickle"),
}  # fmt: skip
RUN: dict[str, Callable[[], Any]] = {
    "success": lambda: add.delay(1, 2),
    "specials": dates.delay,
    "failure": lambda: fail.delay("no é"),
    "failure-own": fail_own.delay,
    "retry": lambda: again.delay(1),
    "children": lambda: add.apply_async((1, 2), link=later.s()),
    "chain": lambda: chain(add.s(1, 2), later.s(), add.s(1)).apply_async(),
    "errback": lambda: fail.apply_async(("linked",), link_error=later.s()),
}


def _stamped() -> Any:
    sig = add.s(1, 2)
    sig.stamp(Stamps())
    return sig


def _drain(server: redis.Redis, pattern: str = "*") -> list[bytes]:
    found: list[bytes] = []
    for key in sorted(server.keys(pattern)):
        if server.type(key) == b"list":
            while (item := server.rpop(key)) is not None:
                found.append(item)
    return found


def _write(folder: Path, name: str, items: list[bytes]) -> None:
    for index, raw in enumerate(items):
        item = raw.replace(sys.prefix.encode(), b"/original").replace(str(Path(__file__).parent).encode(), b"/golden")
        (folder / (f"{name}.json" if len(items) == 1 else f"{name}-{index}.json")).write_bytes(item)


def _capture_messages(server: redis.Redis) -> None:
    for protocol, cases in ((1, PROTOCOL_1), (2, MESSAGES)):
        app.conf.task_protocol = protocol
        app.__dict__.pop("amqp", None)  # the protocol is read when this is made
        for name, send in cases.items():
            send()
            _write(GOLDEN, name, _drain(server))


def _capture_runs(server: redis.Redis, extended: bool) -> None:
    """Let a worker of the original run tasks: what it stores, and what it sends on to the queue `parked`."""
    prefix = "extended-" if extended else ""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "capture_golden",
        "worker",
        "-P",
        "solo",
        "-Q",
        "golden",
        "-l",
        "ERROR",
    ]
    environment = {
        **os.environ,
        "GOLDEN_REDIS_URL": _url(server),
        "GOLDEN_EXTENDED": "1" if extended else "",
        "C_FORCE_ROOT": "1",
    }
    worker = subprocess.Popen(command, cwd=Path(__file__).parent, env=environment)
    try:
        for name, send in RUN.items():
            result = send()
            while result.parent is not None:
                result = result.parent
            key = f"celery-task-meta-{result.id}"
            sends_on = name in {"retry", "children", "chain", "errback"}
            sent: list[bytes] = []
            deadline = time.monotonic() + 60
            while server.get(key) is None or (sends_on and not sent):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{name}: no result within a minute, {sent} was sent on")
                time.sleep(0.05)
                sent += _drain(server, "parked*")
            _write(GOLDEN / "results", f"{prefix}{name}", [server.get(key)])
            if not extended:
                _write(GOLDEN, f"worker-{name}", sent)
    finally:
        worker.terminate()
        worker.wait(30)


def _url(server: redis.Redis) -> str:
    return f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}/0"


def main() -> None:
    shutil.rmtree(GOLDEN / "results", ignore_errors=True)
    (GOLDEN / "results").mkdir(parents=True)
    for path in GOLDEN.glob("*.json"):
        path.unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        try:
            server = redis.Redis(port=port)
            for _ in range(100):
                try:
                    server.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            app.conf.broker_url = app.conf.result_backend = _url(server)
            _capture_messages(server)
            server.flushall()
            _capture_runs(server, extended=False)
            _capture_runs(server, extended=True)
            saved = group(add.s(1, 1), add.s(2, 2)).apply_async()
            saved.save()
            _write(GOLDEN / "results", "group", [server.get(f"celery-taskset-meta-{saved.id}")])
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
