#!/usr/bin/env python3
"""Send large workflows to a worker of two processes, embedded and on Redis: a chain and a chord of 10,000 tasks.

    workflows.py [--size 10000]

Each is waited for, and its result is checked. `sent` is the time until `apply_async` has returned, `done` until the
result is there, both in seconds; `MB` is what was published by the sender.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench import Subject, redis_server


def measure(subject: Subject, size: int) -> None:
    with subject.worker():
        for mode in ("chain", "chord"):
            found = subject.produce(mode, size)
            figures = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"{subject.name:9} {mode} of {size}  {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10000)
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subject = Subject("embedded", sys.executable, folder, bulk=True)
        subject.reset()
        measure(subject, size)
        if shutil.which("redis-server"):
            with redis_server(folder) as url:
                env = {"BENCH_BROKER": f"{url}/0", "BENCH_BACKEND": f"{url}/0"}
                measure(Subject("redis", sys.executable, folder, bulk=True, env=env), size)


if __name__ == "__main__":
    main()
