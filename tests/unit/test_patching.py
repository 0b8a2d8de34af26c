"""When gevent or eventlet takes over a process, and what the worker says of time limits."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence

import pytest

from celery import maybe_patch_concurrency
from celery.concurrency.base import PoolCapabilities
from celery.worker.timelimits import Wanted, statement


@pytest.mark.parametrize(
    "argv",
    [
        ["celery", "worker", "-P", "gevent"],
        ["celery", "worker", "-Pgevent"],
        ["celery", "-A", "proj", "worker", "--pool=gevent", "-c", "10"],
        ["celery", "worker", "--pool", "gevent"],
    ],
)
def test_the_pool_is_found_in_the_arguments(argv: Sequence[str]) -> None:
    patched: list[str] = []
    maybe_patch_concurrency(argv, patches={"gevent": lambda: patched.append("gevent")})
    assert patched == ["gevent"]


@pytest.mark.parametrize(
    "argv",
    [["celery", "worker"], ["celery", "worker", "-P", "prefork"], ["celery", "worker", "-P"], ["x", "--pools=gevent"]],
)
def test_nothing_is_patched_for_other_pools(argv: Sequence[str]) -> None:
    patched: list[str] = []
    maybe_patch_concurrency(argv, patches={"gevent": lambda: patched.append("gevent")})
    assert patched == []


def test_the_environment_may_name_the_pool_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_WORKER_POOL", "gevent")
    patched: list[str] = []
    patches = {"gevent": lambda: patched.append("gevent")}
    maybe_patch_concurrency(["celery", "report"], patches=patches)
    assert patched == []
    maybe_patch_concurrency(["celery", "worker"], patches=patches)
    assert patched == ["gevent"]


def test_options_of_a_program_of_its_own() -> None:
    patched: list[str] = []
    patches = {"eventlet": lambda: patched.append("eventlet")}
    maybe_patch_concurrency(["run", "--slots", "eventlet"], ["-s"], ["--slots"], patches)
    maybe_patch_concurrency(["run", "-s", "eventlet"], ["-s"], ["--slots"], patches)
    assert patched == ["eventlet", "eventlet"]


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_the_command_line_patches_before_all_other_imports(library: str) -> None:
    code = f"""
import sys
sys.argv = ["celery", "worker", "-P", {library!r}, "--help"]
import celery.__main__
assert not [name for name in sys.modules if name in {{"socket", "celery.app", "kombu", "click"}}]
try:
    celery.__main__.main()
except SystemExit as end:
    assert end.code == 0
import time, socket
from celery.utils.descriptors import is_green
assert is_green() and time.sleep.__module__.startswith({library!r}), time.sleep
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_package_that_is_missing_is_named(library: str) -> None:
    code = f"""
import sys
sys.modules[{library!r}] = None
sys.argv = ["celery", "worker", "-P", {library!r}]
from celery.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: The {library} pool needs the package {library}: pip install 'celery[{library}]'.\n"


BOTH = PoolCapabilities(soft_limits=True, hard_limits=True)
SOFT = PoolCapabilities(soft_limits=True, limits="threads live on")


HELD = "Pool 'p': soft and hard time limits are enforced."
PART = "Pool 'p': soft time limits are enforced (threads live on)."
NOT_HELD = (
    "Pool 'p': soft time limits are enforced; hard time limits are NOT enforced: use -P prefork where you need them"
    " (threads live on)."
)


@pytest.mark.parametrize(
    ("can", "wanted", "said"),
    [
        (BOTH, Wanted(soft=False, hard=False), None),
        (BOTH, Wanted(soft=True, hard=True), (logging.INFO, HELD)),
        (SOFT, Wanted(soft=True, hard=False), (logging.INFO, PART)),
        (SOFT, Wanted(soft=True, hard=True), (logging.WARNING, NOT_HELD)),
    ],
)
def test_what_the_worker_says_of_limits(can: PoolCapabilities, wanted: Wanted, said: object) -> None:
    assert statement("p", can, wanted) == said
