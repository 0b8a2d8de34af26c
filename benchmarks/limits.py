#!/usr/bin/env python3
"""What limits cost: the same tasks without any, with one that is never reached, and with 1,000 keys of one slot each.

    limits.py [memory|sqlite|redis] [--tasks 20000]
    limits.py [sqlite|redis] --worker [--tasks 20000] [--rounds 3] [--pool prefork]

It drives one consumer as a worker does (claim, settle and start in one step), without running tasks, and prints the
processor time of this process for each task, of the Redis server too, and the wall time.  --worker drains trivial tasks
with a real worker instead, with limits that are never reached, each between two turns without: read the ratios, of
tasks a second and of processor time (of the worker, its processes and the server) a task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench
from bench import Subject

import events
from celery.drivers import broker_class
from celery.wire.message import Delivery, Outgoing, Permit, Settlement
from celery.wire.protocol import encode_envelope, task_message

BATCH = 200
Needs = Callable[[int], tuple[Permit, ...]]
NO_LIMIT = "no limit"
NEVER_REACHED: dict[str, dict[str, Any]] = {
    NO_LIMIT: {},
    "concurrency_limit": {"concurrency_limit": 10_000},
    "concurrency_limit and key": {"concurrency_limit": 10_000, "concurrency_key": "all {sent_at}"},
    "rate of the fleet": {"rate_limit": "1000000/s", "rate_limit_scope": "global"},
    "rate of the worker": {"rate_limit": "1000000/s"},
}


@contextmanager
def broker_url(where: str, folder: Path) -> Iterator[str]:
    if where == "redis":
        with bench.redis_server(folder) as url:
            yield f"{url}/0"
    else:
        yield {"memory": "memory://bench", "sqlite": f"sqlite:///{folder}/bench.db"}[where]


def drain(broker: Any, count: int, needs: Needs | None) -> tuple[float, float, float]:
    """(processor seconds here, those of the server, wall seconds) for *count* tasks."""
    envelope = encode_envelope(task_message("bench.task", "0" * 36, (1, 2)))
    for begin in range(0, count, 1000):
        broker.publish([Outgoing(envelope, "bench", task_id=str(number)) for number in range(begin, begin + 1000)])
    consumer = broker.consumer(["bench"], name="bench")
    ended, number, running = 0, 0, list[Delivery]()
    server, began, wall = bench.server_seconds(broker.url), time.process_time(), time.perf_counter()
    while ended < count:
        claimed = consumer.claim(BATCH)
        wanted: dict[Any, Any] = {}
        if needs is not None:
            for delivery in claimed:
                wanted[delivery.tag] = needs(number)
                number += 1
        settlements = [Settlement(delivery) for delivery in running]
        ended += len(settlements)
        _, verdicts = consumer.settle_and_start(settlements, claimed, (), wanted)
        running = [delivery for delivery, verdict in zip(claimed, verdicts, strict=True) if verdict == "ok"]
    here, wall = time.process_time() - began, time.perf_counter() - wall
    found = here, bench.server_seconds(broker.url) - server, wall
    consumer.close()
    broker.purge("bench")
    return found


def compare_consumers(where: str, count: int, rounds: int) -> None:
    all_of_them = (Permit("all", 10_000),)
    plans: dict[str, Needs | None] = {
        NO_LIMIT: None,
        "a limit that is not reached": lambda _: all_of_them,
        "1,000 keys, one slot each": lambda number: (Permit(f"key {number % 1000}", 1),),
    }
    with tempfile.TemporaryDirectory() as folder, broker_url(where, Path(folder)) as url:
        broker = broker_class(url)(url)
        least: dict[str, tuple[float, ...]] = {}
        for _ in range(rounds):
            for name, needs in plans.items():
                found = drain(broker, count, needs)
                least[name] = tuple(map(min, zip(least.get(name, found), found, strict=True)))
        for name, figures in least.items():
            here, server, wall = (
                f"{value / count * 1e6:6.2f} ({value / base:.2f})" if (base := least[NO_LIMIT][at]) else "-"
                for at, value in enumerate(figures)
            )
            print(f"{name:30} µs a task: processor {here:15} server {server:15} wall {wall}")
        broker.close()


def compare_workers(where: str, tasks: int, rounds: int, pool: str) -> None:
    ratios: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, broker_url(where, Path(folder)) as url:
        subject = Subject("ours", sys.executable, Path(folder), bulk=True)

        def measure(attributes: dict[str, Any]) -> tuple[float, float]:
            """(tasks a second, processor µs a task)"""
            subject.env = {"BENCH_ATTRIBUTES": json.dumps(attributes)}
            if where == "redis":
                subject.env |= {"BENCH_BROKER": url, "BENCH_BACKEND": url}
            rate, ours, (servers,) = events.drain(subject, tasks, "-P", pool, also=[lambda: bench.server_seconds(url)])
            return rate, ours + servers

        measure({})  # what is made once is made now
        for number in range(rounds):
            # Each between two drains without a limit: what drifts from drain to drain falls out.
            before, limited = measure({}), [name for name in NEVER_REACHED if name != NO_LIMIT]
            for name in limited[:: -1 if number % 2 else 1]:
                found, after = measure(NEVER_REACHED[name]), measure({})
                rate, processor = ((one + other) / 2 for one, other in zip(before, after, strict=True))
                ratios.setdefault(name, []).append((found[0] / rate, found[1] / processor))
                print(
                    f"{name} {found[0]:,.0f}/s {found[1]:.1f} µs, {NO_LIMIT} {rate:,.0f}/s {processor:.1f} µs",
                    flush=True,
                )
                before = after
    for name, pairs in ratios.items():
        rate, processor = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{name:30} tasks a second {rate:.3f}, processor time a task {processor:.3f} (median of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", nargs="?", choices=["memory", "sqlite", "redis"], default="sqlite")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pool", default="prefork")
    options = parser.parse_args()
    if options.worker:
        compare_workers(options.where, options.tasks, options.rounds, options.pool)
    else:
        compare_consumers(options.where, options.tasks, options.rounds)


if __name__ == "__main__":
    main()
