"""Tests in processes that gevent or eventlet has taken over before anything was imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys
from celery.patching import maybe_patch_concurrency
maybe_patch_concurrency(["-P", sys.argv[1]])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def run_green(library: str, *arguments: str, timeout: float = 110.0) -> None:
    """Run pytest with *arguments* in a process that *library* has taken over; fails as it does.

    The tests find the name of the library in `GREEN_POOL`.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CELERY_"))}
    env |= {"GREEN_POOL": library, "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning:eventlet"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library, *options, *arguments],
        cwd=TESTS.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"on {library}:\n{done.stdout[-8000:]}", pytrace=False)
