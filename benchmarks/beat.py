"""What a beat with 10,000 entries costs, and how late its ticks are: `.venv/bin/python benchmarks/beat.py`.

The schedule is in Redis, the beat is a process of its own.  Idle: all entries are due in hours. Busy: each is due every
100 seconds or so, which is a hundred ticks a second. Lateness is taken by this process, when the message has come.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import redis  # noqa: E402 - the rig is found by the line above

from rig.redis import RedisServer  # noqa: E402

APP = """
import os, random
from celery import Celery
from celery.schedules import crontab

app = Celery("bench", broker=os.environ["PLACE"], backend=os.environ["PLACE"])
dice = random.Random(1)
def plan(kind):
    return crontab(minute=0, hour=(int(os.environ["HOUR"]) + 12) % 24) if kind == "idle" else dice.uniform(60, 140)
app.conf.beat_schedule = {
    f"entry {n}": {"task": "bench.work", "schedule": plan(os.environ["KIND"])} for n in range(10_000)
}

@app.task(ignore_result=True)
def work():
    pass
"""
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(server: RedisServer, kind: str, seconds: float) -> None:
    client = redis.Redis(port=server.port)
    client.flushall()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bench.py").write_text(APP)
        env = {
            **os.environ,
            "PLACE": server.url(),
            "KIND": kind,
            "HOUR": time.strftime("%H", time.gmtime()),
            "PYTHONPATH": folder,
        }
        command = [sys.executable, "-m", "celery", "-A", "bench", "-q", "beat", "-S", "store", "-l", "ERROR"]
        beat = subprocess.Popen(command, cwd=folder, env=env)
        try:
            while client.hlen("celeriac.beat.bench.states") < 10_000:
                time.sleep(0.1)
            time.sleep(5 if kind == "idle" else 65)  # loaded; and, if busy, the first entries are due
            client.delete("celery")
            began, used, late = time.monotonic(), cpu(beat.pid), []
            while time.monotonic() - began < seconds:
                popped = client.brpop(["celery"], timeout=0.5)
                if popped:
                    now, name = time.time(), json.loads(popped[1])["headers"]["periodic_task_name"]
                    late.append(now - json.loads(client.lindex(f"celeriac.beat.bench.history.{name}", 0))[0])
            share = (cpu(beat.pid) - used) / (time.monotonic() - began)
        finally:
            beat.send_signal(signal.SIGTERM)
            beat.wait()
    print(f"{kind}: {share:.1%} of a core", end="")
    if late:
        late.sort()
        print(f", {len(late) / seconds:.0f} ticks/s, lateness p50 {late[len(late) // 2] * 1000:.0f} ms,"
              f" p99 {late[int(len(late) * 0.99)] * 1000:.0f} ms", end="")  # fmt: skip
    print()


def main() -> None:
    spec = importlib.util.spec_from_file_location("servers", ROOT / "tools" / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(servers.ensure("redis"), Path(folder) / "redis")
        try:
            measure(server, "idle", 20)
            measure(server, "busy", 20)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
