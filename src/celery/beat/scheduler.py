"""The scheduler: which entry is due, sending it, and how long to sleep then. It keeps its schedule in memory.

Others keep theirs elsewhere by overriding what is here: `schedule`, `setup_schedule`, `reserve`, `sync` and `close`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from heapq import heapify, heapreplace
from typing import Any

from celery.beat.entry import ScheduleEntry, check_entry, check_keys, evaluate_args, evaluate_kwargs, event_t
from celery.exceptions import BrokerError
from celery.schedules import NEVER, crontab, schedstate, schedule
from celery.utils.functional import maybe_evaluate
from celery.utils.log import get_logger

logger = get_logger("celery.beat")

DEFAULT_MAX_INTERVAL = 300
"""Seconds that beat sleeps at most."""
RETRY_DELAY = 5.0
"""Seconds after which a task that could not be sent is tried again, without `beat_schedule_retry_delay`."""
LOOK_EVERY = 5.0
"""Seconds between two looks at whether somebody has changed `beat_schedule`."""
BATCH = 1000
"""Entries that one tick sends at most, so that whoever waits for beat to stop does not wait for all."""
MOST_FAILURES = 2
"""Entries in a row that the broker did not take, after which a tick ends: the others would fare no better."""


class SchedulingError(Exception):
    """A task of the schedule could not be sent."""


class Scheduler:
    """Sends what is due. One thread.

    `tick` sends what is due and returns how many seconds may pass until it is called again.
    """

    Entry: type[ScheduleEntry] = ScheduleEntry
    max_interval: float = DEFAULT_MAX_INTERVAL
    sync_every: float = 3 * 60
    """Seconds after which the schedule is written."""
    sync_every_tasks: int | None = None
    """The same after so many tasks."""
    logger = logger
    _last_sync: float | None = None
    _tasks_since_sync = 0
    _conf_seen: Any = None
    _conf_looked = 0.0
    look_every: float = LOOK_EVERY
    follows_machine = True
    """Whether it goes by this machine's clock."""

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,  # noqa: N803 - the public name
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data: MutableMapping[str, Any] = maybe_evaluate({} if schedule is None else schedule)
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self.old_schedulers: Any = None
        self._reported: set[tuple[Any, str]] = set()
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # -- the schedule ------------------------------------------------------------------------------------------------

    def setup_schedule(self) -> None:
        """Fill the schedule: the default entries, and those of the settings."""
        self.follow_conf()
        self.install_default_entries(self.schedule)

    def get_schedule(self) -> Any:
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        self.data = schedule

    @property
    def schedule(self) -> Any:
        """The entries by name."""
        return self.get_schedule()

    @schedule.setter
    def schedule(self, schedule: Any) -> None:
        self.set_schedule(schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Add `celery.backend_cleanup`, daily at 4, where results do not end by themselves."""
        cleanup = "celery.backend_cleanup"
        if self.app.conf.result_expires and not self.app.backend.supports_autoexpire and cleanup not in data:
            options = {"expires": 12 * 3600}
            self.update_from_dict({cleanup: {"task": cleanup, "schedule": crontab("0", "4", "*"), "options": options}})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries, or replace those of the same name."""
        made = {name: self._make_entry(name, entry) for name, entry in dict_.items()}
        self.schedule.update({name: entry for name, entry in made.items() if entry is not None})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Have the entries of *b* and no others; those that stay keep when they ran last."""
        entries = self.schedule
        for name in set(entries) - set(b):
            entries.pop(name, None)
        for name, definition in b.items():
            entry = self._make_entry(name, definition)
            if entry is None:
                continue
            known = entries.get(name)
            if not known:
                entries[name] = entry
            elif known is not entry:
                known.update(entry)

    def follow_conf(self) -> None:
        """Take over `beat_schedule`, now and, as `tick` looks, whenever it is changed."""
        conf = self.app.conf.beat_schedule
        self.merge_inplace(conf)
        self._conf_seen = self._snapshot_conf()

    def _snapshot_conf(self) -> dict[str, Any]:
        """What is compared to find out whether somebody has changed `beat_schedule`, also in place."""
        conf = self.app.conf.beat_schedule
        return {name: dict(entry) if isinstance(entry, Mapping) else entry for name, entry in conf.items()}

    def _look_at_conf(self) -> None:
        """See whether somebody has changed `beat_schedule`, where it is followed at all."""
        now = time.monotonic()
        if self._conf_seen is None or now - self._conf_looked < self.look_every:
            return
        self._conf_looked = now
        before, after = self._conf_seen, self._snapshot_conf()
        if before == after:
            return
        self._conf_seen, self._heap = after, None
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        self.logger.info("beat: the schedule has changed: %s", ", ".join(sorted(map(str, changed))))
        gone = changed - set(after)
        entries = {name: entry for name, entry in self.schedule.items() if name not in gone}
        self.merge_inplace({**entries, **{name: after[name] for name in changed - gone}})

    def _make_entry(self, name: str, definition: Any) -> ScheduleEntry | None:
        """The entry; None, and one line in the log, for one that cannot be."""
        try:
            entry: ScheduleEntry = self._maybe_entry(name, definition)
            if type(entry) is ScheduleEntry:
                check_entry(entry)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one entry, the others go on
            self.report(name, f"it is left out: {error}")
            return None
        self._warn_of_unknown_task(entry)
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        if not isinstance(entry, Mapping):
            raise TypeError(f"it is {entry!r}: give a dict with 'task' and 'schedule'")
        if self.Entry is ScheduleEntry:
            check_keys(entry)
        return self.Entry(**dict(entry, name=name, app=self.app))

    def _warn_of_unknown_task(self, entry: Any) -> None:
        if entry.task not in self.app.tasks:
            self.report(
                entry.name, f"this application knows no task {entry.task!r}. It is sent, in case a worker does."
            )

    def report(self, name: Any, trouble: str) -> None:
        """Say once what is wrong with an entry."""
        if (name, trouble) not in self._reported:
            self._reported.add((name, trouble))
            self.logger.error("Entry %r of the schedule: %s", name, trouble)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def tick(
        self,
        event_t: Callable[..., Any] = event_t,
        min: Callable[..., float] = min,
        heappop: Any = None,
        heappush: Any = None,
    ) -> float:
        """Send what is due; the seconds until the next call, 0 when there is more."""
        self._look_at_conf()
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()
        longest = self.max_interval if self._conf_seen is None else min(self.max_interval, self.look_every)
        failures = 0
        for _ in range(BATCH):
            heap = self._heap
            if not heap:
                return longest
            event = heap[0]
            is_due, wait = self.is_due(event.entry)
            if is_due and self._run(event, wait):
                failures = 0
            elif is_due:
                failures += 1
                if failures == MOST_FAILURES:
                    return self.retry_delay
            elif event.time < self._when(event.entry, wait) - 1.0:
                # It is due later than was thought; others may come first.
                heapreplace(heap, event_t(self._when(event.entry, wait), event.priority, event.entry))
            else:
                return min(self.adjust(wait), longest)
        return 0.0

    def _run(self, event: event_t, wait: float) -> bool:
        """Send the entry at the top of the heap and put its next run in; whether the broker took it."""
        assert self._heap is not None
        entry = event.entry
        if self.apply_entry(entry, producer=self.producer) is False:
            heapreplace(self._heap, event_t(self._when(entry, self.retry_delay), event.priority, entry))
            return False
        following = self.reserve(entry)
        if self.old_schedulers is not None and entry.name in self.old_schedulers:
            self.old_schedulers[entry.name] = following
        if self._heap:  # a scheduler may empty it meanwhile
            heapreplace(self._heap, event_t(self._when(following, wait), event.priority, following))
        return True

    def is_due(self, entry: Any) -> schedstate:
        """Ask the entry; one whose schedule fails is reported once, and not due."""
        try:
            is_due, wait = entry.is_due()
        except Exception as error:  # noqa: BLE001 - a schedule of the user's fails: the others go on
            self.report(entry.name, f"its schedule {entry.schedule!r} fails: {error}")
            return schedstate(is_due=False, next=NEVER)
        return schedstate(is_due, NEVER if wait is None else wait)

    def apply_entry(self, entry: Any, producer: Any = None) -> Any:
        """Send an entry, and log how that went; False if it is to be tried again, for the broker is not there."""
        self.logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as error:
            if _is_temporary(error.__cause__):
                self.logger.error("%s. Trying again in %g s.", error, self.retry_delay)  # noqa: TRY400 - the sentence says it
                return False
            self.report(entry.name, f"{error}")
        except Exception as error:
            self.logger.exception("Message Error: %s", error)  # noqa: TRY401 - as Celery words it
        else:
            if result is not None and hasattr(result, "id"):
                self.logger.debug("%s sent. id->%s", entry.task, result.id)
            else:
                self.logger.debug("%s sent.", entry.task)
        return None

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send the task of an entry, and, with *advance*, go on to its next run. Raises `SchedulingError`."""
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            args, keywords = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
            if task:
                return task.apply_async(args, keywords, producer=producer, **entry.options)
            return self.send_task(entry.task, args, keywords, producer=producer, **entry.options)
        except Exception as error:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {error}") from error
        finally:
            self._tasks_since_sync += 1

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        return self.app.send_task(*args, **kwargs)

    def reserve(self, entry: Any) -> Any:
        """The entry after the run that is being made; it takes its place in the schedule."""
        following = self.schedule[entry.name] = next(entry)
        return following

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """*n* seconds, and *drift*: what it takes to wake up."""
        return n + drift if n and n > 0 else n

    def populate_heap(
        self, event_t: Callable[..., Any] = event_t, heapify: Callable[[list[Any]], None] = heapify
    ) -> None:
        """Put the next run of every entry into the heap."""
        heap = []
        for entry in self.schedule.values():
            is_due, wait = self.is_due(entry)
            heap.append(event_t(self._when(entry, 0 if is_due else wait) or 0, 5, entry))
        heapify(heap)
        self._heap = heap

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether the heap is still that of the schedule."""
        if old_schedules is new_schedules is None:
            return True
        if old_schedules is None or new_schedules is None or len(old_schedules) != len(new_schedules):
            return False
        for name, old in old_schedules.items():
            new = new_schedules.get(name)
            if new is not old and (new is None or new != old):
                return False
        return True

    def _when(self, entry: Any, next_time_to_run: float, mktime: Any = None) -> float:
        """Unix time of the next run."""
        now: datetime = entry.default_now() if hasattr(entry, "default_now") else self.app.now()
        moment = now if now.tzinfo else now.replace(tzinfo=UTC)
        return moment.timestamp() + (self.adjust(next_time_to_run) or 0)

    # -- writing it down ---------------------------------------------------------------------------------------------

    def should_sync(self) -> bool:
        """Whether the schedule is to be written."""
        return (
            self._last_sync is None
            or time.monotonic() - self._last_sync > self.sync_every
            or bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)
        )

    def _do_sync(self) -> None:
        try:
            self.logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write the schedule."""

    def close(self) -> None:
        """Beat ends."""
        self.sync()

    def add(self, **kwargs: Any) -> Any:
        """Add an entry, given as the arguments of its class."""
        entry = self.Entry(app=self.app, **kwargs)
        assert entry.name is not None
        self.schedule[entry.name] = entry
        return entry

    # -- the rest ----------------------------------------------------------------------------------------------------

    def clock_jumped(self, seconds: float) -> None:
        """The machine's clock was put forward (or back, if negative) by *seconds*: intervals are not to notice."""
        self._heap = None
        if self.Entry is not ScheduleEntry:
            return
        for entry in self.schedule.values():
            if isinstance(entry.schedule, schedule) and not entry.schedule.relative:
                entry.last_run_at += timedelta(seconds=seconds)

    @property
    def retry_delay(self) -> float:
        """Seconds after which a task that could not be sent is tried again."""
        return float(self.app.conf.beat_schedule_retry_delay or RETRY_DELAY)

    @property
    def producer(self) -> Any:
        """What tasks are sent by: None is the app's own connection, and the default."""
        return self.Producer(self.connection) if self.Producer is not None else None

    @property
    def connection(self) -> Any:
        """A kombu connection to the broker."""
        return self.app.connection_for_write()

    def upcoming(self) -> list[tuple[float, str]]:
        """(Unix time, name) of the next run of each entry, soonest first."""
        return sorted((event.time, str(event.entry.name)) for event in list(self._heap or ()))

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""


def _is_temporary(error: BaseException | None) -> bool:
    """Whether the same call may succeed later: what is told of the broker, here or by kombu."""
    while error is not None:
        if isinstance(error, BrokerError):
            return bool(error.temporary)
        if (
            type(error).__module__.startswith("kombu.")
            and type(error).__name__ == "OperationalError"
            and not error.__cause__
        ):
            return True
        error = error.__cause__
    return False
