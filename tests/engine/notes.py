"""What tasks did, in a file that any process can write to and read."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path


def note(log: str, line: object) -> None:
    """Append a line, whole, whoever else does so."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(log: Path) -> Counter[str]:
    """The lines of *log*, each with the number of times it is there."""
    return Counter(log.read_text().splitlines() if log.exists() else ())
