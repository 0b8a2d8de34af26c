#!/usr/bin/env python3
"""Measure the embedded broker and Redis end to end and, with --original, original Celery on Redis in the same run.

    bench.py [--tasks 20000] [--only embedded|redis] [--original] [--json FILE]

Every drain is preceded by a full enqueue and followed by an exact count: a lost or doubled execution fails the run.
Absolute figures drift with the machine; the ratios of one run are what to read.  --original installs
`celery[redis]==5.7.0` into an environment of its own (kept in the system's temporary folder).  Redis is a server of
the run's own, without persistence; where none is installed it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

APP = Path(__file__).resolve().parent / "app"
WORKER = ["-m", "celery", "-A", "bench_app", "worker", "-c", "2", "-l", "ERROR", "--without-gossip", "--without-mingle"]
ORIGINAL = ["celery[redis]==5.7.0", "hiredis"]
PEER = "original on redis"
Figures = dict[str, float]


@dataclass
class Subject:
    """One implementation in one folder: how to run it and where it keeps its state."""

    name: str
    python: str
    folder: Path
    bulk: bool
    env: dict[str, str] = field(default_factory=dict)

    @property
    def sink(self) -> Path:
        return self.folder / "sink"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(APP),
            "C_FORCE_ROOT": "1",
            "BENCH_SINK": str(self.sink),
            "CELERY_HOME": str(self.folder / "home"),
            **self.env,
        }

    def produce(self, mode: str, count: int) -> Figures:
        done = subprocess.run(
            [self.python, str(APP / "produce.py"), mode, str(count)],
            env=self.environment(), cwd=APP, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self.name}: the producer failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [self.python, *WORKER], env=self.environment(), cwd=APP, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def drain(self, count: int) -> float:
        """Tasks a second between 5 % and 100 % done; the count must come out exact."""
        deadline, first = time.monotonic() + 600, None
        while (done := self.sink.stat().st_size) < count:
            if first is None and done >= count * 0.05:
                first = (time.perf_counter(), done)
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: only {done} of {count} tasks ran in 600 s")
            time.sleep(0.002)
        ended = time.perf_counter()
        time.sleep(0.5)
        if (done := self.sink.stat().st_size) != count:
            raise SystemExit(f"{self.name}: {done} executions of {count} tasks")
        began, already = first or (ended - 1e-9, 0)
        return (count - already) / (ended - began)

    def reset(self) -> None:
        self.sink.write_bytes(b"")


def resident_mb(root: int) -> list[float]:
    """Resident memory in MB of a process and everything below it, the root first."""
    rows = subprocess.run(["ps", "-eo", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
    table = {int(pid): (int(parent), int(kb) / 1024) for pid, parent, kb in map(str.split, rows.splitlines())}
    tree, pending = [], [root]
    while pending:
        pid = pending.pop()
        tree.append(table[pid][1])
        pending += [child for child, (parent, _) in table.items() if parent == pid]
    return tree


def measure(subject: Subject, tasks: int) -> Figures:
    subject.reset()
    figures: Figures = {"delay/s": subject.produce("one-by-one", min(tasks, 4000))["per_s"]}
    with subject.worker():
        subject.drain(min(tasks, 4000))
    for column, bulk_mode, plain_mode in (
        ("drain/s", "bulk", "one-by-one"),
        ("drain with results/s", "bulk-results", "results"),
    ):
        subject.reset()
        enqueued = subject.produce(bulk_mode if subject.bulk else plain_mode, tasks)["per_s"]
        if subject.bulk:
            figures.setdefault("bulk enqueue/s", enqueued)
        with subject.worker() as process:
            figures[column] = subject.drain(tasks)
            if column == "drain with results/s":
                subject.reset()
                subject.produce("latency", 300)
                time.sleep(0.5)
                waits = sorted(float(line) for line in subject.sink.read_text().split())
                figures["start p50 ms"], figures["start p99 ms"] = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
                trip = subject.produce("roundtrip", 300)
                figures["round trip p50 ms"], figures["round trip p99 ms"] = trip["p50_ms"], trip["p99_ms"]
                memory = resident_mb(process.pid)
                figures["rss MB"], figures["processes"] = sum(memory), float(len(memory))
    return figures


def original_python(cache: Path) -> str:
    python = cache / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *ORIGINAL], check=True)
    return str(python)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    if not shutil.which("redis-server"):
        raise SystemExit("This needs redis-server on PATH (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def server_seconds(url: str) -> float:
    """Processor time of the server so far."""
    if not url.startswith("redis://"):
        return 0.0
    host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port))) as asker:
        asker.sendall(b"INFO cpu\r\nQUIT\r\n")
        text = b"".join(iter(lambda: asker.recv(4096), b"")).decode()
    fields = dict(line.split(":") for line in text.split() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


def show(table: dict[str, Figures]) -> None:
    """A column for each subject; where the original was measured, how many times its figure ours are."""
    columns = list(next(iter(table.values())))
    width = max(map(len, columns)) + 2
    base = table.get(PEER)
    print(f"{'':{width}}" + "".join(f"{name:>20}{'ratio' if base and name != PEER else '':>9}" for name in table))
    for column in columns:
        line = f"{column:{width}}"
        for name, figures in table.items():
            cell = figures.get(column)
            line += f"{cell:>20,.2f}" if cell is not None else f"{'':>20}"
            if base and name != PEER:
                compared = cell is not None and base.get(column)
                line += f"{cell / base[column]:>8.2f}x" if cell is not None and compared else f"{'':>9}"
            else:
                line += f"{'':>9}"
        print(line.rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20000)
    parser.add_argument("--only", choices=["embedded", "redis"], help="leave the other one out")
    parser.add_argument("--original", action="store_true", help="measure original Celery on Redis beside us")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "bench-original-celery")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, Figures] = {}
    subjects = [("embedded", sys.executable, True)] if options.only != "redis" else []
    if options.only != "embedded" and (shutil.which("redis-server") or options.original):
        subjects.append(("redis", sys.executable, True))
    if options.original:
        subjects.append((PEER, original_python(options.cache), False))
    with tempfile.TemporaryDirectory() as scratch:
        for name, python, bulk in subjects:
            folder = Path(scratch) / name.split()[0]
            folder.mkdir()
            subject = Subject(name, python, folder, bulk=bulk)
            tasks = min(options.tasks, 5000) if name == PEER else options.tasks
            if name == "embedded":
                table[name] = measure(subject, tasks)
                continue
            with redis_server(folder) as url:
                subject.env = {"BENCH_BROKER": f"{url}/0", "BENCH_BACKEND": f"{url}/0"}
                table[name] = measure(subject, tasks)
    show(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
