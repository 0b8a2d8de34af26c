"""The scheduler that keeps its schedule in the store: any number of beats share it, and each tick is sent once.

One beat leads, by a lease whose token is a fence; the others stand by.  A tick is one step in the store: the entry's
state is compared and set, and the message is sent.  Its task id is made of the entry and the tick.
"""

from __future__ import annotations

import copy
import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import Any

import msgspec

from celery import states
from celery.beat.codec import read_entry
from celery.beat.entry import ScheduleEntry
from celery.beat.policy import check_policies, decide, fingerprint, next_after
from celery.beat.scheduler import BATCH, Scheduler
from celery.brokers.book import Advance, Book, Lead
from celery.exceptions import BackendError, BrokerError, ImproperlyConfigured
from celery.schedules import schedule
from celery.utils.clock import SYSTEM, Clock
from celery.utils.nodenames import gethostname
from celery.utils.time import humanize_seconds

NAMESPACE = uuid.UUID("6e3c1a0e-6f0b-4b53-9a65-0c6a4d9b7d10")
"""Of the task ids that are made of an entry and a tick."""
STEP = 200
"""Entries that are advanced in one step."""
JUMP = 2.0
"""Seconds by which the store's clock has to be put forward or back to be minded."""
LOOK_IN = 10_000
"""Messages of a queue that are looked at for the one of the previous run."""


