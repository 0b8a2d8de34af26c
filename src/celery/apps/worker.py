"""The worker as a program, `celery.apps.worker.Worker`, and what its signals do, for programs that make one.

The ladder down itself is `celery.worker.shutdown`.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import IO, Any

from celery.platforms import EX_FAILURE, signals
from celery.utils.log import get_logger
from celery.worker.banner import LOGO
from celery.worker.shutdown import cry, say
from celery.worker.worker import Worker

__all__ = ["Worker"]

logger = get_logger(__name__)
is_jython = sys.platform.startswith("java")
is_pypy = platform.python_implementation() == "PyPy"
ARTLINES = list(LOGO)
BANNER = (
    "{hostname} v{version}\n\n{platform} {timestamp}\n\n[config]\n.> app:         {app}\n.> transport:   {conninfo}\n"
    ".> results:     {results}\n.> concurrency: {concurrency}\n.> task events: {events}\n\n[queues]\n{queues}\n"
)
EXTRA_INFO_FMT = "\n[tasks]\n{tasks}\n"


def active_thread_count() -> int:
    """Threads that are not our own helpers."""
    return sum(not thread.name.startswith("celery-") for thread in threading.enumerate())


def safe_say(msg: str, f: IO[str] | None = None) -> None:
    """Write a line without a lock, to stderr or *f*: may be called in a signal handler."""
    if f is None:
        say(msg)
    else:
        os.write(f.fileno(), f"\n{msg}\n".encode(errors="replace"))


def on_SIGINT(worker: Worker) -> None:  # noqa: N802 - the public name
    """Warm, as Ctrl-C does."""
    worker.stop(exitcode=EX_FAILURE)


def during_soft_shutdown(worker: Worker) -> None:
    """Cold, while the grace of a soft shutdown runs."""
    worker.terminate()


def on_cold_shutdown(worker: Worker) -> None:
    """Cold, as QUIT does."""
    worker.terminate()


def on_hard_shutdown(worker: Worker) -> None:
    """End the process there and then."""
    os._exit(EX_FAILURE)


def _install(action: Callable[[Worker], Any], worker: Worker, sig: str) -> None:
    signals[sig] = lambda number, frame: action(worker)


def install_worker_int_handler(worker: Worker, sig: str = "SIGINT") -> None:
    """Let *sig* bring the worker down warmly."""
    _install(on_SIGINT, worker, sig)


def install_worker_restart_handler(worker: Worker, sig: str = "SIGHUP") -> None:
    """Let *sig* run the program anew when its tasks have ended."""
    _install(lambda worker: worker.restart(), worker, sig)


def install_HUP_not_supported_handler(worker: Worker, sig: str = "SIGHUP") -> None:  # noqa: N802
    """Let *sig* only be told of."""
    signals[sig] = lambda number, frame: say(f"{sig} is ignored: start the worker anew from outside.")


def install_cry_handler(sig: str = "SIGUSR1") -> None:
    """Let *sig* log the stack of every thread."""
    signals[sig] = lambda number, frame: cry()


def install_rdb_handler(envvar: str = "CELERY_RDBSIG", sig: str = "SIGUSR2") -> None:
    """Let *sig* stop the main thread in the debugger of `celery.contrib.rdb`, if *envvar* is set.

    Only then: whoever may connect to the debugger may run any code.
    """

    def debug(number: int, frame: FrameType | None) -> None:
        import_module("celery.contrib.rdb").set_trace(frame)

    if os.environ.get(envvar):
        signals[sig] = debug
