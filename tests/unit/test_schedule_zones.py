"""Every change of the clock from 2020 to 2035 in two dozen zones, against two oracles.

One lists, minute by minute, what a clock shows, and applies the rule of `celery.schedules.wallclock` to the list. The
other is cronsim, wherever its rule is ours: it moves skipped readings to the change itself, and takes a `*` in the
minute for a wish to run in both passes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from celery import Celery
from celery.schedules import crontab, rrule
from celery.utils.time import LocalTimezone

ZONES = [
    "Africa/Cairo", "Africa/Casablanca", "America/Asuncion", "America/Chicago", "America/Havana", "America/Los_Angeles",
    "America/New_York", "America/Santiago", "America/St_Johns", "Antarctica/Casey", "Antarctica/Troll", "Asia/Amman",
    "Asia/Beirut", "Asia/Gaza", "Asia/Jerusalem", "Asia/Tehran", "Australia/Lord_Howe", "Australia/Sydney",
    "Europe/Berlin", "Europe/Chisinau", "Europe/Dublin", "Europe/Lisbon", "Europe/London", "Pacific/Auckland",
    "Pacific/Chatham", "Pacific/Easter",
]  # fmt: skip
DENSE = ["*/15 * * * *", "30 * * * *", "20,50 0-3 * * *", "7 */2 * * *"]
DAILY = ["30 1 * * *", "30 2 * * *", "0 0 * * *", "0 3 * * *", "59 23 * * sun", "15 0 1 * *"]
MINUTES = {0, 7, 15, 20, 30, 45, 50, 59}
"""Of the schedules above: the rest need not be looked at."""
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@cache
def changes(zone: str) -> list[datetime]:
    """The first minutes (UTC) of the new offsets."""
    tz, found = ZoneInfo(zone), []
    day = datetime(2020, 1, 1, tzinfo=UTC)
    while day.year < 2036:
        after = day + timedelta(days=1)
        if day.astimezone(tz).utcoffset() != after.astimezone(tz).utcoffset():
            low, high = 0, 1440
            while high - low > 1:
                middle = (low + high) // 2
                same = (day + middle * MINUTE).astimezone(tz).utcoffset() == day.astimezone(tz).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(day + high * MINUTE)
        day = after
    return found


def readings(zone: str, change: datetime, around: timedelta) -> Iterator[tuple[datetime, datetime, int]]:
    """(moment (naive), reading, how often it was shown before; -1: never shown) within *around* of *change*."""
    tz = ZoneInfo(zone)
    before = (change - MINUTE).astimezone(tz).utcoffset()
    after = change.astimezone(tz).utcoffset()
    assert before is not None
    assert after is not None
    change = change.replace(tzinfo=None)
    moment = change - around
    while moment < change + around:
        reading = moment + (before if moment < change else after)
        yield moment, reading, int(moment >= change and reading < change + before)
        # After the clock was put forward: what it would have shown without that, if nobody saw it.
        if change <= moment < change + (after - before):
            yield moment, moment + before, -1
        moment += MINUTE


def expected(plan: crontab, listed: list[tuple[datetime, datetime, int]]) -> list[datetime]:
    found = {
        moment
        for moment, reading, shown in listed
        if reading.minute in plan.minute and reading.hour in plan.hour and reading.day in plan.day_of_month
        and reading.isoweekday() % 7 in plan.day_of_week and (shown < 1 or len(plan.hour) == 24)
    }  # fmt: skip
    return [moment.replace(tzinfo=UTC) for moment in sorted(found)]


def edges(rows: list[tuple[datetime, datetime, int]]) -> tuple[datetime, datetime]:
    return rows[0][0].replace(tzinfo=UTC) - MINUTE, rows[-1][0].replace(tzinfo=UTC) + MINUTE


def ticks(plan: crontab | rrule, start: datetime, end: datetime) -> list[datetime]:
    found, tick = [], plan.next_tick(start)
    while tick is not None and tick < end:
        found.append(tick.astimezone(UTC))
        tick = plan.next_tick(tick)
    return found


def make(zone: str, text: str) -> crontab:
    app = Celery("zones", broker="memory://zones", set_as_current=False)
    return crontab.from_string(text, tz=zone, app=app)


def test_there_are_zones_that_do_all_there_is_to_do() -> None:
    counts = {zone: len(changes(zone)) for zone in ZONES}
    assert len(ZONES) >= 20
    assert min(counts.values()) >= 3
    assert sum(counts.values()) > 600


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_a_zone(zone: str) -> None:
    dense, daily = [make(zone, text) for text in DENSE], [make(zone, text) for text in DAILY]
    for change in changes(zone):
        listed = [row for row in readings(zone, change, timedelta(hours=26)) if row[1].minute in MINUTES]
        near = [row for row in listed if abs(row[0].replace(tzinfo=UTC) - change) <= timedelta(hours=4)]
        for plans, rows in ((dense, near), (daily, listed)):
            start, end = edges(rows)
            for plan in plans:
                assert ticks(plan, start, end) == expected(plan, rows), (plan, change)


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_of_a_change(zone: str) -> None:
    every, morning = make(zone, "* * * * *"), make(zone, "* 0-2 * * *")
    for change in changes(zone)[:4]:
        rows = list(readings(zone, change, timedelta(hours=3, minutes=10)))
        for plan in (every, morning):
            assert ticks(plan, *edges(rows)) == expected(plan, rows), (plan, change)


@pytest.mark.parametrize("zone", ZONES)
def test_beside_cronsim(zone: str) -> None:
    tz, skips_hours = ZoneInfo(zone), zone != "Australia/Lord_Howe"  # half hours: cronsim loses the skipped run there
    for text in ["*/15 * * * *", *(["30 * * * *"] if skips_hours else []), *DAILY]:
        plan = make(zone, text)
        for change in changes(zone):
            start = change - timedelta(hours=30 if text in DAILY else 3)
            end = change + (change - start)
            fits = _fits(plan)
            ours = [tick for tick in ticks(plan, start, end) if fits(tick.astimezone(tz))]
            theirs = itertools.takewhile(lambda tick, end=end: tick < end, CronSim(text, start.astimezone(tz)))
            assert ours == [tick.astimezone(UTC) for tick in theirs if fits(tick)], (plan, change)


def _fits(plan: crontab):  # type: ignore[no-untyped-def]
    return lambda tick: tick.minute in plan.minute and tick.hour in plan.hour


def test_rules_count_each_reading_once() -> None:
    app = Celery("zones", broker="memory://zones", set_as_current=False)
    plan = rrule("DAILY", byhour=[1, 2], byminute=30, tz="America/New_York", app=app)
    spring = ticks(plan, datetime(2024, 3, 10, 4, tzinfo=UTC), datetime(2024, 3, 11, 4, tzinfo=UTC))
    autumn = ticks(plan, datetime(2024, 11, 3, 4, tzinfo=UTC), datetime(2024, 11, 4, 4, tzinfo=UTC))
    assert [tick.isoformat()[11:16] for tick in spring] == ["06:30", "07:30"]  # 01:30 EST; 02:30 is 03:30 EDT
    assert [tick.isoformat()[11:16] for tick in autumn] == ["05:30", "07:30"]  # the first 01:30; 02:30 EST


def test_a_day_that_was_left_out() -> None:
    """Samoa went from 29 to 31 December 2011: what names the 30th runs a day later, what runs daily runs each day."""
    start, end = datetime(2011, 12, 29, 12, tzinfo=UTC), datetime(2012, 1, 1, 12, tzinfo=UTC)
    tz = ZoneInfo("Pacific/Apia")
    daily = [f"{tick.astimezone(tz):%d %H:%M}" for tick in ticks(make("Pacific/Apia", "0 9 * * *"), start, end)]
    assert daily == ["29 09:00", "31 09:00", "01 09:00"]
    named = [f"{tick.astimezone(tz):%d %H:%M}" for tick in ticks(make("Pacific/Apia", "0 9 30 12 *"), start, end)]
    assert named == ["31 09:00"]


def test_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone that is only known by the C library gives the same."""
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for text in ("30 2 * * *", "30 1 * * *", "*/30 * * * *"):
            here, there = make("UTC", text), make("America/New_York", text)
            here.tz = LocalTimezone()
            for change in changes("America/New_York")[:6]:
                start, end = change - 30 * HOUR, change + 30 * HOUR
                assert ticks(here, start, end) == ticks(there, start, end), (text, change)
    finally:
        monkeypatch.undo()
        time.tzset()
