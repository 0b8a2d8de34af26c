"""Schedules: what they mean, how they compare, what they say when they cannot be."""

from __future__ import annotations

import itertools
import pickle
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import ephem
import pytest
from cronsim import CronSim
from dateutil import rrule as dateutil_rrule

from celery import Celery, schedules
from celery.exceptions import ImproperlyConfigured
from celery.schedules import (
    NEVER,
    BaseSchedule,
    ParseException,
    called,
    clocked,
    crontab,
    crontab_parser,
    maybe_schedule,
    rrule,
    schedstate,
    schedule,
    solar,
)

NOW = datetime(2024, 3, 10, 12, 0, 30, tzinfo=UTC)
PARIS = (48.85, 2.35)


@pytest.fixture
def app() -> Celery:
    return Celery("schedules", broker="memory://schedules", set_as_current=False)


def walk(plan: BaseSchedule, start: datetime) -> Iterator[datetime]:
    tick: datetime | None = start
    while tick is not None:
        tick = plan.next_tick(tick)
        if tick is not None:
            yield tick


def first(plan: BaseSchedule, start: datetime, count: int = 1) -> list[str]:
    return [tick.isoformat() for tick in itertools.islice(walk(plan, start), count)]


class TestIntervals:
    @pytest.mark.parametrize(
        ("ago", "state"),
        [(29, (False, 1)), (30, (True, 30)), (95, (True, 30)), (-95, (False, 125))],
    )
    def test_due_when_the_time_has_passed(self, app: Celery, ago: float, state: tuple[bool, float]) -> None:
        plan = schedule(30, nowfun=lambda: NOW, app=app)
        assert plan.is_due(NOW - timedelta(seconds=ago)) == schedstate(*state)

    def test_relative_ones_are_due_at_whole_units(self, app: Celery) -> None:
        plan = schedule(timedelta(minutes=5), relative=True, app=app)
        assert first(plan, NOW, 2) == ["2024-03-10T12:05:00+00:00", "2024-03-10T12:10:00+00:00"]
        daily = schedule(timedelta(days=1), relative=True, app=app)
        daily.tz = ZoneInfo("America/New_York")
        assert first(daily, NOW, 2) == ["2024-03-11T00:00:00-04:00", "2024-03-12T00:00:00-04:00"]

    def test_intervals_are_as_long_when_the_clock_is_changed(self, app: Celery) -> None:
        app.conf.timezone = "America/New_York"
        plan = schedule(timedelta(minutes=40), app=app)
        start = datetime(2024, 11, 3, 0, 30, tzinfo=app.timezone)
        ticks = [start, *itertools.islice(walk(plan, start), 6)]
        assert {b.astimezone(UTC) - a.astimezone(UTC) for a, b in itertools.pairwise(ticks)} == {timedelta(minutes=40)}

    def test_what_they_look_like_and_equal(self) -> None:
        assert repr(schedule(30)) == "<freq: 30.00 seconds>"
        assert repr(schedule(timedelta(hours=1))) == "<freq: 1.00 hour>"
        assert schedule(30) == schedule(timedelta(seconds=30)) == timedelta(seconds=30)
        assert schedule(30) != 30
        assert (schedule(30).seconds, schedule(30).human_seconds) == (30.0, "30.00 seconds")
        again = pickle.loads(pickle.dumps(schedule(30, relative=True)))
        assert (again, again.relative) == (schedule(30), True)

    @pytest.mark.parametrize("wrong", ["x", None, True, [3]])
    def test_what_is_no_interval(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="given in seconds or as a timedelta, not as"):
            schedule(wrong)

    def test_an_interval_of_nothing_would_never_end(self, app: Celery) -> None:
        with pytest.raises(ValueError, match="would never end: give more than 0"):
            schedule(0, app=app).is_due(NOW)


