"""The tests of the worker pass in processes that gevent or eventlet has taken over, on their pools."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rig.green import TESTS, run_green

FILES = (
    "green_engine.py", "test_life_of_a_task.py", "test_worker.py", "test_endings.py", "test_redis_reconnect.py",
)  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_the_engine_works(library: str, server: object) -> None:
    files = [str(TESTS / "engine" / file) for file in FILES]
    run_green(library, *files, "-k", f"{library} or green_engine or test_endings", timeout=280)


PROGRAM = """
import sys, threading, warnings
warnings.simplefilter("ignore")
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker

app = TestApp(broker="memory://", backend="memory://")

@app.task(shared=False)
def add(x, y):
    return x + y

for number in range(2):
    with start_worker(app, pool=sys.argv[1], concurrency=2, perform_ping_check=False, shutdown_timeout=60.0):
        assert add.delay(number, 1).get(timeout=60) == number + 1
assert not [thread for thread in threading.enumerate() if "worker" in thread.name]
app.close()
print("stopped")
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_worker_of_a_test_stops_in_a_process_that_is_not_patched(library: str) -> None:
    command = [sys.executable, "-c", PROGRAM, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["stopped"], done.stderr
