"""The scheduler that keeps its entries in a file: a shelf of Python's, as Celery's own writes it."""

from __future__ import annotations

import fcntl
import os
import pickle
import shelve
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from celery.beat.entry import ScheduleEntry
from celery.beat.scheduler import Scheduler
from celery.exceptions import ImproperlyConfigured
from celery.schedules import NEVER

VERSION = "5.7.0"
"""Of the Celery whose shelves these are."""
SHARE = 20
"""The schedule is written after each run as long as that takes less than this part of the time."""


class PersistentScheduler(Scheduler):
    """Keeps when each entry ran in the file *schedule_filename*, so that it goes on there after a restart.

    One process at a time: a second one is refused with a sentence.  A file that cannot be read is set aside.
    """

    persistence: ModuleType = shelve
    known_suffixes: ClassVar[tuple[str, ...]] = ("", ".db", ".dat", ".bak", ".dir")
    """What the file's name may end with: that depends on the database that Python has."""
    _store: Any = None
    _entries: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str = kwargs.get("schedule_filename") or "celerybeat-schedule"
        self._lock: int | None = None
        self._sync_took = 0.0
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        self._take_file()
        self._store = self._open()
        self.follow_conf()
        self.install_default_entries(self.schedule)
        self.sync()
        self.logger.debug("Current schedule:\n%s", "\n".join(map(repr, self.schedule.values())))

    def get_schedule(self) -> Any:
        return self._entries

    def set_schedule(self, schedule: Any) -> None:
        self._entries = schedule

    def should_sync(self) -> bool:
        """After each run, as long as writing is quick; else by time and number, as every scheduler."""
        if super().should_sync():
            return True
        return bool(self._tasks_since_sync) and time.monotonic() - (self._last_sync or 0.0) > SHARE * self._sync_took

    def sync(self) -> None:
        if self._store is None:
            return
        began, conf = time.monotonic(), self.app.conf
        entries = self.schedule
        try:
            pickle.dumps(entries)
        except Exception:  # noqa: BLE001 - whatever a value's pickling raises
            entries = {name: self._picklable(entry) for name, entry in entries.items()}
        written = {"__version__": VERSION, "tz": conf.timezone, "utc_enabled": conf.enable_utc, "entries": entries}
        try:
            self._store.update(written)
            self._store.sync()
        except Exception as error:  # noqa: BLE001 - each database has its own
            self.logger.error(  # noqa: TRY400 - the sentence says it
                "The schedule cannot be written to %r (%s): it goes on in memory.", self.schedule_filename, error
            )
        self._sync_took = time.monotonic() - began

    def _picklable(self, entry: ScheduleEntry) -> ScheduleEntry:
        """The entry, or what is worth keeping of one that holds a function without a name, or such a thing."""
        try:
            pickle.dumps(entry)
        except Exception:  # noqa: BLE001 - as above
            return self.Entry(entry.name, entry.task, entry.last_run_at, entry.total_run_count, NEVER, app=self.app)
        return entry

    def close(self) -> None:
        self.sync()
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._lock is not None:
            Path(self._lock_name).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @property
    def info(self) -> str:
        return f"    . db -> {self.schedule_filename}"

    # -- the file ----------------------------------------------------------------------------------------------------

    @property
    def _lock_name(self) -> str:
        return f"{self.schedule_filename}.lock"

    def _take_file(self) -> None:
        """Be the only one who has it."""
        try:
            while True:
                lock = os.open(self._lock_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_file(lock, self._lock_name):
                    break
                os.close(lock)  # whoever had it has just removed it
        except BlockingIOError:
            raise ImproperlyConfigured(
                f"Another beat has the schedule file {self.schedule_filename!r}. Give this one another file (-s), or"
                f" keep the schedule in the store (beat_schedule_filename=None), where any number of beats may run."
            ) from None
        except OSError as error:
            raise ImproperlyConfigured(
                f"The schedule file {self.schedule_filename!r} cannot be written ({error.strerror}): give the name of"
                f" one that can (-s or beat_schedule_filename), or None for the store."
            ) from error
        self._lock = lock

    def _open(self) -> Any:
        """The shelf with its entries; a new one where there is none, or none that can be read."""
        try:
            return self._read()
        except Exception as error:  # whatever the database of this machine raises
            kept = self._set_aside()
            if not kept:
                raise ImproperlyConfigured(
                    f"The schedule file {self.schedule_filename!r} cannot be opened: {error}"
                ) from error
            self.logger.error(  # noqa: TRY400 - the sentence says it
                "The schedule file %r cannot be read (%s). It is kept as %s; when entries ran last is not known now.",
                self.schedule_filename, error, ", ".join(kept),
            )  # fmt: skip
            return self._read()

    def _read(self) -> Any:
        shelf = self.persistence.open(self.schedule_filename)
        try:
            self._entries = shelf.get("entries", {})
            for entry in self._entries.values():
                entry.app = self.app
                entry.schedule.app = self.app
                if entry.last_run_at.tzinfo is None:
                    entry.last_run_at = entry.schedule.maybe_make_aware(entry.last_run_at)
        except BaseException:
            shelf.close()
            raise
        return shelf

    def _set_aside(self) -> list[str]:
        """Rename what there is of the file; the new names."""
        mark, kept = time.strftime("corrupt-%Y%m%d-%H%M%S"), []
        for suffix in self.known_suffixes:
            path = Path(f"{self.schedule_filename}{suffix}")
            if path.is_file():
                there = Path(f"{self.schedule_filename}.{mark}{suffix}")
                path.rename(there)
                kept.append(str(there))
        return kept


def _is_file(descriptor: int, name: str) -> bool:
    try:
        there = os.stat(name)  # noqa: PTH116 - beside fstat
    except FileNotFoundError:
        return False
    return os.fstat(descriptor).st_ino == there.st_ino
