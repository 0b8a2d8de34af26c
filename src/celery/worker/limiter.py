"""Keeps a worker to the limits of its tasks: what of it may start now, and what waits in the store for a permit.

Permits for so many at a time, and for rates of the whole fleet, are the store's to give, when a message is started.  A
rate of this worker alone is counted here; what is above it is parked in the store under the name of the task, where any
worker that may start one takes it when it claims.  So nothing that waits is held here, or stands before other messages.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from celery.app.limits import derive
from celery.brokers.base import NOTHING, Capabilities, Consumer, Needs, Verdict
from celery.exceptions import DecodeError
from celery.utils.clock import Clock
from celery.utils.log import get_logger
from celery.utils.pace import Pace
from celery.wire.message import Permit, Settlement
from celery.wire.protocol import decode_envelope, split_body
from celery.worker.claimed import PLAIN, Claimed
from celery.worker.facts import FactsTable

logger = get_logger("celery.worker.consumer")

LOOK_AGAIN = 10.0
"""Seconds between looks at what may be parked of tasks that have no limit here."""
REMEMBERED = 0.25
"""Seconds for which it is remembered that there was no permit: what comes in that time is parked without asking."""
MOST = 1000
"""Messages that are claimed at once to clear away what has to wait; different permits that are remembered."""

Anything = TypeVar("Anything", bound=Claimed)


class Limiter:
    """The limits of one worker. One thread, the loop's; times are monotonic seconds."""

    def __init__(self, can: Capabilities, facts: FactsTable, tasks: Mapping[str, Any], clock: Clock) -> None:
        self._can = can
        self._facts = facts
        self._tasks = tasks
        self._clock = clock
        self._next: dict[str, float] = {}
        """Of tasks with a pace of this worker: what `Pace.after` said last."""
        self._waiting: set[str] = set()
        """Those of them of which something may be parked."""
        self._full: dict[str, float] = {}
        """Keys for which there was no permit, and until when that is remembered."""
        self._seen: set[str] = set()
        self._paced: list[str] = []
        self._made: dict[tuple[str, str, int], tuple[Permit, ...]] = {}
        """Permits by task, key and slots: the same ones are the same object, which stores put together by."""
        self._look_at = 0.0
        self._next_look = math.inf
        """When the next task with a rate of the whole fleet may start, as far as this worker knows."""
        self.parked = 0
        """How many were parked when `sift` was last called."""
        self.changed = False
        """Something of what is held may have to be parked."""
        self.busy = False
        """A limited task has come."""
        self.boost = 0
        """How many to claim, although there is no room for so many: most of what comes is parked."""

    # -- what this worker counts by itself -----------------------------------------------------------------------------

    def forget(self, name: str) -> None:
        """The limits of this task have changed."""
        self._paced = self._facts.paced()
        self._made.clear()
        self._next.pop(name, None)
        self._waiting.add(name)

    def wanted(self, now: float) -> Mapping[str, int]:
        """What to claim of what is parked: how many of each task this worker may start."""
        if not self._can.limits:
            return NOTHING
        if now >= self._next_look:
            self._next_look = math.inf
        found: dict[str, int] = {}
        if now >= self._look_at:
            # Also what workers have parked that knew of limits which are no more.
            self._look_at = now + LOOK_AGAIN
            self._paced = self._facts.paced()
            self._waiting.update(self._tasks)
        if self._waiting or self._paced:
            for name in {*self._waiting, *self._paced}:
                count = MOST if self._pace(name) is None else self._available(name, now)
                if count:
                    found[_key(name)] = count
        return found

    def claimed(self, wanted: Mapping[str, int], *, full: bool) -> None:
        """A claim of *wanted* has brought what `admit` has seen since the last one. *full*: all that was asked for."""
        for key in wanted:
            name = key.removeprefix(_KEY)
            if name in self._seen or (full and self._pace(name) is None and name in self._waiting):
                self._waiting.add(name)
            else:
                self._waiting.discard(name)
        self._seen.clear()

    @property
    def due_at(self) -> float:
        """When to claim because another one of what is parked may start; infinity if nothing is known to be."""
        if not self._waiting:
            return self._next_look
        moments = [0.0 if self._pace(name) is None else self._next.get(name, 0.0) for name in self._waiting]
        return min(self._next_look, *moments)

    def _pace(self, name: str) -> Pace | None:
        facts = self._facts.get(name)
        return None if facts is None else facts.pace

    def _available(self, name: str, now: float) -> int:
        pace = self._pace(name)
        return 0 if pace is None else pace.available(self._next.get(name, 0.0), now)

    # -- the way of a message ------------------------------------------------------------------------------------------

    def admit(self, request: Claimed) -> None:
        """A limited one was claimed."""
        self.changed = self.busy = True
        if request.facts.pace is not None:
            self._seen.add(request.head.task)

    def sift(self, held: deque[Claimed], source: Consumer) -> list[Settlement]:
        """Have what cannot start now parked, and take it out of *held*.

        Settlements for what a broker that cannot park has to take back.
        """
        self.changed, self.parked = False, 0
        now = self._clock.monotonic()
        self._full = {key: until for key, until in self._full.items() if until > now}
        refused = self._refused(held, now)
        if not refused:
            return []
        requests = [request for request in held if request.delivery.tag in refused]
        if self._can.limits:
            verdicts = source.park([request.delivery for request in requests], refused)
            gone = {request.tag for request, verdict in zip(requests, verdicts, strict=True) if verdict != "ok"}
            for request in requests:
                if request.tag not in gone:
                    self._full.pop(refused[request.delivery.tag][0].key, None)
            settlements = []
        else:
            gone = {request.tag for request in requests}
            settlements = self._delays(requests, now)
        kept = [request for request in held if request.tag not in gone]
        held.clear()
        held.extend(kept)
        self.parked = len(gone)
        return settlements

    def _refused(self, held: Iterable[Claimed], now: float) -> dict[int | str, Sequence[Permit]]:
        """What waits, by tag, for which permits."""
        left: dict[str, int] = {}
        found: dict[int | str, Sequence[Permit]] = {}
        for request in held:
            if request.facts.pace is not None:
                name = request.head.task
                count = left.get(name)
                if count is None:
                    count = self._available(name, now)
                left[name] = count - 1
                if count < 1:
                    self._waiting.add(name)
                    found[request.delivery.tag] = (Permit(_key(name)),)
                    continue
            if self._full and (request.facts.limited or request.head.limit is not None):
                permits = self.permits(request)
                if len(permits) == 1 and permits[0].key in self._full:
                    found[request.delivery.tag] = permits
        return found

    def _delays(self, requests: Sequence[Claimed], now: float) -> list[Settlement]:
        """The next best where nothing can be parked: back to the broker until it may start, if nobody else takes it."""
        settlements = []
        counts: dict[str, int] = {}
        for request in requests:
            name = request.type
            pace = self._pace(name)
            if pace is not None:
                count = counts[name] = counts.get(name, 0) + 1
                later = pace.at(self._next.get(name, 0.0), now) + (count - 1) * pace.interval - now
                settlements.append(Settlement(request.delivery, "requeue", max(pace.interval, later)))
        return settlements

    def note_claim(self, claimed: int) -> None:
        """What was sifted came by a claim of so many messages."""
        parked, self.parked = self.parked, 0
        self.boost = min(MOST, max(100, 2 * claimed)) if parked and 2 * parked >= claimed else 0

    def permits(self, request: Claimed) -> tuple[Permit, ...]:
        """What the store has to give before *request* may start."""
        facts, said = request.facts, request.head.limit
        if not self._can.limits:
            return ()
        if said is None and facts.concurrency is not None:
            said = self._derived(request), facts.concurrency
        if said is None or not said[0] or said[1] < 1:
            return facts.permits
        known = request.head.task, *said
        permits = self._made.get(known)
        if permits is None:
            if len(self._made) >= MOST:
                self._made.clear()
            permits = self._made[known] = Permit(*said), *facts.permits
        return permits

    def _derived(self, request: Claimed) -> str:
        """The key of a message whose sender did not say it: one of the original, or that does not know the task."""
        template = request.facts.concurrency_key
        if template is None:
            return request.type
        try:
            args, kwargs, _ = split_body(decode_envelope(request.delivery.envelope), PLAIN)
            return derive(self._tasks.get(request.type), template, "concurrency_key", args, kwargs)
        except (ValueError, DecodeError):
            return request.type

    def needs(self, batch: Sequence[Claimed]) -> Needs:
        """The permits that a batch needs, by tag."""
        found: dict[int | str, Sequence[Permit]] = {}
        if not self._can.limits:
            return found
        said, task, permits = None, "", tuple[Permit, ...]()
        for request in batch:
            head, facts = request.head, request.facts
            if head.limit is None and facts.concurrency is None:
                if facts.permits:
                    found[request.delivery.tag] = facts.permits
                continue
            # Neighbours mostly say the same.
            if head.limit is None or head.limit != said or head.task != task:
                said, task, permits = head.limit, head.task, self.permits(request)
            if permits:
                found[request.delivery.tag] = permits
        return found

    def started(self, batch: Sequence[Anything], verdicts: Sequence[Verdict]) -> list[Anything]:
        """Those of a batch that are `ok` are handed to the pool now; the limited ones among them."""
        found = [
            request
            for request, verdict in zip(batch, verdicts, strict=True)
            if verdict == "ok" and (request.facts.limited or request.head.limit is not None)
        ]
        now = self._clock.monotonic()
        for name, count in Counter([request.head.task for request in found]).items():
            facts = self._facts.get(name)
            if facts is not None and facts.pace is not None:
                self._next[name] = facts.pace.after(self._next.get(name, 0.0), now, count)
            for permit in facts.permits if facts is not None else ():
                self._next_look = min(self._next_look, now + permit.interval)
        return found

    def refused(self, request: Claimed) -> None:
        """The store had no permit, and has parked it."""
        permits = self.permits(request)
        if len(permits) == 1:
            self._full[permits[0].key] = self._clock.monotonic() + REMEMBERED
        self.changed = True
        logger.debug("Task %s waits in the store for a permit", request)


_KEY = "worker "


def _key(name: str) -> str:
    """Under which messages wait that only a worker gives a permit."""
    return f"{_KEY}{name}"
