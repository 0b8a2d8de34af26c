#!/usr/bin/env python3
"""Measure how long a worker takes to answer remote control while it drains tiny tasks, on several pools.

    control.py [--asks 100] [--pools prefork threads asyncio] [--embedded]

A producer keeps its queue full.  Printed are the median and the 95th and 99th of 100 of the time from `broadcast` to
the answer, for `ping`, `stats` and `active` in turn, and how many tasks ran meanwhile.  The broker is a Redis server of
the run's own, or with --embedded a file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import bench
from bench import Subject

COMMANDS = ("ping", "stats", "active")
FEEDER = """
from bench_app import app, noop
while True:
    with app.bulk():
        for _ in range(2000):
            noop.delay()
    while sum(stats.ready for stats in app.broker.stats(["celery"])) > 20_000:
        __import__("time").sleep(0.05)
"""
ASKER = """
import json, sys, time
from bench_app import app
node, asks, commands = sys.argv[1], int(sys.argv[2]), sys.argv[3].split()
found = []
for number in range(asks + 6):
    began = time.perf_counter()
    answers = app.control.broadcast(commands[number % 3], reply=True, destination=[node], timeout=30)
    assert len(answers) == 1, answers
    found.append((time.perf_counter() - began) * 1000)
    time.sleep(0.02)
print(json.dumps(found[6:]))
"""


def measure(subject: Subject, pool: str, asks: int) -> str:
    subject.reset()
    bench.WORKER[bench.WORKER.index("-l") :] = ["-l", "ERROR", "-n", "busy@bench", "-P", pool]
    with subject.worker():
        feeder = subprocess.Popen([sys.executable, "-c", FEEDER], env=subject.environment(), cwd=bench.APP)
        try:
            while not subject.sink.stat().st_size > 5000:
                time.sleep(0.05)
            began, before = time.perf_counter(), subject.sink.stat().st_size
            command = [sys.executable, "-c", ASKER, "busy@bench", str(asks), " ".join(COMMANDS)]
            done = subprocess.run(command, env=subject.environment(), cwd=bench.APP, capture_output=True, text=True,
                                  timeout=600, check=False)  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{pool}: {done.stderr[-3000:]}")
            rate = (subject.sink.stat().st_size - before) / (time.perf_counter() - began)
        finally:
            feeder.terminate()
            feeder.wait()
    waits = [float(word) for word in done.stdout.strip(" []\n").split(",")]
    parts = statistics.quantiles(waits, n=100)
    return (
        f"{pool:10} median {parts[49]:6.1f} ms, 95 % {parts[94]:6.1f} ms, 99 % {parts[98]:6.1f} ms,"
        f" most {max(waits):6.1f} ms, while {rate:,.0f} tasks ran a second"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=100)
    parser.add_argument("--pools", nargs="+", default=["prefork", "threads", "asyncio"])
    parser.add_argument("--embedded", action="store_true")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for pool in options.pools:
        with tempfile.TemporaryDirectory() as scratch:
            subject = Subject("ours", sys.executable, Path(scratch), bulk=True)
            with nullcontext("") if options.embedded else bench.redis_server(Path(scratch)) as url:
                if url:
                    subject.env = {"BENCH_BROKER": f"{url}/0", "BENCH_BACKEND": f"{url}/0"}
                print(measure(subject, pool, options.asks), flush=True)


if __name__ == "__main__":
    main()