class State(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What the store keeps of an entry. Times are Unix seconds."""

    last: float
    """The latest tick that is over; of a new entry, when it was first seen."""
    next: float | None
    mark: str = ""
    """The schedule that `next` is of; another one counts from when it is first seen."""
    count: int = 0
    ran: float | None = None
    task_id: str = ""
    """Of the latest run."""


class Note(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A line of an entry's history: what became of a *tick*, and when."""

    tick: float
    at: float
    what: str
    task_id: str = ""


def read_state(raw: bytes) -> State | None:
    """A state, None for what is none: the entry begins anew then."""
    try:
        return msgspec.json.decode(raw, type=State)
    except msgspec.MsgspecError:
        return None


def open_book(app: Any) -> Book:
    """The schedule book of *app*: in its broker, else in its result store."""
    name = app.conf.beat_namespace or app.main or "celery"
    book: Book | None = app.broker.book(name)
    if book is None and app.store is not None:
        book = app.store.book(name)
    if book is None:
        raise ImproperlyConfigured(
            "Neither the broker nor the result backend can keep the schedule: keep it in a file"
            " (beat_schedule_filename, -s), or use Redis or SQLite for results."
        )
    return book


def task_id_of(name: str, tick: float) -> str:
    """The id of the task that is sent for a tick, whoever sends it."""
    return str(uuid.uuid5(NAMESPACE, f"{name}\n{tick:.3f}"))


class StoreScheduler(Scheduler):
    """Keeps the schedule in the broker, or in the result store where the broker cannot.

    Its entries are those of `beat_schedule` and those that `celery schedule add` has put there.
    """

    max_interval: float = 5.0
    follows_machine = False

    def __init__(self, app: Any, *args: Any, clock: Clock = SYSTEM, **kwargs: Any) -> None:
        self.clock = clock
        self.who = f"{gethostname()} pid {os.getpid()} {uuid.uuid4().hex[:8]}"
        self.lease = float(app.conf.beat_lease)
        self.leader = ""
        self._token = 0
        self._lead: Lead | None = None
        self._asked = 0.0
        self._version = -1
        self._states: dict[str, State] = {}
        self._raw: dict[str, bytes] = {}
        self._paused: frozenset[str] = frozenset()
        self._plan: list[tuple[float, str]] | None = None
        self._entries: dict[str, ScheduleEntry] = {}
        self._trouble = ""
        super().__init__(app, *args, **kwargs)

    # -- the schedule ------------------------------------------------------------------------------------------------

    def setup_schedule(self) -> None:
        self.book = open_book(self.app)
        self._conf_seen = self._snapshot_conf()

    def get_schedule(self) -> Any:
        return self._entries

    def set_schedule(self, schedule: Any) -> None:
        self._entries = schedule

    def load(self) -> None:
        """Read the entries and their states; what is new, or has another schedule, counts from now."""
        definitions = self.book.definitions()
        self._paused = self.book.paused()
        made = {name: self._read(name, raw) for name, raw in definitions.items()}
        entries = {name: entry for name, entry in made.items() if entry is not None}
        for name, definition in self.app.conf.beat_schedule.items():
            entry = self._make_entry(name, definition)
            if entry is not None:
                entries[name] = entry
        self._entries = entries
        self.install_default_entries(entries)
        self._conf_seen = self._snapshot_conf()
        self._raw = self.book.states()
        self._states = {name: state for name, raw in self._raw.items() if (state := read_state(raw)) is not None}
        self._plan = []
        if self._token:
            self._begin_new()
        for name in self._entries:
            self._put(name)

    def _read(self, name: str, definition: bytes) -> ScheduleEntry | None:
        try:
            given = read_entry(definition)
        except (ValueError, TypeError, KeyError) as error:
            self.report(name, f"it is left out: {error}")
            return None
        return self._make_entry(name, given)

    def _make_entry(self, name: str, definition: Any) -> ScheduleEntry | None:
        entry = super()._make_entry(name, definition)
        if entry is not None:
            try:
                check_policies(entry.missed, entry.overlap)
                next_after(entry.schedule, self._now())
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one schedule, the others go on
                self.report(name, f"it is left out: {error}")
                return None
        return entry

    def _begin_new(self) -> None:
        now, advances = self._now(), []
        for name, entry in self._entries.items():
            mark, state = fingerprint(entry.schedule), self._states.get(name)
            if state is None or state.mark != mark:
                count, ran, task_id = (state.count, state.ran, state.task_id) if state else (0, None, "")
                new = State(round(now, 3), next_after(entry.schedule, now), mark, count, ran, task_id)
                advances.append((name, new, (), b""))
        for start in range(0, len(advances), STEP):
            self._commit(advances[start : start + STEP])

    def _put(self, name: str) -> None:
        state = self._states.get(name)
        if state is not None and state.next is not None and self._plan is not None:
            heappush(self._plan, (state.next, name))

    # -- the loop ----------------------------------------------------------------------------------------------------

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this beat leads; the seconds until the next call."""
        try:
            wait = self._tick()
        except (BrokerError, BackendError) as error:
            if not error.temporary:
                raise
            if str(error) != self._trouble:
                self._trouble = str(error)
                self.logger.error("beat: %s Trying again every %g s; no tick is lost.", error, self.retry_delay)  # noqa: TRY400 - the sentence says it
            self._plan = None  # whether it was written is not known: read it
            return self.retry_delay
        if self._trouble:
            self._trouble = ""
            self.logger.info("beat: The store is there again.")
        return wait

    def _tick(self) -> float:
        left = self._keep_lead()
        if not self._token:
            return left
        self._look_at_conf()
        if self._plan is None:
            self.load()
        assert self._plan is not None
        done = 0
        while self._plan and self._plan[0][0] <= self._now():
            if done >= BATCH:
                return 0.0
            done += self._run_due()
            if not self._token or self._plan is None:
                return 0.0
        wait = self._plan[0][0] - self._now() if self._plan else self.max_interval
        return max(0.0, min(wait, self._until_renewal(), self.max_interval))

    def _run_due(self) -> int:
        """Send up to `STEP` of what is due, in one step; how many entries that were."""
        assert self._plan is not None
        now, advances, count = self._now(), [], 0
        while self._plan and self._plan[0][0] <= now and count < STEP:
            tick, name = heappop(self._plan)
            state = self._states.get(name)
            if name in self._entries and state is not None and state.next == tick:
                advances.append(self._decide(name, state, now))
                count += 1
        self._commit(advances)
        for name, *_ in advances:
            self._put(name)
        return max(count, 1)

    def _decide(self, name: str, state: State, now: float) -> tuple[str, State, Sequence[Any], bytes]:
        """(name, new state, messages, note) for an entry that is due."""
        entry, conf = self._entries[name], self.app.conf
        assert state.next is not None
        try:
            due = decide(
                entry.schedule, state.next, now, entry.missed or conf.beat_missed, conf.beat_cron_starting_deadline
            )
        except Exception as error:  # noqa: BLE001 - a schedule of the user's fails: the others go on
            self.report(name, f"its schedule {entry.schedule!r} fails: {error}")
            return name, msgspec.structs.replace(state, next=None), (), _note(state.next, now, "failed")
        after = msgspec.structs.replace(state, last=due.last, next=due.next)
        if name in self._paused:
            return name, after, (), b""
        if not due.run:
            return name, after, (), _note(due.last, now, "missed")
        if entry.overlap == "skip" and state.task_id and self.still_runs(state.task_id):
            self.logger.info("Scheduler: %s is skipped: its previous run has not ended", name)
            return name, after, (), _note(due.last, now, "overlapped")
        messages: list[Any] = []
        for tick in due.run:
            messages += self._send(entry, task_id_of(self._full(name), tick))
        task_id = task_id_of(self._full(name), due.run[-1])
        after = msgspec.structs.replace(after, count=state.count + len(due.run), ran=round(now, 3), task_id=task_id)
        return name, after, messages, _note(due.run[-1], now, "sent" if messages else "failed", task_id)

    def _full(self, name: str) -> str:
        return f"{self.app.conf.beat_namespace or self.app.main or 'celery'}\n{name}"

    def _send(self, entry: ScheduleEntry, task_id: str) -> list[Any]:
        """The messages of one run."""
        run = copy.copy(entry)
        headers = {"periodic_task_name": entry.name, **(entry.options.get("headers") or {})}
        run.options = {"task_id": task_id, **entry.options, "headers": headers}
        messages: list[Any] = []
        with self.app.publisher.collect(messages):
            self.apply_entry(run, producer=self.producer)
        return messages

    def _commit(self, advances: Sequence[tuple[str, State, Sequence[Any], bytes]]) -> None:
        """Write states and send messages, all in one step."""
        if not advances:
            return
        encoded = [
            Advance(name, self._raw.get(name, b""), msgspec.json.encode(new), note, tuple(messages))
            for name, new, messages, note in advances
        ]
        try:
            done = self._advance(encoded)
        except (BrokerError, BackendError) as error:
            if error.temporary or not any(advance.messages for advance in encoded):
                raise
            self._commit_apart(advances, error)
            return
        if done is None:
            self._stand_down()
            return
        for advance, (name, new, _, _), ok in zip(encoded, advances, done, strict=True):
            if not ok:
                self._plan = None  # somebody else has been here: read it again
                continue
            self._raw[name], self._states[name] = advance.new, new
            entry = self._entries.get(name)
            if entry is not None:
                entry.total_run_count = new.count
                if new.ran is not None:
                    entry.last_run_at = datetime.fromtimestamp(new.ran, UTC)

    def _advance(self, advances: Sequence[Advance]) -> list[bool] | None:
        messages = [message for advance in advances for message in advance.messages]
        if messages and not self.book.sends:
            # It cannot be one step: under the lease the messages go first, so that a crash repeats and loses nothing.
            if self.book.advance(self._token, self.lease, ()) is None:
                return None
            self.app.broker.publish(messages)
        return self.book.advance(self._token, self.lease, advances)

    def _commit_apart(self, advances: Sequence[tuple[str, State, Sequence[Any], bytes]], error: Exception) -> None:
        """Commit each by itself: one of them has a message that the broker does not take."""
        if len(advances) > 1:
            for advance in advances:
                self._commit([advance])
            return
        [(name, new, _, _)] = advances
        self.report(name, f"it cannot be sent: {error}")
        self._commit([(name, new, (), _note(new.last, self._now(), "failed"))])

    def still_runs(self, task_id: str) -> bool:
        """Whether a task has not ended: by its result, else by whether the broker still has its message."""
        backend = self.app.backend
        try:
            if backend.get_state(task_id) in states.READY_STATES:
                return False
        except (BackendError, NotImplementedError, AttributeError):
            pass  # results are out of reach, or kept nowhere, or by a backend of others that cannot say: ask the broker
        kinds = ("leased", "ready", "delayed", "parked")
        return any(entry.task_id == task_id for kind in kinds for entry in self.app.broker.entries(kind, None, LOOK_IN))

    # -- leading -----------------------------------------------------------------------------------------------------

    def _keep_lead(self) -> float:
        """Take the lease, or keep it; the seconds until it is to be asked for again."""
        if self._token and self._until_renewal() > 0:
            return self._until_renewal()
        asked = self.clock.monotonic()
        lead = self.book.lead(self.who, self.lease)
        had, self._token = self._token, lead.token
        self._mind_the_clock(lead, asked, leads=bool(had and lead.token))
        if lead.leader != self.leader:
            self.leader = lead.leader
            self.logger.info("beat: %s", "leading" if lead.token else f"standing by: {lead.leader} leads")
        if lead.token != had or lead.version != self._version:
            self._version, self._plan = lead.version, None
        return self._until_renewal() if lead.token else min(lead.left + 0.05, self.lease / 3)

    def _until_renewal(self) -> float:
        return self._asked + self.lease / 3 - self.clock.monotonic()

    def _stand_down(self) -> None:
        self.logger.warning("beat: another beat leads by now: standing by")
        self._token, self._plan, self.leader = 0, None, ""

    def _now(self) -> float:
        """The store's clock."""
        if self._lead is None:
            return self.clock.time()
        return self._lead.now + self.clock.monotonic() - self._seen

    _seen = 0.0
    _took = 0.0

    def _mind_the_clock(self, lead: Lead, asked: float, *, leads: bool) -> None:
        expected, known = self._now(), self._lead is not None
        self._lead, self._seen = lead, self.clock.monotonic()
        self._asked = self._seen
        jumped = lead.now - expected
        # The store may have answered long before we heard it, now or the last time: that is no jump.
        slack = self._took if jumped > 0 else self._seen - asked
        self._took = self._seen - asked
        if not known or not leads or abs(jumped) - slack < JUMP or self._plan is None:
            return
        self.logger.warning(
            "beat: The clock of the store was put %s by %s. Intervals go on as if nothing had happened; what has run by"
            " the clock does not run again, what was jumped over counts as missed.",
            "forward" if jumped > 0 else "back",
            humanize_seconds(abs(jumped)),
        )
        moved = []
        for name, state in self._states.items():
            entry = self._entries.get(name)
            if entry is not None and isinstance(entry.schedule, schedule) and state.next is not None:
                new = msgspec.structs.replace(state, last=state.last + jumped, next=round(state.next + jumped, 3))
                moved.append((name, new, (), b""))
        for start in range(0, len(moved), STEP):
            self._commit(moved[start : start + STEP])
        self._plan = None

    # -- the rest ----------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return bool(self._token)

    def should_sync(self) -> bool:
        return False

    def close(self) -> None:
        """Let another beat lead at once."""
        if self._token:
            try:
                self.book.resign(self._token)
            except (BrokerError, BackendError) as error:
                self.logger.warning("beat: The lease could not be given back, and ends by itself: %s", error)
            self._token = 0

    def upcoming(self) -> list[tuple[float, str]]:
        """(Unix time, name) of the next tick of each entry, soonest first."""
        found = [
            (state.next, name) for name, state in self._states.items()
            if state.next is not None and name in self._entries and name not in self._paused
        ]  # fmt: skip
        return sorted(found)

    @property
    def paused_names(self) -> frozenset[str]:
        """The entries that rest."""
        return self._paused

    def state_of(self, name: str) -> State | None:
        """What the store keeps of an entry; None: no beat has seen it yet."""
        return self._states.get(name)

    def is_from_conf(self, name: str) -> bool:
        """Whether an entry is defined by the application."""
        return name in self.app.conf.beat_schedule or name == "celery.backend_cleanup"

    def reserve(self, entry: Any) -> Any:
        """Where an entry goes next is written with its tick."""
        return entry

    def _look_at_conf(self) -> None:
        now = time.monotonic()
        if now - self._conf_looked >= self.look_every:
            self._conf_looked = now
            if self._conf_seen != self._snapshot_conf():
                self.logger.info("beat: the schedule has changed")
                self._plan = None

    @property
    def info(self) -> str:
        return f"    . book -> {self.app.conf.beat_namespace or self.app.main or 'celery'}"


def _note(tick: float, at: float, what: str, task_id: str = "") -> bytes:
    return msgspec.json.encode(Note(tick, round(at, 3), what, task_id))
