"""Write the golden answers to remote control beside this script: what a running original worker answers.

Run by hand, with the Python of an environment that holds the original and not this package:

    python -m venv /tmp/original && /tmp/original/bin/pip install "celery[redis]==5.7.0" psutil objgraph
    /tmp/original/bin/python tests/wire/capture_control.py

The requests are those of `control_cases.py`, the answers `golden/control/<pool>.json`: a map from the case to the list
of answers. The files are committed; a new capture changes ids, times, sizes and names of processes only.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from control_app import app
from control_cases import BUSY, IDLE, LAST, NODE, Case, make_busy

GOLDEN = Path(__file__).parent / "golden" / "control"
POOLS = ("prefork", "threads", "solo")


def ask(case: Case) -> Any:
    answers = app.control.broadcast(
        case.command, arguments=case.arguments, destination=[NODE], reply=True, timeout=2 if case.answers else 1
    )
    return [answer[NODE] for answer in answers]


def capture(pool: str, url: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "celery", "-A", "control_app", "worker", "-P", pool, "-l", "ERROR"]
    command += ["-c", "1", "-n", NODE, "--without-mingle", "--without-gossip"]
    settings = {"broker_url": url, "result_backend": url}
    env = {**os.environ, "CONTROL_SETTINGS": json.dumps(settings), "C_FORCE_ROOT": "1"}
    process = subprocess.Popen(command, cwd=Path(__file__).parent, env=env)
    try:
        deadline = time.monotonic() + 60
        while not app.control.ping(destination=[NODE], timeout=0.5):
            if time.monotonic() > deadline:
                raise SystemExit("the original worker did not answer within a minute")
        found = {case.name: ask(case) for case in IDLE if pool == "prefork" or case.name == "stats"}
        if pool == "prefork":
            end = make_busy(app, folder)
            time.sleep(2)
            found |= {case.name: ask(case) for case in BUSY}
            end()
            found |= {case.name: ask(case) for case in LAST}
    finally:
        process.kill()
        process.wait()
    return found


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        try:
            client = redis.Redis(port=port)
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            url = f"redis://127.0.0.1:{port}/0"
            app.conf.broker_url = app.conf.result_backend = url
            for pool in POOLS:
                client.flushall()
                text = json.dumps(capture(pool, url, folder), indent=1, sort_keys=True, default=repr)
                (GOLDEN / f"{pool}.json").write_text(text.replace(sys.prefix, "/original") + "\n")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