class TestFields:
    @pytest.mark.parametrize(
        ("size", "spec", "numbers"),
        [
            ((60,), "*/15", {0, 15, 30, 45}), ((60,), "*/70", {0}), ((60,), "1-10/3,*/25", {0, 1, 4, 7, 10, 25, 50}),
            ((60,), "50-10/5", {50, 55, 0, 5, 10}), ((31, 1), "*/10", {1, 11, 21, 31}),
            ((31, 1), "2-30/9", {2, 11, 20, 29}),
            ((7,), "mon-fri", {1, 2, 3, 4, 5}), ((7,), "fri-mon", {5, 6, 0, 1}), ((7,), "sun,Wednesday", {0, 3}),
            ((12, 1), "nov-feb", {11, 12, 1, 2}), ((12, 1), "jan-jun/2", {1, 3, 5}), ((24,), "22-2", {22, 23, 0, 1, 2}),
            ((24,), "22-22", {22}), ((24,), " 1 , 2 ", {1, 2}), ((24,), "08", {8}),
        ],
    )  # fmt: skip
    def test_text_to_numbers(self, size: tuple[int, ...], spec: str, numbers: set[int]) -> None:
        assert crontab_parser(*size).parse(spec) == numbers

    @pytest.mark.parametrize(
        ("spec", "error", "words"),
        [
            ("", ParseException, "empty part"), ("1,,2", ParseException, "empty part"),
            ("*/", ParseException, "no number after"), ("*/-1", ParseException, "no part of a crontab"),
            ("1-2-3", ParseException, "no part"), ("-5", ParseException, "no part"),
            ("1/2", ValueError, "a step but no range"),
            ("*/0", ValueError, "1 or more"), ("*/x", ValueError, "1 or more"),
            ("60", ValueError, "from 0 to 59, not 60"), ("L", ValueError, "neither a number nor the name"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read(self, spec: str, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            crontab_parser(60).parse(spec)

    @pytest.mark.parametrize("wrong", [1.5, None, object(), ["1", "2"], [1, None]])
    def test_what_is_no_field(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="is a number, a text"):
            crontab(minute=wrong)

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("minute", 60, "0 to 59, not 60"), ("hour", [1, 24], "0 to 23, not 24"), ("day_of_month", 0, "1 to 31"),
            ("day_of_week", 7, r"0 to 6, not 7. \(Sunday is 0\)"), ("day_of_week", "7", r"\(Sunday is 0\)"),
            ("minute", [], "no number"),
        ],
    )  # fmt: skip
    def test_numbers_out_of_range(self, field: str, value: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            crontab(**{field: value})

    @pytest.mark.parametrize(("day", "month"), [(31, 2), ("30,31", "feb"), ([31], [4, 6])])
    def test_days_that_never_come(self, day: Any, month: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(f"there is no day {day!r} in month {month!r}")):
            crontab(day_of_month=day, month_of_year=month)


class TestCrontab:
    def test_from_string(self) -> None:
        assert crontab.from_string("0 3 1 jan mon") == crontab(0, 3, "mon", 1, 1)
        assert crontab.from_string(" @daily ") == crontab(0, 0)
        assert crontab.from_string("0 9 * * *", tz="Asia/Tokyo").tz == ZoneInfo("Asia/Tokyo")
        for text in ("0 0 1 jan", "0 0 1 jan * *", "@never", ""):
            with pytest.raises(ValueError, match="fields: write minute, hour, day of month"):
                crontab.from_string(text)

    def test_what_they_look_like_and_equal(self) -> None:
        assert (
            repr(crontab(minute="*/15", hour=[1, 2], day_of_week="mon"))
            == "<crontab: */15 [1, 2] * * mon (m/h/dM/MY/d)>"
        )
        assert crontab(minute="1") == crontab(minute=1) == crontab(minute=[1], tz=None)
        assert crontab(minute=1) != crontab(minute=2)
        assert crontab(minute=1) != crontab(minute=1, tz="Asia/Tokyo")
        assert crontab(minute=1) != 1
        assert crontab(hour="sunset") != crontab()

    def test_pickles_as_celery_writes_them(self) -> None:
        plan = crontab("*/5", "1-3", "mon", tz="Asia/Tokyo")
        again = pickle.loads(pickle.dumps(plan))
        assert (again, again.tz, again._orig_minute) == (plan, plan.tz, "*/5")
        assert plan.__reduce__()[:2] == (crontab, ("*/5", "1-3", "mon", "*", "*"))
        assert b"celery.schedules\x94\x8c\x07crontab" in pickle.dumps(plan)

    def test_an_iterator_is_read_once(self) -> None:
        plan = crontab(minute=iter([1, 2]))
        assert plan.minute == {1, 2} == pickle.loads(pickle.dumps(plan)).minute

    @pytest.mark.parametrize(
        ("ago", "fields", "state"),
        [
            (29, {}, (False, 30)), (31, {}, (True, 30)), (31 * 3600, {}, (True, 30)),
            (30, {"minute": 0, "hour": 12}, (False, 86370)), (31, {"minute": 0, "hour": 12}, (True, 86370)),
            (31 * 3600, {"minute": 0, "hour": 13}, (True, 3570)),
        ],
    )  # fmt: skip
    def test_due(self, app: Celery, ago: float, fields: dict[str, Any], state: tuple[bool, float]) -> None:
        plan = crontab(**fields, nowfun=lambda: NOW, app=app)
        assert plan.is_due(NOW - timedelta(seconds=ago)) == state

    @pytest.mark.parametrize(("hour", "due"), [(12, True), (11, False)])
    def test_a_starting_deadline(self, app: Celery, hour: int, due: bool) -> None:
        app.conf.beat_cron_starting_deadline = 60
        plan = crontab(minute=0, hour=hour, nowfun=lambda: NOW, app=app)
        assert plan.is_due(NOW - timedelta(hours=31)).is_due is due

    def test_remaining_delta_leads_to_the_next_run(self, app: Celery) -> None:
        plan = crontab(minute=0, hour=12, nowfun=lambda: NOW, app=app)
        last, delta, now = plan.remaining_delta(NOW)
        assert (last + delta, now) == (datetime(2024, 3, 11, 12, tzinfo=UTC), NOW)

    def test_naive_times_are_utc(self, app: Celery) -> None:
        plan = crontab(nowfun=lambda: NOW.replace(tzinfo=None), app=app)
        assert plan.is_due(NOW.replace(tzinfo=None)) == (False, 30)

    @pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
    def test_what_never_ran_is_due(self, app: Celery, zone: str) -> None:
        app.conf.timezone = zone
        never = datetime.min.replace(tzinfo=ZoneInfo(zone))
        for plan in (crontab(0, 4), schedule(30), schedule(timedelta(days=1), relative=True), solar("sunset", *PARIS)):
            plan.app = app
            assert plan.is_due(never).is_due
            assert plan.is_due(datetime.min).is_due  # noqa: DTZ901

    def test_leap_days_and_ends_of_months(self, app: Celery) -> None:
        start = datetime(2096, 2, 28, tzinfo=UTC)
        assert first(crontab(0, 0, day_of_month=29, month_of_year=2, app=app), start, 2) == [
            "2096-02-29T00:00:00+00:00", "2104-02-29T00:00:00+00:00",
        ]  # fmt: skip
        assert first(crontab(0, 0, day_of_month=31, app=app), NOW, 3) == [
            "2024-03-31T00:00:00+00:00", "2024-05-31T00:00:00+00:00", "2024-07-31T00:00:00+00:00",
        ]  # fmt: skip
        assert first(crontab(0, 0, "mon", 29, 2, app=app), NOW) == ["2044-02-29T00:00:00+00:00"]
        spring = crontab(0, 0, day_of_month="29-31", month_of_year="2-4", app=app)
        assert first(spring, datetime(2023, 2, 1, tzinfo=UTC), 2) == [
            "2023-03-29T00:00:00+00:00", "2023-03-30T00:00:00+00:00",
        ]  # fmt: skip

    def test_both_kinds_of_day_must_fit(self, app: Celery) -> None:
        assert first(crontab(0, 0, "mon", "1-7", app=app), NOW, 2) == [
            "2024-04-01T00:00:00+00:00",
            "2024-05-06T00:00:00+00:00",
        ]

    def test_against_a_library(self, app: Celery) -> None:
        """Random crontabs beside cronsim; where both kinds of day are given, which cron takes for either, dateutil."""
        dice = random.Random(6)
        for _ in range(120):
            minute, hour = dice.choice(["*", "*/7", "0", "3-50/9", "59"]), dice.choice(["*", "*/5", "0", "9-17", "23"])
            month, day = dice.choice(["*", "2", "*/3", "jan,dec"]), dice.choice(["*", "31", "1-7", "*/10", "28-31"])
            week = dice.choice(["*", "mon", "1-5", "sat,sun"])
            if (month, day) == ("2", "31"):
                continue
            start = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(16 * 365 * 86400))
            plan = crontab(minute, hour, week, day, month, app=app)
            ours = list(itertools.islice(walk(plan, start), 12))
            if "*" in {day, week}:
                theirs = list(itertools.islice(CronSim(f"{minute} {hour} {day} {month} {week}", start), 12))
            else:
                rule = dateutil_rrule.rrule(
                    dateutil_rrule.DAILY, dtstart=start.replace(second=0), bysecond=0, byminute=sorted(plan.minute),
                    byhour=sorted(plan.hour), bymonthday=sorted(plan.day_of_month), bymonth=sorted(plan.month_of_year),
                    byweekday=[(number - 1) % 7 for number in plan.day_of_week],
                )  # fmt: skip
                theirs = list(itertools.islice((tick for tick in rule if tick > start), 12))
            assert ours == theirs, (plan, start)


class TestSun:
    @pytest.mark.parametrize("event", sorted(solar._all_events))
    def test_against_a_library(self, app: Celery, event: str) -> None:
        """Within a minute of PyEphem's, from the equator to 60 degrees north and south."""
        for latitude, longitude in [
            (0, 0),
            PARIS,
            (-33.87, 151.2),
            (37.77, -122.4),
            (59.9, 10.7),
            (-54.8, -68.3),
            (1.3, 179.9),
        ]:
            ticks = walk(solar(event, latitude, longitude, app=app), datetime(2024, 1, 1, tzinfo=UTC))
            for tick in itertools.islice(ticks, 0, 380, 19):
                expected = _ephem(event, latitude, longitude, tick - timedelta(minutes=2))
                assert abs((tick - expected).total_seconds()) < 60, (latitude, longitude, tick, expected)

    def test_each_day_has_one(self, app: Celery) -> None:
        ticks = list(itertools.islice(walk(solar("sunset", *PARIS, app=app), NOW), 400))
        gaps = {(b - a) for a, b in itertools.pairwise(ticks)}
        assert timedelta(hours=23, minutes=55) < min(gaps) < max(gaps) < timedelta(hours=24, minutes=5)

    def test_days_without_the_event_are_passed_over(self, app: Celery) -> None:
        tromso = solar("sunset", 69.65, 18.96, app=app)
        (last,), (again,) = (
            first(tromso, datetime(2024, 5, 16, tzinfo=UTC)),
            first(tromso, datetime(2024, 5, 20, tzinfo=UTC)),
        )
        assert last.startswith("2024-05-16")
        assert again.startswith("2024-07-2")
        assert first(solar("dawn_astronomical", 90, 0, app=app), NOW) == []
        assert solar("sunset", 90, 0, nowfun=lambda: NOW, app=app).is_due(NOW) == (False, NEVER)

    def test_is_due(self, app: Celery) -> None:
        state = solar("sunset", *PARIS, nowfun=lambda: NOW, app=app).is_due(NOW - timedelta(hours=31))
        assert state.is_due
        assert 20000 < state.next < 22000

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (("dinner", 0, 0), "no solar event 'dinner': write one of dawn_astronomical, "),
            (("sunset", 91, 0), "latitude is a number of degrees from -90 to 90, not 91"),
            (("sunset", 0, "2.35"), "longitude is a number of degrees from -180 to 180, not '2.35'"),
        ],
    )
    def test_what_cannot_be(self, args: tuple[Any, ...], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            solar(*args)

    def test_equality_and_pickles(self) -> None:
        plan = solar("sunset", *PARIS)
        assert pickle.loads(pickle.dumps(plan)) == plan != solar("sunrise", *PARIS)
        assert repr(plan) == "<solar: sunset at latitude 48.85, longitude: 2.35>"

    def test_a_crontab_at_sunset(self, app: Celery) -> None:
        app.conf.beat_location = PARIS
        plain = solar("sunset", *PARIS, app=app)
        assert first(crontab(hour="sunset", app=app), NOW, 3) == first(plain, NOW, 3)
        mondays = walk(crontab(hour="sunset", day_of_week="mon", app=app), NOW)
        assert [tick.date().isoformat() for tick in itertools.islice(mondays, 3)] == [
            "2024-03-11",
            "2024-03-18",
            "2024-03-25",
        ]

    def test_its_day_is_that_of_the_zone(self, app: Celery) -> None:
        """In Auckland the sun rises on Mondays while it is Sunday in Greenwich."""
        app.conf.update(beat_location=(-36.85, 174.76), timezone="Pacific/Auckland")
        ticks = list(itertools.islice(walk(crontab(hour="sunrise", day_of_week="mon", app=app), NOW), 60))
        assert {tick.isoweekday() for tick in ticks} == {1}
        assert {(b.date() - a.date()).days for a, b in itertools.pairwise(ticks)} == {7}
        assert {tick.astimezone(UTC).isoweekday() for tick in ticks} == {7}

    def test_a_crontab_at_sunset_needs_a_place(self, app: Celery) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"needs a place: set beat_location = \(latitude, longitude\)"):
            crontab(hour="sunset", app=app).is_due(NOW)
        app.conf.beat_location = (95, 0)
        with pytest.raises(ImproperlyConfigured, match=r"not \(95, 0\): A latitude is"):
            crontab(hour="sunset", app=app).is_due(NOW)
        with pytest.raises(ValueError, match="leave the minute 30 out"):
            crontab(hour="sunset", minute=30)


