#!/usr/bin/env python3
"""Measure what task events cost a worker: the same tasks drained with and without -E, in turns.

    events.py [--tasks 10000] [--rounds 3] [--pool prefork] [--embedded] [--watched dump|state]

Drains alternate, so that a machine that slows down slows both.  Read the ratios: of tasks a second, and of CPU seconds
(user and system, of the worker and its processes) a task.  --watched has a monitor hear the events meanwhile, which
takes its own share of the machine: `celery events --dump`, or a program that keeps a `State`, as Flower does.  What the
server and the monitor took is printed beside it.  The broker is a Redis server of the run's own, or with --embedded a
file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import bench
from bench import Subject

TICK = os.sysconf("SC_CLK_TCK")
WATCHER = """
from bench_app import app
app.events.Receiver(None, handlers={"*": app.events.State().event}).capture()
"""
MONITORS = {"dump": ["-m", "celery", "-A", "bench_app", "events", "--dump"], "state": ["-c", WATCHER]}


def cpu_seconds(root: int) -> float:
    """CPU time of a process and everything below it, user and system."""
    table: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        table[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    total, pending = 0.0, [root]
    while pending:
        pid = pending.pop()
        total += table[pid][1]
        pending += [child for child, (parent, _) in table.items() if parent == pid]
    return total


def drain(
    subject: Subject, tasks: int, *options: str, also: Sequence[Callable[[], float]] = ()
) -> tuple[float, float, tuple[float, ...]]:
    """(tasks a second, CPU microseconds a task, those of others) of one drain by a worker with these options.

    *also*: the CPU seconds of others so far.
    """
    subject.reset()
    subject.produce("bulk-results", tasks)
    bench.WORKER[bench.WORKER.index("-l") :] = ["-l", "ERROR", "--without-gossip", "--without-mingle", *options]
    with subject.worker() as process:
        while subject.sink.stat().st_size < tasks * 0.05:
            time.sleep(0.002)
        counted = [lambda: cpu_seconds(process.pid), *also]
        began, already = [seconds() for seconds in counted], subject.sink.stat().st_size
        rate = subject.drain(tasks)
        ended = [seconds() for seconds in counted]
        ours, *others = ((after - before) / (tasks - already) * 1e6 for before, after in zip(began, ended, strict=True))
        return rate, ours, tuple(others)


@contextmanager
def monitor(subject: Subject, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [subject.python, *MONITORS[kind]]
    process = subprocess.Popen(command, env=subject.environment(), cwd=bench.APP, stdout=subprocess.DEVNULL)
    time.sleep(2)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def measure(subject: Subject, tasks: int, url: str, watched: str | None, *options: str) -> tuple[float, float, str]:
    """(tasks a second, CPU microseconds a task, those of others in words)"""
    with monitor(subject, watched) if watched else nullcontext() as process:
        also: dict[str, Callable[[], float]] = {}
        if url:
            also["server"] = lambda: bench.server_seconds(url)
        if process is not None:
            pid = process.pid
            also["monitor"] = lambda: cpu_seconds(pid)
        rate, ours, others = drain(subject, tasks, *options, also=list(also.values()))
    return rate, ours, "".join(f" {name} {value:.1f}" for name, value in zip(also, others, strict=True))


def compare(subject: Subject, tasks: int, rounds: int, pool: str, *, url: str, watched: str | None) -> None:
    drain(subject, tasks, "-P", pool)  # what is made once is made now
    ratios: dict[str, list[float]] = {"tasks a second": [], "CPU a task": []}
    for number in range(rounds):
        order = [(), ("-E",)] if number % 2 else [("-E",), ()]
        found = {options: measure(subject, tasks, url, watched, "-P", pool, *options) for options in order}
        off, on = found[()], found["-E",]
        ratios["tasks a second"].append(on[0] / off[0])
        ratios["CPU a task"].append(on[1] / off[1])
        print(f"off {off[0]:7,.0f}/s {off[1]:6.1f} us{off[2]}   -E {on[0]:7,.0f}/s {on[1]:6.1f} us{on[2]}", flush=True)
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.3f} of what it is without -E (median of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pool", default="prefork")
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--watched", choices=sorted(MONITORS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        subject = Subject("ours", sys.executable, Path(scratch), bulk=True)
        with nullcontext("") if options.embedded else bench.redis_server(Path(scratch)) as url:
            if url:
                subject.env = {"BENCH_BROKER": f"{url}/0", "BENCH_BACKEND": f"{url}/0"}
            compare(subject, options.tasks, options.rounds, options.pool, url=url, watched=options.watched)


if __name__ == "__main__":
    main()
