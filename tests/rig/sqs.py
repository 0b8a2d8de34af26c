"""Amazon SQS as moto's server has it, in an environment and a process of its own, on a free port of this machine."""

from __future__ import annotations

import itertools
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rig.original import environment
from rig.ports import free_port

MOTO = "moto[server]==5.2.5"
START = 180.0
"""Seconds that starting may take."""
_prefixes = itertools.count(1)


class SQS(NamedTuple):
    """`url` and `options` are those of a broker."""

    url: str
    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        return {"region": "us-east-1", "is_secure": False, "wait_time_seconds": 0, "polling_interval": 0.02}

    def prefix(self) -> str:
        """What nobody else's queues begin with."""
        return f"t{next(_prefixes)}-"


@contextmanager
def running() -> Iterator[SQS]:
    """Raises LookupError with one line where moto cannot be installed."""
    python, port = environment("moto-5.2.5", MOTO), free_port()
    command = [str(python.parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait_for(endpoint, process)
            yield SQS(f"sqs://key:secret@127.0.0.1:{port}", endpoint)
        finally:
            process.kill()


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "moto's server has ended"
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.05)