def _ephem(event: str, latitude: float, longitude: float, start: datetime) -> datetime:
    place = ephem.Observer()
    place.lat, place.lon, place.elevation, place.pressure = str(latitude), str(longitude), 0, 0
    place.date = start.replace(tzinfo=None)
    below = {"civil": "-6", "nautical": "-12", "astronomical": "-18"}.get(event.partition("_")[2])
    place.horizon = below or "-0:34"
    if event == "solar_noon":
        found = place.next_transit(ephem.Sun())
    elif event.startswith("dawn") or event == "sunrise":
        found = place.next_rising(ephem.Sun(), use_center=below is not None)
    else:
        found = place.next_setting(ephem.Sun(), use_center=below is not None)
    return found.datetime().replace(tzinfo=UTC)


class TestRules:
    def test_a_rule_of_dateutil_as_it_is(self, app: Celery) -> None:
        rule = dateutil_rrule.rrule(dateutil_rrule.HOURLY, dtstart=datetime(2025, 1, 1))  # noqa: DTZ001
        plan = maybe_schedule(rule, app=app)
        assert isinstance(plan, rrule)
        assert first(plan, datetime(2026, 5, 1, 3, 4, tzinfo=UTC)) == ["2026-05-01T04:00:00+00:00"]

    @pytest.mark.parametrize(
        "freq",
        [
            "DAILY",
            "daily",
            dateutil_rrule.DAILY,
            "FREQ=DAILY;BYHOUR=9;BYMINUTE=30",
            "RRULE:FREQ=DAILY;BYHOUR=9;BYMINUTE=30;BYSECOND=0",
        ],
    )
    def test_ways_to_write_one(self, app: Celery, freq: Any) -> None:
        more = {} if "=" in str(freq) else {"byhour": 9, "byminute": 30}
        assert first(rrule(freq, app=app, **more), NOW, 2) == ["2024-03-11T09:30:00+00:00", "2024-03-12T09:30:00+00:00"]

    def test_a_zone_of_its_own(self, app: Celery) -> None:
        plan = rrule("WEEKLY", byweekday=dateutil_rrule.MO, byhour=9, byminute=0, tz="America/New_York", app=app)
        assert first(plan, NOW, 1) == ["2024-03-11T09:00:00-04:00"]
        tokyo = rrule(dateutil_rrule.DAILY, dtstart=datetime(2024, 1, 1, 9, tzinfo=ZoneInfo("Asia/Tokyo")), app=app)
        assert first(tokyo, NOW, 1) == ["2024-03-11T09:00:00+09:00"]

    def test_one_that_ends(self, app: Celery) -> None:
        plan = rrule("DAILY", count=2, dtstart=datetime(2024, 3, 10, 12, tzinfo=UTC), app=app, nowfun=lambda: NOW)
        assert first(plan, NOW - timedelta(days=1), 5) == ["2024-03-10T12:00:00+00:00", "2024-03-11T12:00:00+00:00"]
        assert plan.is_due(NOW + timedelta(days=2)) == (False, NEVER)

    def test_sets_of_rules(self, app: Celery) -> None:
        rules = dateutil_rrule.rruleset()
        rules.rrule(dateutil_rrule.rrule(dateutil_rrule.DAILY, dtstart=datetime(2024, 3, 1, 9)))  # noqa: DTZ001
        rules.exdate(datetime(2024, 3, 11, 9))  # noqa: DTZ001
        assert first(maybe_schedule(rules, app=app), NOW, 1) == ["2024-03-12T09:00:00+00:00"]

    @pytest.mark.parametrize("interval", [1, 3, 7, 50])
    @pytest.mark.parametrize("freq", [3, 4, 5, 6])
    def test_the_phase_is_kept_however_long_ago_it_began(self, app: Celery, freq: int, interval: int) -> None:
        begin = datetime(2023, 12, 29, 1, 2, 3)  # noqa: DTZ001
        count = {3: 500, 4: 5000, 5: 3000, 6: 3000}[freq]
        whole = dateutil_rrule.rrule(freq, dtstart=begin, interval=interval, count=count)
        plan = rrule(freq, dtstart=begin, interval=interval, app=app)
        for tick in list(whole)[-3:-1]:
            assert first(plan, tick.replace(tzinfo=UTC)) == [(whole.after(tick)).replace(tzinfo=UTC).isoformat()]

    def test_a_rule_that_began_long_ago_is_not_walked_from_its_beginning(self, app: Celery) -> None:
        assert first(rrule("SECONDLY", app=app), NOW) == ["2024-03-10T12:00:31+00:00"]

    def test_pickles_and_equality(self, app: Celery) -> None:
        plan = rrule("DAILY", byhour=9, tz="Asia/Tokyo", app=app)
        assert pickle.loads(pickle.dumps(plan)) == plan != rrule("DAILY", byhour=8, tz="Asia/Tokyo", app=app)

    @pytest.mark.parametrize("wrong", ["FREQ=SOMETIMES", "BYHOUR=9", "sometimes", 17])
    def test_what_is_no_rule(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"is no (recurrence rule|frequency)"):
            rrule(wrong)


