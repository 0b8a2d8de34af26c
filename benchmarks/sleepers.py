#!/usr/bin/env python3
"""Measure how long a worker of the asyncio pool takes for coroutines that do nothing but sleep for a second.

    sleepers.py [--tasks 10000] [--concurrency 10000] [--rounds 3] [--embedded]

They are sent as one group; its clock runs from `apply_async` to the last result in the sender's hands.  Also the
processor time (user and system) of worker and sender.  The broker is a Redis server of the run's own; with --embedded
a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import bench

from events import cpu_seconds

APPLICATION = """
import asyncio, os
from celery import Celery

url = os.environ.get("BENCH_BROKER") or None
app = Celery("sleepers", broker=url, backend=url)

@app.task
async def nap():
    await asyncio.sleep(1)
    return 1

@app.task
async def ready():
    return os.getpid()
"""
SENDER = """
import json, sys, time
from celery import group
from sleepers import nap, ready

pid = ready.delay().get(timeout=120)
began, used = time.perf_counter(), time.process_time()
result = group(nap.s() for _ in range(int(sys.argv[1]))).apply_async()
sent = time.perf_counter() - began
assert sum(result.get(timeout=600)) == int(sys.argv[1])
print(json.dumps({"sent": sent, "done": time.perf_counter() - began, "sender": time.process_time() - used}))
"""


@contextmanager
def worker(folder: Path, env: dict[str, str], concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    words = ["worker", "-P", "asyncio", "-c", str(concurrency), "-l", "ERROR"]
    with (folder / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "celery", "-A", "sleepers", *words]
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embedded", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "sleepers.py").write_text(APPLICATION)
        with nullcontext("") if options.embedded else bench.redis_server(folder) as url:
            env = {**os.environ, "PYTHONPATH": scratch, "C_FORCE_ROOT": "1", "CELERY_HOME": f"{scratch}/home"}
            env["BENCH_BROKER"] = f"{url}/0" if url else ""
            with worker(folder, env, options.concurrency) as process:
                for _ in range(options.rounds):
                    before = cpu_seconds(process.pid)
                    done = subprocess.run(
                        [sys.executable, "-c", SENDER, str(options.tasks)],
                        env=env, cwd=folder, capture_output=True, text=True, timeout=900, check=False,
                    )  # fmt: skip
                    if done.returncode:
                        raise SystemExit(f"The sender failed:\n{done.stderr[-3000:]}")
                    figures = json.loads(done.stdout)
                    time.sleep(0.1)
                    print(
                        f"{options.tasks:,} tasks: sent after {figures['sent']:.2f} s, all done after"
                        f" {figures['done']:.2f} s; processor: worker {cpu_seconds(process.pid) - before:.2f} s,"
                        f" sender {figures['sender']:.2f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
