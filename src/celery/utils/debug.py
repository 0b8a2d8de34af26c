"""What a running process does and how much memory it holds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from pprint import pprint
from typing import IO, Any

UNITS = ((2**40.0, "TB"), (2**30.0, "GB"), (2**20.0, "MB"), (2**10.0, "KB"), (0.0, "b"))

_samples: list[float] = []


@contextmanager
def blockdetection(timeout: float) -> Iterator[None]:
    """Raise RuntimeError in the main thread if what is inside takes longer than *timeout* seconds; 0 for no limit."""
    if not timeout:
        yield
        return

    def cry_out(signum: int, frame: Any) -> None:
        raise RuntimeError(f"blocking detected (timeout={timeout})\n{cry()}")

    previous = signal.signal(signal.SIGALRM, cry_out)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def ps() -> Any:
    """This process as psutil sees it; None where psutil is not installed."""
    return _process(os.getpid())


@cache
def _process(pid: int) -> Any:
    try:
        return import_module("psutil").Process(pid)
    except ImportError:
        return None


def resident() -> int | None:
    """Bytes of memory that this process holds now; None where neither psutil nor /proc says it."""
    process = ps()
    if process is not None:
        return int(process.memory_info().rss)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def mem_rss() -> str | None:
    """Resident memory as text; None where it is not known."""
    held = resident()
    return None if held is None else humanbytes(held)


def sample_mem() -> str | None:
    """Remember the resident memory now, for `memdump`; it as text."""
    held = resident()
    if held is None:
        return None
    _samples.append(float(held))
    return humanbytes(_samples[-1])


def memdump(samples: int = 10, file: IO[str] | None = None) -> None:
    """Write what `sample_mem` remembered, at most *samples* evenly chosen, and the memory now; then forget them."""
    out = file or sys.stdout
    if resident() is None:
        out.write("- rss: unknown here (psutil is not installed)\n")
        return
    for value in sample(_samples, samples):
        out.write(f"- rss (sample): {humanbytes(value)}.\n")
    _samples.clear()
    out.write(f"- rss (end): {mem_rss()}.\n")


def sample(x: Sequence[Any], n: int, k: int = 0) -> Iterator[Any]:
    """*n* items of *x*, evenly chosen, the first at *k*; all of them if there are not more."""
    step = max(len(x) // n, 1) if n else 1
    for index in range(k, min(k + step * n, len(x)), step):
        yield x[index]


def hfloat(f: float, p: int = 5) -> Any:
    """A number with *p* significant digits as text; a whole one as an int."""
    whole = int(f)
    return whole if whole == f else f"{f:.{p}}"


def humanbytes(s: float) -> str:
    """Bytes in the largest unit they fill."""
    return next(f"{hfloat(s / div if div else s)}{unit}" for div, unit in UNITS if s >= div)


def cry(out: IO[str] | None = None, sepchr: str = "=", seplen: int = 49) -> str | None:
    """The stack and the local variables of every thread; written to *out*, or returned without one."""
    target = StringIO() if out is None else out
    separator = sepchr * seplen
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident not in names:
            continue  # ended since
        target.write(f"{names[ident]}\n{separator}\n")
        traceback.print_stack(frame, file=target)
        target.write(f"{separator}\nLOCAL VARIABLES\n{separator}\n")
        pprint(frame.f_locals, stream=target)
        target.write("\n\n")
    return target.getvalue() if out is None and isinstance(target, StringIO) else None


__all__ = [
    "blockdetection",
    "cry",
    "hfloat",
    "humanbytes",
    "mem_rss",
    "memdump",
    "ps",
    "resident",
    "sample",
    "sample_mem",
]
