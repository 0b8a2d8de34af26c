"""Dates, zones, rates and waits."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery.utils.iso8601 import parse_iso8601
from celery.utils.time import (
    LocalTimezone,
    add_seconds_to_datetime,
    adjust_timestamp,
    delta_resolution,
    ffwd,
    get_exponential_backoff_interval,
    humanize_seconds,
    localize,
    make_aware,
    maybe_iso8601,
    maybe_make_aware,
    maybe_timedelta,
    rate,
    remaining,
    subtract_datetimes,
    timezone,
    to_utc,
    utcoffset,
    weekday,
    yearmonth,
)

PRAGUE = ZoneInfo("Europe/Prague")
NAIVE = dt.datetime(2024, 3, 1, 12)  # noqa: DTZ001 - naive on purpose
AWARE = dt.datetime(2024, 3, 1, 12, tzinfo=PRAGUE)


@pytest.fixture
def new_york() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (1, "1.00 second"), (20.5, "20.50 seconds"), (90, "1.50 minutes"), (3600, "1.00 hour"),
     (3700, "1.03 hours"), (172800, "2.00 days"), (0.5, "now"), (-5, "now")],
)  # fmt: skip
def test_humanize_seconds(seconds: float, text: str) -> None:
    assert humanize_seconds(seconds) == text


def test_humanize_seconds_with_words() -> None:
    assert humanize_seconds(90, prefix="in", sep=" ") == "in 1.50 minutes"
    assert humanize_seconds(0.5, microseconds=True) == "0.50 seconds"


@pytest.mark.parametrize(
    ("given", "per_second"),
    [("10/s", 10), ("30/m", 0.5), ("36/h", 0.01), ("3", 3), (5, 5), (None, 0), ("", 0), ("0", 0)],
)
def test_rate(given: Any, per_second: float) -> None:
    assert rate(given) == pytest.approx(per_second)


@pytest.mark.parametrize("given", ["fast", "10/d", "10/", "/s", "-1"])
def test_a_bad_rate_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        rate(given)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-08-01T12:30:00+02:00", dt.datetime(2026, 8, 1, 10, 30, tzinfo=dt.UTC)),
        ("2026-08-01T12:30:00Z", dt.datetime(2026, 8, 1, 12, 30, tzinfo=dt.UTC)),
        ("2026-08-01 12:30:00.25Z", dt.datetime(2026, 8, 1, 12, 30, 0, 250000, tzinfo=dt.UTC)),
        ("2026-8-1T12:30-0130", dt.datetime(2026, 8, 1, 14, tzinfo=dt.UTC)),
        ("2026-08", dt.datetime(2026, 8, 1)),  # noqa: DTZ001
        ("2026-08-01", dt.datetime(2026, 8, 1)),  # noqa: DTZ001
    ],
)
def test_iso8601(text: str, moment: dt.datetime) -> None:
    assert parse_iso8601(text) == moment
    assert maybe_iso8601(text) == moment
    assert maybe_iso8601(moment) is moment


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "12:30"])
def test_bad_iso8601_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_iso8601(text)


def test_conversions() -> None:
    assert to_utc(NAIVE) == dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
    assert to_utc(AWARE) == AWARE
    assert to_utc(AWARE).utcoffset() == dt.timedelta(0)
    assert make_aware(NAIVE, PRAGUE) == AWARE
    assert localize(AWARE, dt.UTC).hour == 11
    assert maybe_make_aware(AWARE) is AWARE
    assert maybe_make_aware(NAIVE, PRAGUE).hour == 13
    assert maybe_make_aware(NAIVE, PRAGUE, naive_as_utc=False) == AWARE
    assert maybe_timedelta(2.5) == dt.timedelta(seconds=2.5)
    assert maybe_timedelta(dt.timedelta(1)) == dt.timedelta(1)
    assert timezone.get_timezone("Europe/Prague") is PRAGUE
    assert timezone.tz_or_local(PRAGUE) is PRAGUE
    assert timezone.to_local(NAIVE, PRAGUE).hour == 13
    with pytest.raises(ZoneInfoNotFoundError):
        timezone.get_timezone("Nowhere/At_All")


@pytest.mark.usefixtures("new_york")
@given(st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2037, 1, 1)))  # noqa: DTZ001
def test_the_local_zone_is_the_machines(naive: dt.datetime) -> None:
    zone, local = ZoneInfo("America/New_York"), LocalTimezone()
    moment = naive.replace(tzinfo=dt.UTC, microsecond=0)
    there, here = moment.astimezone(zone), moment.astimezone(local)
    assert here.replace(tzinfo=None) == there.replace(tzinfo=None)
    assert here.utcoffset() == there.utcoffset()
    assert here.tzname() == there.tzname()
    assert here.dst() == there.dst()
    assert here.fold == there.fold


@pytest.mark.usefixtures("new_york")
def test_offsets_of_events() -> None:
    offset = utcoffset()
    assert offset in {4.0, 5.0}
    assert adjust_timestamp(1000.0, offset + 1) == -2600.0


def test_remaining_counts_the_hours_that_pass() -> None:
    # Given a day that has 23 hours
    start = dt.datetime(2024, 3, 30, 12, tzinfo=PRAGUE)
    # Then a day from it on the clock is 23 hours away
    assert remaining(start, dt.timedelta(days=1), now=start) == dt.timedelta(hours=23)
    assert subtract_datetimes(start + dt.timedelta(days=1), start) == dt.timedelta(hours=23)
    assert add_seconds_to_datetime(start, 86400).hour == 13
    assert remaining(AWARE, dt.timedelta(hours=1), now=AWARE + dt.timedelta(hours=2)) == dt.timedelta(hours=-1)


def test_relative_ends_are_rounded_down() -> None:
    start = AWARE.replace(minute=34, second=56)
    assert remaining(start, dt.timedelta(hours=1), now=start, relative=True) == dt.timedelta(minutes=25, seconds=4)
    assert delta_resolution(start, dt.timedelta(days=1)) == start.replace(hour=0, minute=0, second=0)
    assert delta_resolution(start, dt.timedelta(seconds=5)) == start


@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        (ffwd(hour=3, minute=5), dt.datetime(2024, 1, 31, 3, 5, tzinfo=dt.UTC)),
        (ffwd(weeks=1), dt.datetime(2024, 2, 7, 12, tzinfo=dt.UTC)),
        (ffwd(month=2), dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)),
        (ffwd(weekday=2), dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)),
        (ffwd(weekday=0, hour=0), dt.datetime(2024, 2, 5, tzinfo=dt.UTC)),
        (ffwd(year=2025, day=1), dt.datetime(2025, 1, 1, 12, tzinfo=dt.UTC)),
    ],
)
def test_ffwd(jump: ffwd, expected: dt.datetime) -> None:
    start = dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
    assert start + jump == expected
    assert start + eval(repr(jump)) == expected


@given(st.integers(0, 200), st.integers(0, 10**6), st.floats(0, 10**6))
def test_backoff_grows_to_its_maximum(retries: int, maximum: int, factor: float) -> None:
    wait = get_exponential_backoff_interval(factor, retries, maximum)
    assert 0 <= wait <= maximum
    assert wait <= get_exponential_backoff_interval(factor, retries + 1, maximum)
    assert 0 <= get_exponential_backoff_interval(factor, retries, maximum, full_jitter=True) <= wait


def test_backoff_doubles() -> None:
    assert [get_exponential_backoff_interval(2, n, 600) for n in range(4)] == [2, 4, 8, 16]


def test_names_of_days_and_months() -> None:
    assert [weekday(name) for name in ("sunday", "Mon", "SAT")] == [0, 1, 6]
    assert yearmonth("December") == 12
