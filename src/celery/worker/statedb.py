"""The file of `--statedb`: what a worker was told to revoke, and its logical clock, from one run to the next.

It is a shelf with the entries of the original (`zrevoked`, `clock`, `__proto__`), so that either reads what the other
wrote.  The broker keeps revocations too: the file matters where it forgets, and in mixed fleets.
"""

from __future__ import annotations

import pickle
import time
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)

PROTOCOL = 4
LAYOUT = 3
SUFFIXES = ("", ".db", ".dat", ".dir", ".bak", ".pag")
"""What the shelves of different systems make of a file name."""


class Persistent:
    """Keeps `revoked` of *state*, and *clock* if there is one, in the file *filename*.

    `merge` when the worker starts, `save` when it stops.  A damaged file is put aside and told of, not raised.
    """

    protocol = PROTOCOL

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state = state
        self.filename = filename
        self.clock = clock
        self._db: Any = None

    @property
    def db(self) -> Any:
        """The shelf, opened at the first use."""
        return self.open() if self._db is None else self._db

    def open(self) -> Any:
        self._db = import_module("shelve").open(self.filename, protocol=self.protocol)
        return self._db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def merge(self) -> None:
        """Take what the file has into the state, and move the clock past the one that was saved."""
        try:
            saved = dict(self.db)
            revoked = pickle.loads(zlib.decompress(saved["zrevoked"])) if saved.get("zrevoked") else {}
            self._take(getattr(revoked, "as_dict", lambda: dict.fromkeys(revoked, 0.0))())
            if self.clock is not None and saved.get("clock"):
                self.clock.adjust(int(saved["clock"]))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - there is no end to what a damaged pickle can raise
            self.close()
            self._put_aside(error)

    def _take(self, revoked: dict[Any, float]) -> None:
        # Their times are of a clock that begins anew with the machine: what cannot be is taken for new.
        now = time.monotonic()
        self.state.revoked.update({item: moment if 0 < moment <= now else now for item, moment in revoked.items()})

    def _put_aside(self, error: Exception) -> None:
        logger.warning(
            "The state file %s cannot be read (%s): put aside as %s.bad", self.filename, error, self.filename
        )
        for suffix in SUFFIXES:
            path = Path(f"{self.filename}{suffix}")
            if path.exists():
                path.replace(f"{self.filename}.bad{suffix}")

    def sync(self) -> None:
        """Write what there is now."""
        self.state.revoked.purge()
        self.db["zrevoked"] = zlib.compress(pickle.dumps(self.state.revoked, protocol=self.protocol))
        self.db["__proto__"] = LAYOUT
        if self.clock is not None:
            self.db["clock"] = self.clock.forward()
        self.db.sync()

    def save(self) -> None:
        """`sync`, and let go of the file."""
        self.sync()
        self.close()
