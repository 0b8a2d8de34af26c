"""Ports of the loopback for servers that bind them a moment later, and again after they were stopped.

The system gives out ports of a range of its own, to whoever asks for any and to the near ends of connections: one that
is free now may be another's before its server has started, or while that is started again.  So these are below that
range, where nobody gets one by chance, and each process of tests has some to itself: by a lock that ends with it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, BLOCK = 10_000, 200
"""Of all these ports, and how many a process has to itself."""
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """One that nobody listens on."""
    for port in itertools.islice(_ours(), BLOCK):
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@cache
def _ours() -> Iterator[int]:
    """Those of this process, over and over; none where the system does not say which it gives out itself."""
    try:
        end = int(RANGE.read_text().split()[0])
    except OSError:
        return iter(())
    folder = Path(tempfile.gettempdir()) / f"celeriac-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(FIRST, end - BLOCK, BLOCK):
        descriptor = os.open(folder / str(first), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return itertools.cycle(range(first, first + BLOCK))  # the file stays open as long as the process lives
    return iter(())