class TestOthers:
    def test_one_moment(self, app: Celery) -> None:
        plan = clocked("2024-03-10T13:00:00+01:00", nowfun=lambda: NOW, app=app)
        assert plan.is_due(NOW - timedelta(minutes=2)) == (True, NEVER)
        assert plan.is_due(NOW) == (False, NEVER)
        assert pickle.loads(pickle.dumps(clocked(NOW))) == clocked(NOW)
        local = clocked(datetime(2024, 7, 1, 9), tz="Europe/Berlin", app=app)  # noqa: DTZ001
        assert first(local, NOW) == ["2024-07-01T09:00:00+02:00"]
        with pytest.raises(TypeError, match="is a datetime or one as ISO 8601, not 3"):
            clocked(3)  # type: ignore[arg-type]

    def test_a_function(self, app: Celery) -> None:
        answers = iter([timedelta(hours=1), 60])
        plan = maybe_schedule(lambda: next(answers), app=app)
        assert isinstance(plan, called)
        for _ in range(3):  # asked once for each run
            assert first(plan, NOW) == ["2024-03-10T13:00:30+00:00"]
        assert first(plan, NOW + timedelta(hours=1)) == ["2024-03-10T13:01:30+00:00"]

    @pytest.mark.parametrize("answer", ["x", None, 0, timedelta(-1)])
    def test_a_function_that_does_not_answer(self, app: Celery, answer: Any) -> None:
        with pytest.raises(ValueError, match="is to return a timedelta or a number of seconds above 0, not"):
            maybe_schedule(lambda: answer, app=app).is_due(NOW)

    def test_functions_are_pickled_by_name(self) -> None:
        assert pickle.loads(pickle.dumps(called(_hourly))) == called(_hourly)
        assert repr(called(_hourly)).endswith("test_schedules._hourly>")

    def test_maybe_schedule(self, app: Celery) -> None:
        assert maybe_schedule(30) == maybe_schedule(timedelta(seconds=30)) == schedule(30)
        assert maybe_schedule(timedelta(1), relative=True).relative
        assert maybe_schedule(None) is None
        plan = crontab()
        assert maybe_schedule(plan, app=app) is plan
        assert plan.app is app

    def test_subclasses_written_for_celery(self, app: Celery) -> None:
        class Odd(BaseSchedule):
            def remaining_estimate(self, last_run_at: datetime) -> timedelta:
                return last_run_at + timedelta(minutes=1) - self.now()

        plan = Odd(nowfun=lambda: NOW, app=app)
        assert plan.is_due(NOW - timedelta(seconds=90)) == (True, 60)
        assert plan.is_due(NOW) == (False, 60)
        with pytest.raises(NotImplementedError, match="does not say when it is due"):
            BaseSchedule(nowfun=lambda: NOW, app=app).is_due(NOW)

    def test_the_current_app_gives_the_time(self) -> None:
        app = Celery("current")
        app.conf.timezone = "Asia/Tokyo"
        assert crontab().app is app
        assert crontab().tz == ZoneInfo("Asia/Tokyo")
        assert crontab().now().tzinfo == ZoneInfo("Asia/Tokyo")

    def test_every_public_name_is_there(self) -> None:
        assert [name for name in schedules.__all__ if not hasattr(schedules, name)] == []
        assert {cls.__module__ for cls in (crontab, schedule, solar, rrule, clocked, called)} == {"celery.schedules"}


def _hourly() -> timedelta:
    return timedelta(hours=1)
