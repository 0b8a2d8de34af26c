"""Three beats on Redis whose leader is killed, stopped or cut off: every tick is sent exactly once.

What was sent is taken out of Redis by the test and written to a file; the ticks that there had to be are counted out
from the ids, which are made of entry and tick.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celery.beat.shared import State, task_id_of
from rig.proxy import Proxy
from rig.redis import RedisServer

APP = """
import os
from celery import Celery

app = Celery("ha", broker=os.environ["PLACE"], backend=os.environ["PLACE"])
app.conf.update(
    beat_lease=float(os.environ["LEASE"]), beat_schedule_retry_delay=0.3, broker_publish_timeout=1.0,
    beat_schedule={f"tick{n}": {"task": "ha.tick", "schedule": 1.0, "missed": "all"} for n in range(3)},
)

@app.task
def tick():
    pass
"""
FAULTS = ("kill", "stop", "partition")


class Beats:
    """Three beats, each behind a proxy of its own."""

    def __init__(self, server: RedisServer, folder: Path, lease: float) -> None:
        self.server, self.folder, self.lease = server, folder, lease
        (folder / "ha.py").write_text(APP)
        self.oracle = (folder / "oracle").open("a+")
        self.proxies = [Proxy(server.port) for _ in range(3)]
        self.beats: list[subprocess.Popen[bytes]] = []
        self.starts = 0
        for number in range(3):
            self.beats.append(self.start(number))
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until all that were ever started have begun."""
        logs = [self.folder / f"beat{number}.log" for number in range(3)]
        self.wait(lambda: sum(log.read_text().count("beat: Starting...") for log in logs) >= self.starts)

    def start(self, number: int) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "PLACE": self.proxies[number].url(),
            "LEASE": str(self.lease),
            "PYTHONPATH": str(self.folder),
        }
        command = [sys.executable, "-m", "celery", "-A", "ha", "beat", "-S", "store", "-l", "INFO"]
        self.starts += 1
        with (self.folder / f"beat{number}.log").open("ab") as log:
            return subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)

    def collect(self) -> None:
        """Take what was sent, and write down whose it was."""
        while raw := self.server.ask("RPOP", "celery"):
            headers = json.loads(raw)["headers"]
            self.oracle.write(f"{headers['periodic_task_name']} {headers['id']}\n")

    def leader(self) -> int | None:
        """The number of the beat that leads; None: nobody has the lease now."""
        who, until = self.server.ask("HMGET", "celeriac.beat.ha.lease", "who", "until")
        seconds, micros = self.server.ask("TIME")
        if not who or float(until) / 1000 <= int(seconds) + int(micros) / 1e6:
            return None
        pid = int(_text(who).split(" pid ")[1].split()[0])
        return next((number for number, beat in enumerate(self.beats) if beat.pid == pid), None)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> float:
        """Wait, collecting; how long it took."""
        began = time.monotonic()
        while not condition():
            self.collect()
            assert time.monotonic() - began < seconds, (self.folder / "beat0.log").read_text()[-2000:]
            time.sleep(0.02)
        return time.monotonic() - began

    def fault(self, kind: str) -> float:
        """Take the leader away and give it back; the seconds until another led."""
        self.wait(lambda: self.leader() is not None)
        old = self.leader()
        assert old is not None

        def another() -> bool:
            return self.leader() not in {None, old}

        if kind == "kill":
            self.beats[old].kill()
            self.beats[old].wait()
            took = self.wait(another)
            self.beats[old] = self.start(old)
            self.wait_until_ready()
        elif kind == "stop":
            self.beats[old].send_signal(signal.SIGSTOP)
            took = self.wait(another)
            self.beats[old].send_signal(signal.SIGCONT)
        else:
            self.proxies[old].swallow()
            took = self.wait(another)
            self.proxies[old].heal()
        end = time.monotonic() + 1.2
        self.wait(lambda: time.monotonic() > end)
        return took

    def check(self) -> int:
        """Every tick of every entry exactly once; how many ticks there were."""
        for beat in self.beats:
            beat.send_signal(signal.SIGCONT)
            beat.terminate()
        for beat in self.beats:
            beat.wait(60)
        self.collect()
        self.oracle.seek(0)
        sent = Counter(self.oracle.read().splitlines())
        total = 0
        for number in range(3):
            name = f"tick{number}"
            state = _state(self.server.ask("HGET", "celeriac.beat.ha.states", name))
            expected = [f"{name} {task_id_of('ha' + chr(10) + name, state.last - n)}" for n in range(state.count)]
            assert {line: count for line, count in sent.items() if line.startswith(f"{name} ")} == dict.fromkeys(
                expected, 1
            )
            total += state.count
        return total

    def end(self) -> None:
        for beat in self.beats:
            beat.kill()
            beat.wait()
        for proxy in self.proxies:
            proxy.close()
        self.oracle.close()


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _state(raw: Any) -> State:
    return msgspec.json.decode(_text(raw), type=State)


@pytest.fixture
def beats(redis_server: RedisServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Beats]:
    redis_server.command("FLUSHALL")
    running = Beats(redis_server, tmp_path, request.param)
    yield running
    running.end()


@pytest.mark.crash
@pytest.mark.parametrize("beats", [1.5], indirect=True)
def test_the_leader_goes(beats: Beats) -> None:
    began = time.monotonic()
    without = [beats.fault(kind) for kind in FAULTS]
    assert max(without) <= 1.5 + 8
    led = time.monotonic() - began - sum(without)
    assert beats.check() >= 3 * max(1, led - 12)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("beats", [10.0], indirect=True)
def test_the_leader_goes_fifty_times(beats: Beats) -> None:
    """Under the default lease: another leads within 15 seconds each time."""
    took = [beats.fault(FAULTS[number % 3]) for number in range(50)]
    print(f"fail-over: {max(took):.1f} s at most; {beats.check()} ticks")
    assert max(took) <= 15
