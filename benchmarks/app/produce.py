"""produce.py MODE COUNT: drive the application from a process of its own; print one JSON object of figures."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench_app import add, app, noop, stored, total

from celery import chain, chord

THREADS = 8


def rate(count: int, seconds: float) -> dict[str, float]:
    return {"per_s": count / seconds}


def one_by_one(count: int) -> dict[str, float]:
    noop.delay()
    started = time.perf_counter()
    for _ in range(count - 1):
        noop.delay()
    return rate(count, time.perf_counter() - started)


def threads(count: int) -> dict[str, float]:
    """Sent one by one by each of several threads, as by those of a web server."""

    def some(first: int) -> None:
        for _ in range(first, count - 1, THREADS):
            noop.delay()

    noop.delay()
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        list(pool.map(some, range(THREADS)))
    return rate(count - 1, time.perf_counter() - started)


def results(count: int) -> dict[str, float]:
    started = time.perf_counter()
    for _ in range(count):
        stored.delay()
    return rate(count, time.perf_counter() - started)


def bulk(count: int) -> dict[str, float]:
    started = time.perf_counter()
    with app.bulk():
        for _ in range(count):
            noop.delay()
    return rate(count, time.perf_counter() - started)


def bulk_results(count: int) -> dict[str, float]:
    started = time.perf_counter()
    with app.bulk():
        for _ in range(count):
            stored.delay()
    return rate(count, time.perf_counter() - started)


def latency(count: int) -> dict[str, float]:
    for _ in range(count):
        noop.delay(time.time())
        time.sleep(0.01)
    return {}


def roundtrip(count: int) -> dict[str, float]:
    trips = []
    for number in range(count):
        started = time.perf_counter()
        assert add.delay(number, 1).get(timeout=30) == number + 1
        trips.append((time.perf_counter() - started) * 1e3)
    trips.sort()
    return {"p50_ms": trips[count // 2], "p99_ms": trips[int(count * 0.99)]}


def workflow(canvas: Any, expected: int) -> dict[str, float]:
    """Send it and wait for its result; what was published is counted beside."""
    with app.publisher.collect() as messages:
        canvas.apply_async()
    megabytes = sum(len(message.envelope) for message in messages) / 1e6
    started = time.perf_counter()
    result = canvas.apply_async()
    sent = time.perf_counter() - started
    found = result.get(timeout=300)
    assert found == expected, found
    return {"sent": sent, "done": time.perf_counter() - started, "MB": megabytes}


def long_chain(count: int) -> dict[str, float]:
    return workflow(chain([add.s(0, 1), *(add.s(1) for _ in range(count - 1))]), count)


def large_chord(count: int) -> dict[str, float]:
    """With a body of 100 KB."""
    return workflow(
        chord([add.s(number, 0) for number in range(count)], total.s(ballast="x" * 100_000)), sum(range(count))
    )


MODES = {
    "one-by-one": one_by_one,
    "threads": threads,
    "results": results,
    "bulk": bulk,
    "bulk-results": bulk_results,
    "latency": latency,
    "roundtrip": roundtrip,
    "chain": long_chain,
    "chord": large_chord,
}
print(json.dumps(MODES[sys.argv[1]](int(sys.argv[2]))))
