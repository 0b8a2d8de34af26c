"""From readings of a clock to moments: the rule for the two days of a year on which a clock is put forward or back.

A *reading* is a naive datetime, what a clock on a wall shows; a *moment* is a naive datetime on the UTC line.

    The rule. Every reading counts once. One that is skipped, because the clock was put forward, counts at the moment
    at which the clock would have shown it had nobody touched it (RFC 5545): 02:30 is 03:30 of summer time. One that is
    shown twice, because the clock was put back, counts the first time; only with `repeats` both times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple

FAR = timedelta(hours=26)
"""Further than a clock was ever put forward or back, and closer than two changes of it are to each other."""
EARLIEST = datetime(2, 1, 1)  # noqa: DTZ001 - a moment
"""Whoever asks for what comes after an earlier moment (there is no *never ran*) is answered from here on."""
INSTANT = timedelta(microseconds=1)
STEPS = 40
"""How many times `FAR` is looked ahead for a change of the clock, at once: six weeks."""

Next = Callable[[datetime], datetime | None]
"""The first reading of a schedule after a reading; None if there is none."""


class Change(NamedTuple):
    """A clock is changed: what it shows is the moment and the offset."""

    moment: datetime
    before: timedelta
    after: timedelta


def next_moment(after: datetime, zone: tzinfo, next_reading: Next, *, repeats: bool = False) -> datetime | None:
    """The first moment after *after* at which a clock in *zone* shows a reading of a schedule, by the rule.

    *repeats*: readings that are shown twice count twice.  None when the schedule has ended.
    """
    clock, after = _clock(zone), max(after, EARLIEST)
    while True:
        change = clock.change_near(after)
        if change is None:
            offset = clock.offset(after)
            reading = next_reading(after + offset)
            if reading is None:
                return None
            offset = clock.offset(reading - offset)
            change = clock.change_near(reading - offset)
            if change is None:
                return reading - offset
            after = max(after, change.moment - 2 * FAR)  # nothing is between, and from here there is one change only
        found = _next_around(change, after, next_reading, repeats=repeats)
        if found is None or found <= change.moment + FAR:
            return found
        after = change.moment + FAR + INSTANT


def moments_of(reading: datetime, zone: tzinfo) -> list[datetime]:
    """When a clock in *zone* shows *reading*: once, twice, or, where it is skipped, once as the rule says."""
    clock = _clock(zone)
    guess = reading - clock.offset(reading)
    guess = reading - clock.offset(guess)
    change = clock.change_near(guess)
    if change is None:
        return [guess]
    first, second = reading - change.before, reading - change.after
    return [
        *([first] if first < change.moment or second < change.moment else []),
        *([second] if second >= change.moment else []),
    ]


def to_moment(when: datetime) -> datetime:
    """An aware time as a moment."""
    if when.year == 1:
        return EARLIEST
    return when.astimezone(UTC).replace(tzinfo=None)


def from_moment(moment: datetime, zone: tzinfo = UTC) -> datetime:
    """A moment as an aware time in *zone*."""
    return moment.replace(tzinfo=UTC).astimezone(zone)


def _next_around(change: Change, after: datetime, next_reading: Next, *, repeats: bool) -> datetime | None:
    """`next_moment` where *change* is the only one that matters."""
    moment, before, behind = change
    found: list[datetime] = []
    # What the clock shows before it is changed, and would have shown: a reading counts by this if nobody sees it later.
    reading = next_reading(after + before)
    if reading is not None and (reading - before < moment or reading - behind < moment):
        found.append(reading - before)
    # What it shows from then on; if it was put back, without what it has shown already.
    start = max(after, moment - INSTANT) + behind
    if not repeats:
        start = max(start, moment - INSTANT + before)
    reading = next_reading(start)
    if reading is not None:
        found.append(reading - behind)
    return min(found, default=None)


class _Clock:
    """A clock in one zone. Asks the zone only what a moment reads, which every kind of zone answers rightly."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def offset(self, moment: datetime) -> timedelta:
        """What the clock shows at *moment* less *moment*."""
        return moment.replace(tzinfo=UTC).astimezone(self._zone).replace(tzinfo=None) - moment

    def change_near(self, moment: datetime) -> Change | None:
        """The change of the clock within `FAR` of *moment*: None nearly always."""
        early, late = moment - FAR, moment + FAR
        before, after = self.offset(early), self.offset(late)
        if before == after:
            return None
        while late - early > INSTANT:
            middle = early + (late - early) / 2
            if self.offset(middle) == before:
                early = middle
            else:
                late = middle
        return Change(late, before, after)


class _KeptClock(_Clock):
    """The same for zones that never become others: it remembers until when nobody changes the clock, and who did."""

    def __init__(self, zone: tzinfo) -> None:
        super().__init__(zone)
        self._calm: tuple[datetime, datetime, timedelta] = (datetime.max, datetime.min, timedelta(0))  # noqa: DTZ901
        """Between these two moments the offset is this one."""
        self._last: Change | None = None

    def offset(self, moment: datetime) -> timedelta:
        begin, end, offset = self._calm
        return offset if begin <= moment <= end else super().offset(moment)

    def change_near(self, moment: datetime) -> Change | None:
        begin, end, _ = self._calm
        if begin <= moment - FAR and moment + FAR <= end:
            return None
        last = self._last
        if last is not None and moment - FAR < last.moment <= moment + FAR:
            return last
        change = super().change_near(moment)
        if change is None:
            self._calm = self._look_ahead(moment - FAR)
        else:
            self._last = change
        return change

    def _look_ahead(self, begin: datetime) -> tuple[datetime, datetime, timedelta]:
        end, offset = begin, super().offset(begin)
        for _ in range(STEPS):
            if super().offset(end + FAR) != offset:
                break
            end += FAR
        return begin, end, offset


@lru_cache(maxsize=256)
def _clock(zone: tzinfo) -> _Clock:
    """The clock of a zone; zones that follow the machine's settings are asked each time."""
    kept = type(zone).__module__ in {"zoneinfo", "datetime"}
    return _KeptClock(zone) if kept else _Clock(zone)
