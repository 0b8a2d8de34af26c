"""Soft time limits in threads leave the interpreter as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from celery.concurrency.strike import run_limited
from celery.exceptions import SoftTimeLimitExceeded
from celery.wire.message import Job, Outcome

def compute(until):
    while time.monotonic() < until:
        pass

def runner(job):
    try:
        compute(time.monotonic() + 20)  # a call: in 3.13.0 no `except` covers where a loop turns
    except SoftTimeLimitExceeded:
        return Outcome(job.tag, "SUCCESS")

print(run_limited(runner, Job(1, b""), 0.01).state)
{watch}
print((lambda: "called")())
"""


@pytest.mark.parametrize("watch", ["sys.setprofile(lambda *_: None)", "sys.settrace(lambda *_: None)"])
def test_a_process_can_be_profiled_and_traced_after_a_limit_has_struck(watch: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(watch=watch)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["SUCCESS", "called"], "")
