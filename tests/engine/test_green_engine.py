"""The tests of the worker pass in processes that gevent or eventlet has taken over, on their pools."""

from __future__ import annotations

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
