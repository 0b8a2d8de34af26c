"""Where programs on this machine note the address at which they say how they are: a file for each, by process id."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from celery.utils.pidfiles import is_running

FOLDER = "health"


class Note(NamedTuple):
    """One program."""

    pid: int
    name: str
    url: str


def folder() -> Path:
    """`health` in the folder for state: `CELERY_HOME`, else `celery` in `XDG_STATE_HOME`, else in `~/.local/state`."""
    named = os.environ.get("CELERY_HOME")
    base = Path(named) if named else Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "celery")
    with suppress(RuntimeError):  # a user without a home
        base = base.expanduser()
    return base.absolute() / FOLDER


def write(url: str, name: str) -> None:
    """Note the address of this process. Where that cannot be written, whoever asks has to know it."""
    place = folder()
    with suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / f"{os.getpid()}.json").write_text(json.dumps({"url": url, "name": name}))


def remove() -> None:
    """This process has no address any more."""
    with suppress(OSError):
        (folder() / f"{os.getpid()}.json").unlink()


def find() -> Iterator[Note]:
    """The programs that run. Notes of those that do not are removed."""
    for path in sorted(folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            pid = int(path.stem)
            if not is_running(pid):
                path.unlink()
                continue
            said = json.loads(path.read_text())
            yield Note(pid, str(said["name"]), str(said["url"]))
