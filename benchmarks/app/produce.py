"""produce.py MODE COUNT: drive the application from a process of its own; print one JSON object of figures."""

from __future__ import annotations

import json
import sys
import time

from bench_app import add, app, noop, stored


def rate(count: int, seconds: float) -> dict[str, float]:
    return {"per_s": count / seconds}


def one_by_one(count: int) -> dict[str, float]:
    noop.delay()
    started = time.perf_counter()
    for _ in range(count - 1):
        noop.delay()
    return rate(count, time.perf_counter() - started)


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


MODES = {
    "one-by-one": one_by_one,
    "results": results,
    "bulk": bulk,
    "bulk-results": bulk_results,
    "latency": latency,
    "roundtrip": roundtrip,
}
print(json.dumps(MODES[sys.argv[1]](int(sys.argv[2]))))
