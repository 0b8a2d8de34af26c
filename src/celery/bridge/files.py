"""kombu's transport of files, with messages that are whole when they are seen, and in the order of their publishing.

The files are named as kombu names them, so original producers and workers share the folders.  A file of theirs is there
before it is written, which only its lock tells: it is read when that is free, and again if it is not whole yet.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils import json

from celery.utils.uuids import uuid

PATIENCE = 2.0
"""Seconds in which a file that has been begun should be whole."""
_order = itertools.count()
_json: Any = json


class Channel(filesystem.Channel):
    """Its folders are the options of the transport: `data_folder_in`, `data_folder_out`, `processed_folder`."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        moment = round(time.monotonic() * 1000)
        path = folder / f"{moment}_{next(_order):010}-{uuid()}.{queue}.msg"
        new = path.with_suffix(".new")
        new.write_bytes(_json.dumps(payload).encode())
        new.rename(path)

    def _get(self, queue: str, timeout: Any = None) -> Any:
        folder = Path(self.data_folder_in)
        aside = Path(self.processed_folder if self.store_processed else tempfile.gettempdir())
        ending = f"{queue}.msg"
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - nothing but names is wanted
            if name.partition(".")[2] == ending:
                try:
                    taken = Path(shutil.move(folder / name, aside / name))
                except OSError:
                    continue  # another has it
                payload = _read(taken)
                if not self.store_processed:
                    taken.unlink()
                return payload
        raise Empty


def _read(path: Path) -> Any:
    """What is in a file, once it is whole. Raises ValueError, and leaves it where it is, if that takes too long."""
    until = time.monotonic() + PATIENCE
    while True:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            data = file.read()
        try:
            return _json.loads(data.decode())
        except ValueError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


class Transport(filesystem.Transport):
    """As kombu's, with channels of ours."""

    Channel = Channel
