"""`crontab`: minutes, hours and days by the clock of a zone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, ClassVar

from celery.exceptions import ImproperlyConfigured
from celery.schedules.base import BaseSchedule, schedstate
from celery.schedules.fields import CRON_DAYS_IN_MONTH, CRON_INVALID_DATE, Cronspec, cronfield, expand
from celery.schedules.solar import check_place
from celery.schedules.sun import EVENTS, event_near
from celery.schedules.wallclock import from_moment, next_moment, to_moment
from celery.utils.time import ffwd as _ffwd
from celery.utils.time import timezone

CRON_REPR = (
    "<crontab: {0._orig_minute} {0._orig_hour} {0._orig_day_of_month} {0._orig_month_of_year} {0._orig_day_of_week}"
    " (m/h/dM/MY/d)>"
)
YEARS = 45
"""A 29 February on a given day of the week comes after at most 40 years."""
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class crontab(BaseSchedule):  # noqa: N801 - the public name
    """Whenever minute, hour, day of the week, day of the month and month all fit.

    Each field is a number, text (`*`, `*/15`, `1-5`, `mon,wed`, `8-18/2`) or an iterable of numbers; Sunday is 0.
    *tz*: the zone whose clock is meant, by name or as tzinfo; the app's by default.  *hour* may be a solar event such
    as `"sunset"`: once on each day that fits, at the place that the setting `beat_location` names.

    When the clock is changed (`celery.schedules.wallclock` has the rule): a schedule for particular hours runs once
    for each reading of the clock, also for those that are skipped; one for all hours runs in both passes of an hour
    that is shown twice.
    """

    _FIELDS: ClassVar[tuple[str, ...]] = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        minute, hour, day_of_week, day_of_month, month_of_year = (
            list(field) if isinstance(field, Iterator) else field
            for field in (minute, hour, day_of_week, day_of_month, month_of_year)
        )
        self._orig_minute = cronfield(minute)
        self._orig_hour = cronfield(hour)
        self._orig_day_of_week = cronfield(day_of_week)
        self._orig_day_of_month = cronfield(day_of_month)
        self._orig_month_of_year = cronfield(month_of_year)
        self._orig_kwargs = dict(kwargs)
        tz = kwargs.pop("tz", None)
        self.solar_event: str | None = hour if isinstance(hour, str) and hour in EVENTS else None
        if self.solar_event and minute not in ("*", 0, "0"):
            raise ValueError(f"crontab(hour={hour!r}) runs at that event: leave the minute {minute!r} out.")
        self.minute = expand(minute, 60)
        self.hour = set(range(24)) if self.solar_event else expand(hour, 24)
        self.day_of_week = expand(day_of_week, 7)
        self.day_of_month = expand(day_of_month, 31, 1)
        self.month_of_year = expand(month_of_year, 12, 1)
        if not any(min(self.day_of_month, default=32) <= CRON_DAYS_IN_MONTH[month] for month in self.month_of_year):
            raise ValueError(CRON_INVALID_DATE.format(day_of_month=day_of_month, month_of_year=month_of_year))
        super().__init__(**kwargs)
        if tz is not None:
            self.tz = timezone.get_timezone(tz)

    @classmethod
    def from_string(cls, crontab: str, **kwargs: Any) -> crontab:
        """`minute hour day_of_month month_of_year day_of_week`, as in crontab(5), or `@daily` and its like."""
        fields = MACROS.get(crontab.strip(), crontab).split()
        if len(fields) != 5:
            raise ValueError(
                f"{crontab!r} has {len(fields)} fields: write minute, hour, day of month, month and day of week, as in"
                f" '30 8 * * mon-fri'."
            )
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, **kwargs)

    _expand_cronspec = staticmethod(expand)

    # -- when ------------------------------------------------------------------------------------------------------

    def next_tick(self, after: datetime) -> datetime | None:
        moment = to_moment(self.maybe_make_aware(after))
        if self.solar_event:
            return self._in_zone(self._next_event(moment))
        found = next_moment(moment, self.tz, self.next_reading, repeats=len(self.hour) == 24)
        return self._in_zone(found)

    def next_reading(self, reading: datetime) -> datetime | None:
        """The first fitting reading of the clock after *reading* (both naive); None for days that never come."""
        start = reading.replace(second=0, microsecond=0) + timedelta(minutes=1)
        hours, minutes = sorted(self.hour), sorted(self.minute)
        for day in self._days(start):
            if day.date() > start.date():
                return day.replace(hour=hours[0], minute=minutes[0])
            at = bisect_left(hours, start.hour)
            if at < len(hours) and hours[at] == start.hour:
                later = bisect_left(minutes, start.minute)
                if later < len(minutes):
                    return day.replace(hour=start.hour, minute=minutes[later])
                at += 1
            if at < len(hours):
                return day.replace(hour=hours[at], minute=minutes[0])
        return None

    def _days(self, start: datetime) -> Iterator[datetime]:
        """The fitting days from that of *start* on, at midnight."""
        days = sorted(self.day_of_month)
        for year in range(start.year, min(start.year + YEARS, 9999)):
            for month in sorted(self.month_of_year):
                if (year, month) < (start.year, start.month):
                    continue
                last = _days_in(year, month)
                first = start.day if (year, month) == (start.year, start.month) else 1
                for number in days:
                    if first <= number <= last:
                        day = datetime(year, month, number)  # noqa: DTZ001 - what a clock reads
                        if day.isoweekday() % 7 in self.day_of_week:
                            yield day

    def _next_event(self, after: datetime) -> datetime | None:
        """The event on the first day that fits."""
        latitude, longitude = self._place()
        assert self.solar_event is not None
        reading = from_moment(after, self.tz).replace(tzinfo=None)
        for day in islice(self._days(reading - timedelta(days=1)), 367):
            # The day is that of the zone; the sun's own may begin up to a day before or after it.
            for aside in (-1, 0, 1):
                midday = day + timedelta(days=aside, hours=12)
                found = event_near(self.solar_event, latitude, longitude, midday)
                if found is not None and found > after and from_moment(found, self.tz).date() == day.date():
                    return found
        return None

    def _place(self) -> tuple[float, float]:
        place = self.app.conf.beat_location
        if not place:
            raise ImproperlyConfigured(
                f"crontab(hour={self.solar_event!r}) needs a place: set beat_location = (latitude, longitude), or write"
                f" solar({self.solar_event!r}, latitude, longitude) from celery.schedules."
            )
        try:
            latitude, longitude = place
            return check_place(latitude, longitude)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"beat_location is (latitude, longitude), not {place!r}: {error}") from error

    def remaining_delta(
        self, last_run_at: datetime, tz: tzinfo | None = None, ffwd: Any = _ffwd
    ) -> tuple[datetime, Any, datetime]:
        """(*last_run_at* in the zone, what leads from it to the next run, now in the zone)."""
        zone = tz or self.tz
        last = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        tick = self.next_tick(last)
        if tick is None:
            return last, ffwd(year=9999), now
        there = tick.astimezone(zone)
        fields = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        return last, ffwd(**{name: getattr(there, name) for name in fields}), now

    def is_due(self, last_run_at: datetime) -> schedstate:
        """As `BaseSchedule.is_due`; runs missed by more than `beat_cron_starting_deadline` seconds do not count."""
        deadline = self.app.conf.beat_cron_starting_deadline
        if deadline is not None:
            now = self.maybe_make_aware(self.now())
            last_run_at = max(self.maybe_make_aware(last_run_at), now - timedelta(seconds=deadline))
        return super().is_due(last_run_at)

    # -- Python ------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return False
        same = all(getattr(self, field) == getattr(other, field) for field in self._FIELDS)
        return (
            same
            and self._own_zone() == other._own_zone()
            and self.solar_event == other.solar_event
            and (super().__eq__(other))
        )

    __hash__ = None

    def _own_zone(self) -> str | None:
        """The zone that it was given, unless that is the app's."""
        tz = self._orig_kwargs.get("tz")
        return None if tz is None else str(tz)

    def __repr__(self) -> str:
        return CRON_REPR.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute, self._orig_hour, self._orig_day_of_week, self._orig_day_of_month,
            self._orig_month_of_year,
        )  # fmt: skip
        return type(self), fields, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # What was made of the fields alone is made again, with the zone and the rest.
        crontab.__init__(
            self, self._orig_minute, self._orig_hour, self._orig_day_of_week, self._orig_day_of_month,
            self._orig_month_of_year, **state,
        )  # fmt: skip


def _days_in(year: int, month: int) -> int:
    if month == 2 and (year % 4 or (year % 100 == 0 and year % 400)):
        return 28
    return CRON_DAYS_IN_MONTH[month]
