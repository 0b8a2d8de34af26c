"""What a worker keeps from one run to the next."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from celery.app.lamport import LamportClock
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils import uuid
from celery.utils.collections import LimitedSet
from celery.worker import state as worker_state
from celery.worker.state import Persistent

ORIGINAL = """
import sys
from celery.worker import state
from celery.worker.state import Persistent
from kombu.clocks import LamportClock
kept = Persistent(state, sys.argv[1], clock=LamportClock(int(sys.argv[2])))
kept.merge()
print(sorted(state.revoked), kept.clock.value)
state.revoked.update(sys.argv[3:])
kept.sync()
kept.close()
"""


def keep(path: Path, clock: int = 0) -> Persistent:
    state = SimpleNamespace(revoked=LimitedSet(maxlen=100, expires=3600))
    return Persistent(state, str(path), LamportClock(clock))


def test_revocations_and_the_clock_survive(tmp_path: Path) -> None:
    first = keep(tmp_path / "w.state", clock=41)
    first.merge()
    first.state.revoked.update(["a", "b"])
    first.save()
    second = keep(tmp_path / "w.state")
    second.merge()
    assert list(second.state.revoked) == ["a", "b"]
    assert second.clock.value == 43
    second.close()


def test_a_worker_remembers_what_another_broker_does_not_know(tmp_path: Path) -> None:
    for run in range(2):
        app = TestApp(broker=f"memory://{uuid()}")
        options = {"pool": "solo", "perform_ping_check": False, "hostname": "w1@h"}
        with start_worker(app, statedb=f"{tmp_path}/%n.state", **options):
            assert ("gone" in worker_state.revoked) is bool(run)
            worker_state.revoked.add("gone")
        app.close()
    assert list(tmp_path.glob("w1.state*"))


def test_times_of_another_life_of_the_machine_are_not_believed(tmp_path: Path) -> None:
    first = keep(tmp_path / "w.state")
    first.state.revoked.update({"late": time.monotonic() + 10_000})
    first.save()
    second = keep(tmp_path / "w.state")
    second.merge()
    assert set(second.state.revoked) == {"late"}
    assert all(moment <= time.monotonic() for moment in second.state.revoked.as_dict().values())
    second.close()


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = keep(tmp_path / "w.state")
    broken.db["zrevoked"] = b"rubbish"
    broken.close()
    again = keep(tmp_path / "w.state")
    again.merge()
    assert "cannot be read" in caplog.text
    again.state.revoked.add("x")
    again.save()
    last = keep(tmp_path / "w.state")
    last.merge()
    assert list(last.state.revoked) == ["x"]
    last.close()
    assert list(tmp_path.glob("w.state.bad*"))


def test_a_file_of_the_original_and_back(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.state"

    def theirs(clock: int, *revoked: str) -> str:
        command = [str(original), "-c", ORIGINAL, str(path), str(clock), *revoked]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert theirs(7, "a").startswith("[] ")
    ours = keep(path)
    ours.merge()
    assert list(ours.state.revoked) == ["a"]
    assert ours.clock.value > 7
    ours.state.revoked.add("b")
    ours.save()
    assert theirs(0).startswith("['a', 'b'] ")
