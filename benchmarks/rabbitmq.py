#!/usr/bin/env python3
"""Measure us beside original Celery on one RabbitMQ node (results in Redis), in turns of one run.

    rabbitmq.py [--tasks 20000] [--theirs 3000] [--turns 3] [--quorum] [--ours] [--folder /dev/shm]

In each turn both kinds send, and drain what was sent, in a vhost of their own; a count that is not exact fails the run.
`delay()` of ours has the broker's confirm when it returns, the original's has not: one thread has to wait for each, and
several, as those of a web server, wait together.  The node is one of the run's own
(tests/rig/rabbitmq.py), and so is the Redis server.  --quorum: queues of that kind.  --ours leaves the original out.
--folder: where the node keeps its messages; in memory the time is left out that a disk takes for each confirm.
Absolute figures drift with the machine; the ratios of one turn are what to read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import Figures, Subject, original_python, redis_server

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from rig.rabbitmq import RabbitMQ

SENT = {"one-by-one": "delay()/s", "threads": "delay() in eight threads/s", "bulk": "bulk()/s"}
"""Figures of sending, by the mode of app/produce.py."""
QUORUM = {"task_default_queue_type": "quorum", "worker_detect_quorum_queues": True}


@contextmanager
def rabbitmq_node(folder: Path) -> Iterator[RabbitMQ]:
    node = RabbitMQ(Path("rabbitmq-server"), folder, name="bench")
    assert node.process is not None
    try:
        yield node
    finally:
        node.stop()


def spent(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def below(root: int) -> list[int]:
    """The processes below *root*."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def accounts(worker: int, servers: dict[str, int]) -> dict[str, float]:
    """Seconds of processor by now, of who takes part in a drain."""
    used = {"worker": spent(worker), "children": sum(map(spent, below(worker)))}
    return used | {name: spent(pid) + sum(map(spent, below(pid))) for name, pid in servers.items()}


def turn(subject: Subject, tasks: int, servers: dict[str, int]) -> Figures:
    """Sent one by one; drained with results ignored; drained with results stored and late acks."""
    figures: Figures = {}
    half = min(tasks // 2, 2000)
    rest = "bulk" if subject.bulk else "one-by-one", tasks - 2 * half
    for column, late, sent in (
        ("drain/s", "0", [("one-by-one", half), ("threads", half), rest]),
        ("drain with results, late acks/s", "1", [("bulk-results" if subject.bulk else "results", tasks)]),
    ):
        subject.reset()
        subject.env["BENCH_ACKS_LATE"] = late
        for mode, count in sent:
            rate = subject.produce(mode, count)["per_s"] if count else 0.0
            if mode in SENT:
                figures.setdefault(SENT[mode], rate)
        with subject.worker() as process:
            while not subject.sink.stat().st_size:
                time.sleep(0.01)
            done, before = subject.sink.stat().st_size, accounts(process.pid, servers)
            figures[column] = subject.drain(tasks)
            after = accounts(process.pid, servers)
            for name, seconds in after.items():
                figures[f"{column[:-2]}: us of {name} a task"] = (seconds - before[name]) / (tasks - done) * 1e6
    return figures


def report(turns: list[dict[str, Figures]]) -> None:
    for name in turns[0]["ours"]:
        ours = [found["ours"][name] for found in turns]
        line = f"{name:52} ours {'  '.join(f'{value:9,.0f}' for value in ours)}"
        theirs = [found["theirs"][name] for found in turns if name in found.get("theirs", {})]
        if theirs:
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            line += f"   original {'  '.join(f'{value:7,.0f}' for value in theirs)}"
            line += f"   ratios {'  '.join(f'{value:5.1f}' for value in ratios)}"
            line += f"   median {statistics.median(ratios):.1f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20000)
    parser.add_argument("--theirs", type=int, default=3000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quorum", action="store_true")
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "bench-original-celery")
    options = parser.parse_args()
    turns: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        with rabbitmq_node(folder / "node") as node, redis_server(folder) as redis:
            node.add_vhosts(["ours", "theirs"])
            servers = {"RabbitMQ": node.process.pid}
            subjects = {"ours": Subject("ours", sys.executable, folder / "ours", bulk=True)}
            if not options.ours:
                python = original_python(options.cache)
                subjects["theirs"] = Subject("theirs", python, folder / "theirs", bulk=False)
            for database, (name, subject) in enumerate(subjects.items()):
                subject.folder.mkdir()
                subject.env = {"BENCH_BROKER": node.url(name), "BENCH_BACKEND": f"{redis}/{database}"}
                if options.quorum:
                    subject.env["BENCH_SETTINGS"] = json.dumps(QUORUM)
            for _ in range(options.turns):
                turns.append({})
                for name, subject in subjects.items():
                    turns[-1][name] = turn(subject, options.tasks if name == "ours" else options.theirs, servers)
                print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
    report(turns)


if __name__ == "__main__":
    main()
