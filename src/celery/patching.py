"""Has gevent or eventlet take over the standard library, where a command line asks for their pool.

Nothing that waits may be imported before: who holds `time.sleep` of before holds up every greenlet.  So this module
imports next to nothing.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

SHORT, LONG = ("-P",), ("--pool",)
FROM_ENVIRONMENT = "CELERY_WORKER_POOL"
"""Where the command line takes the pool from if it does not name one."""


def maybe_patch_concurrency(
    argv: Sequence[str] | None = None,
    short_opts: Sequence[str] | None = None,
    long_opts: Sequence[str] | None = None,
    patches: Mapping[str, Callable[[], object]] | None = None,
) -> None:
    """Patch the standard library if *argv* (that of this process) asks for the pool `gevent` or `eventlet`.

    For programs that start a worker by themselves: call it before they import anything else.  *short_opts* and
    *long_opts* are the options that name the pool, *patches* says what to do for which.  Raises ImportError, with one
    sentence, where the package is not installed.
    """
    given = sys.argv if argv is None else argv
    pool = _find_option(given, short_opts or SHORT, long_opts or LONG)
    if pool is None and "worker" in given:
        pool = os.environ.get(FROM_ENVIRONMENT)
    patch = (PATCHES if patches is None else patches).get(pool or "")
    if patch is not None:
        patch()


def _find_option(argv: Sequence[str], short: Sequence[str], long: Sequence[str]) -> str | None:
    """The value of the option, in each of the forms that a command line may have it in."""
    for position, word in enumerate(argv):
        if word in short or word in long:
            return next(iter(argv[position + 1 :]), None)
        name, equals, value = word.partition("=")
        if equals and name in long:
            return value
        if not word.startswith("--"):
            attached = next((word.removeprefix(option) for option in short if word.startswith(option)), None)
            if attached:
                return attached.removeprefix("=")
    return None


def patch_gevent() -> None:
    """Have gevent take over. Does nothing the second time."""
    _import("gevent", "monkey").patch_all()


def patch_eventlet() -> None:
    """Have eventlet take over. Does nothing the second time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated: the pool says so, where the log is
        eventlet = _import("eventlet", "patcher")
    eventlet.monkey_patch()
    blocking = os.environ.get("EVENTLET_NOBLOCK")
    if blocking:
        # For whoever looks for what holds up the others: it is interrupted after so many seconds.
        import_module("eventlet.debug").hub_blocking_detection(state=True, resolution=float(blocking))


def _import(package: str, module: str) -> Any:
    try:
        return import_module(f"{package}.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The {package} pool needs the package {package}: pip install 'celery[{package}]'."
        ) from error


PATCHES: Mapping[str, Callable[[], object]] = {"eventlet": patch_eventlet, "gevent": patch_gevent}
