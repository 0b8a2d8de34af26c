"""Calls at a later time, made by a thread."""

from __future__ import annotations

import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Self, TypeAlias

from celery.utils.log import get_logger

logger = get_logger(__name__)

TIMER_DEBUG = False
_MAX_WAIT = threading.TIMEOUT_MAX


def to_timestamp(d: Any, default_timezone: tzinfo = UTC, time: Callable[[], float] = time.monotonic) -> Any:
    """Seconds on the clock *time* at the moment *d*; numbers and None are such seconds already."""
    if not isinstance(d, datetime):
        return d
    aware = d if d.tzinfo is not None else d.replace(tzinfo=default_timezone)
    return max((aware - datetime.now(UTC)).total_seconds() + time(), 0)


class Entry:
    """A call to be made. `tref.cancel()` keeps it from being made."""

    __slots__ = ("__weakref__", "args", "canceled", "fun", "kwargs", "tref")

    def __init__(
        self, fun: Callable[..., Any], args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.fun = fun
        self.args = args or ()
        self.kwargs = dict(kwargs or {})
        self.tref = self
        self.canceled = False

    def __call__(self) -> Any:
        return self.fun(*self.args, **self.kwargs)

    def cancel(self) -> None:
        self.canceled = True

    @property
    def cancelled(self) -> bool:
        return self.canceled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self.canceled = value

    def __repr__(self) -> str:
        name = getattr(self.fun, "__qualname__", self.fun)
        return f"<{'-' if self.canceled else ''}Entry: {name}(*{self.args!r}, **{self.kwargs!r})>"


AnyEntry: TypeAlias = Entry


class Schedule:
    """Entries by their time. Iterating gives (seconds to wait, entry or None) for ever. Thread-safe.

    Times are seconds of `time.monotonic()`, or datetimes.
    """

    Entry = Entry
    on_error: Callable[..., Any] | None = None

    def __init__(
        self, max_interval: float | None = None, on_error: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        self.max_interval = float(max_interval or 2)
        self.on_error = on_error or self.on_error
        self._queue: list[tuple[float, int, int, AnyEntry]] = []
        self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def call_at(
        self, eta: Any, fun: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None, priority: int = 0
    ) -> AnyEntry:
        return self.enter_at(self.Entry(fun, args, kwargs), eta, priority)

    def call_after(
        self, secs: float, fun: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None, priority: int = 0
    ) -> AnyEntry:
        return self.enter_after(secs, self.Entry(fun, args, kwargs), priority)

    def call_repeatedly(
        self, secs: float, fun: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None, priority: int = 0
    ) -> AnyEntry:
        """Call every *secs* seconds until the entry is cancelled; late calls do not pile up."""
        entry: AnyEntry

        def repeat(*args: Any, **kwargs: Any) -> Any:
            try:
                return fun(*args, **kwargs)
            finally:
                if not entry.canceled:
                    self.enter_after(secs, entry, priority)

        entry = self.Entry(repeat, args, kwargs)
        return self.enter_after(secs, entry, priority)

    def enter_at(
        self, entry: AnyEntry, eta: Any = None, priority: int = 0, time: Callable[[], float] = time.monotonic
    ) -> AnyEntry:
        moment = time() if eta is None else float(to_timestamp(eta))
        with self._lock:
            self._count += 1
            heapq.heappush(self._queue, (moment, priority, self._count, entry))
        return entry

    def enter_after(
        self, secs: float, entry: AnyEntry, priority: int = 0, time: Callable[[], float] = time.monotonic
    ) -> AnyEntry:
        return self.enter_at(entry, time() + float(secs), priority)

    def due(self) -> tuple[float | None, AnyEntry | None]:
        """(0, the entry to call now), or (seconds until the next one or None, None)."""
        with self._lock:
            while self._queue:
                moment, _, _, entry = self._queue[0]
                wait = moment - time.monotonic()
                if not entry.canceled and wait > 0:
                    return wait, None
                heapq.heappop(self._queue)
                if not entry.canceled:
                    return 0.0, entry
        return None, None

    def __iter__(self) -> Iterator[tuple[float, AnyEntry | None]]:
        while True:
            wait, entry = self.due()
            yield min(wait if wait is not None else self.max_interval, self.max_interval), entry

    def apply_entry(self, entry: AnyEntry) -> None:
        """Call an entry; an error is given to `on_error`, or logged."""
        try:
            entry()
        except Exception as exc:  # one entry must not keep the others from being called
            if not self.handle_error(sys.exc_info()):
                logger.exception("Error in timer: %r", exc)  # noqa: TRY401 - the line is what monitoring looks for

    def handle_error(self, exc_info: Any) -> bool:
        if self.on_error is None:
            return False
        self.on_error(exc_info)
        return True

    def cancel(self, tref: Any) -> None:
        tref.cancel()

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()

    def stop(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def queue(self) -> list[Any]:
        """(time, priority, entry) of all that wait, in order."""
        with self._lock:
            return [(moment, priority, entry) for moment, priority, _, entry in sorted(self._queue)]

    @property
    def schedule(self) -> Schedule:
        return self


AnySchedule: TypeAlias = Schedule


class Timer(threading.Thread):
    """A daemon thread that makes the calls of a `Schedule`; it starts with the first of them."""

    Entry = Entry
    Schedule = Schedule
    running = False
    on_tick: Callable[[float], Any] | None = None

    def __init__(
        self,
        schedule: AnySchedule | None = None,
        on_error: Callable[..., Any] | None = None,
        on_tick: Callable[[float], Any] | None = None,
        on_start: Callable[[Timer], Any] | None = None,
        max_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name="Timer", daemon=True)
        self.schedule = schedule or self.Schedule(max_interval=max_interval, on_error=on_error)
        self.on_start = on_start
        self.on_tick = on_tick or self.on_tick
        self.max_interval = max_interval
        self._changed = threading.Event()
        self._shutdown = threading.Event()
        self._starting = threading.Lock()

    def next(self) -> float | None:
        """Make the calls that are due; seconds until the next one, None if there is none."""
        while True:
            wait, entry = self.schedule.due()
            if entry is None:
                return wait
            self.schedule.apply_entry(entry)

    def run(self) -> None:
        self.running = True
        try:
            while not self._shutdown.is_set():
                self._changed.clear()
                wait = self.next()
                if wait is not None and self.max_interval:
                    wait = min(wait, self.max_interval)
                if self.on_tick is not None:
                    self.on_tick(wait or 0.0)
                self._changed.wait(None if wait is None else min(wait, _MAX_WAIT))
        finally:
            self.running = False

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._shutdown.set()
        self._changed.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def ensure_started(self) -> None:
        with self._starting:
            if self.ident is None and not self._shutdown.is_set():
                if self.on_start is not None:
                    self.on_start(self)
                self.start()

    def _entered(self, entry: AnyEntry) -> AnyEntry:
        self.ensure_started()
        self._changed.set()
        return entry

    def enter(self, entry: AnyEntry, eta: Any, priority: int | None = None) -> AnyEntry:
        return self._entered(self.schedule.enter_at(entry, eta, priority or 0))

    def enter_after(self, *args: Any, **kwargs: Any) -> AnyEntry:
        return self._entered(self.schedule.enter_after(*args, **kwargs))

    def call_at(self, *args: Any, **kwargs: Any) -> AnyEntry:
        return self._entered(self.schedule.call_at(*args, **kwargs))

    def call_after(self, *args: Any, **kwargs: Any) -> AnyEntry:
        return self._entered(self.schedule.call_after(*args, **kwargs))

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> AnyEntry:
        return self._entered(self.schedule.call_repeatedly(*args, **kwargs))

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """Raise SystemExit in the timer's thread after *secs* seconds."""
        self.call_after(secs, sys.exit, priority=priority)

    def cancel(self, tref: Any) -> None:
        tref.cancel()

    def clear(self) -> None:
        self.schedule.clear()

    def empty(self) -> bool:
        return not len(self)

    def __len__(self) -> int:
        return len(self.schedule)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[tuple[float, AnyEntry | None]]:
        return iter(self.schedule)

    @property
    def queue(self) -> list[Any]:
        return self.schedule.queue


__all__ = ["Entry", "Schedule", "Timer", "to_timestamp"]
