"""Dates, time zones, and how long things take."""

from __future__ import annotations

import os
import re
import sys
import time as _time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from celery.utils.deferred import deferred
from celery.utils.iso8601 import parse_iso8601
from celery.utils.text import pluralize

if TYPE_CHECKING:
    import calendar
    import random
    import zoneinfo
else:
    random = deferred("random")
    zoneinfo = deferred("zoneinfo")
    calendar = deferred("calendar")

C_REMDEBUG = os.environ.get("C_REMDEBUG")
DAYNAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}
MONTHNAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
YEARMONTHS = {name: number for number, name in enumerate(MONTHNAMES, 1)}
RATE_MODIFIER_MAP: dict[str, Callable[[float], float]] = {
    "s": lambda n: n,
    "m": lambda n: n / 60.0,
    "h": lambda n: n / 3600.0,
}
_RATE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:/\s*([smh]))?\s*\Z")
TIME_UNITS: tuple[tuple[str, float, Callable[[float], str]], ...] = (
    ("day", 86400.0, lambda n: format(n, ".2f")),
    ("hour", 3600.0, lambda n: format(n, ".2f")),
    ("minute", 60.0, lambda n: format(n, ".2f")),
    ("second", 1.0, lambda n: format(n, ".2f")),
)
ZERO = timedelta(0)


class LocalTimezone(tzinfo):
    """The time zone this machine is set to, by the rules of the C library (so also `TZ=EST5EDT`)."""

    def _moment(self, dt: datetime) -> _time.struct_time:
        # mktime reads a wall-clock time; `fold` picks between the two readings of an hour that happens twice.
        wall = (dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, 0, 0, 0 if dt.fold else -1)
        try:
            return _time.localtime(_time.mktime(wall))
        except (OverflowError, ValueError):
            return _time.localtime(0)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(seconds=self._moment(dt).tm_gmtoff if dt else -_time.timezone)

    def dst(self, dt: datetime | None) -> timedelta:
        if dt is None or self._moment(dt).tm_isdst <= 0:
            return ZERO
        return timedelta(seconds=_time.timezone - _time.altzone)

    def tzname(self, dt: datetime | None) -> str:
        return self._moment(dt).tm_zone if dt else _time.tzname[0]

    def fromutc(self, dt: datetime) -> datetime:
        moment = (dt.replace(tzinfo=UTC)).timestamp()
        local = _time.localtime(moment)
        shifted = dt + timedelta(seconds=local.tm_gmtoff)
        earlier = _time.localtime(moment - 3600)
        repeated = earlier.tm_gmtoff > local.tm_gmtoff and shifted.hour == earlier.tm_hour
        return shifted.replace(fold=1 if repeated else 0)

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{utcoffset() * -1:+03.0f}>"


class _Zone:
    """The zones that matter here, and conversions between them."""

    @cached_property
    def local(self) -> tzinfo:
        return LocalTimezone()

    @cached_property
    def utc(self) -> tzinfo:
        return zoneinfo.ZoneInfo("UTC")

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """The zone of that name; raises `zoneinfo.ZoneInfoNotFoundError` when there is none."""
        if not isinstance(zone, str):
            return zone
        try:
            return zoneinfo.ZoneInfo(zone)
        except ValueError as exc:
            raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {zone}") from exc

    def tz_or_local(self, tzinfo: str | tzinfo | None = None) -> tzinfo:
        """The zone given, or this machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(self, dt: datetime, local: tzinfo | None = None, orig: tzinfo | None = None) -> datetime:
        """*dt* in the zone *local*, or this machine's; a naive one is in *orig*, or UTC."""
        if is_naive(dt):
            dt = make_aware(dt, orig or self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """An aware time in this machine's zone."""
        return localize(dt, self.local)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """A time (naive: of this machine) in this machine's zone."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)


timezone = _Zone()


def maybe_timedelta(delta: Any) -> Any:
    """Seconds as a timedelta; anything else as it is."""
    return timedelta(seconds=delta) if isinstance(delta, int | float) else delta


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """*dt* rounded down to the largest unit in *delta*: days, hours, minutes or seconds."""
    seconds = max(delta.total_seconds(), 0)
    fields: tuple[str, ...] = ("hour", "minute", "second", "microsecond")
    for skip, unit in enumerate((86400, 3600, 60)):
        if seconds / unit >= 1:
            return dt.replace(**dict.fromkeys(fields[skip:], 0))  # type: ignore[arg-type]
    return dt


def remaining(
    start: datetime,
    ends_in: timedelta | ffwd,
    now: datetime | None = None,
    relative: bool = False,
) -> timedelta:
    """Time from *now* until `start + ends_in`; negative when that has passed.

    The end is found on the wall clock of *start*'s zone, the difference on the UTC line: across a change of daylight
    saving it is the time that really passes. *relative*: the end is rounded down to the resolution of *ends_in*.
    """
    now = now or datetime.now(UTC if start.tzinfo else None)
    end = start + ends_in
    if relative and isinstance(ends_in, timedelta):
        end = delta_resolution(end, ends_in).replace(microsecond=0)
    left = subtract_datetimes(end, now)
    if C_REMDEBUG:
        sys.stderr.write(f"rem: NOW:{now!r} START:{start!r} ENDS_IN:{ends_in!r} END:{end} REM:{left}\n")
    return left


def rate(r: str | float | None) -> float:
    """Events per second of `"100/m"`, `"2/h"`, `"5"` or a number; 0 for nothing, which means no limit."""
    if not r:
        return 0
    if not isinstance(r, str):
        return r
    match = _RATE.match(r)
    if match is None:
        raise ValueError(f"{r!r} is not a rate; write a number per second, minute or hour, such as '10/s' or '100/m'.")
    return RATE_MODIFIER_MAP[match[2] or "s"](float(match[1]))


def weekday(name: str) -> int:
    """Number of a day by its name or its first three letters: Sunday is 0."""
    return WEEKDAYS[name[:3].lower()]


def yearmonth(name: str) -> int:
    """Number of a month by its name or its first three letters: January is 1."""
    return YEARMONTHS[name[:3].lower()]


def humanize_seconds(secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False) -> str:
    """`90` as `1.50 minutes`; *now* when it is less than a second."""
    secs = float(format(float(secs), ".2f"))
    for unit, divider, formatter in TIME_UNITS:
        if secs >= divider:
            count = secs / divider
            return f"{prefix}{sep}{formatter(count)} {pluralize(count, unit)}"
    if microseconds and secs > 0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """A time from ISO 8601 text; a time or None as it is. Raises ValueError for other text."""
    if not dt:
        return None
    return dt if isinstance(dt, datetime) else parse_iso8601(dt)


def is_naive(dt: datetime) -> bool:
    """Whether *dt* says nothing of its zone."""
    return dt.tzinfo is None or dt.utcoffset() is None


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The same reading of the clock, in the zone *tz*."""
    return dt.replace(tzinfo=tz)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """The same moment in the zone *tz*; a naive time is taken to be in it."""
    return make_aware(dt, tz) if is_naive(dt) else dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """The same moment in UTC; a naive time is taken to be in it."""
    return localize(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: tzinfo | None = None, naive_as_utc: bool = True) -> datetime:
    """An aware time as it is; a naive one read as UTC (or, without *naive_as_utc*, as of *tz*) and given in *tz*."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
        return dt if tz is None else localize(dt, tz)
    return make_aware(dt, tz or timezone.utc)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """The time that really passes between two moments, also across a change of daylight saving."""
    if end.tzinfo is None or start.tzinfo is None:
        return maybe_make_aware(end) - maybe_make_aware(start) if end.tzinfo or start.tzinfo else end - start
    return end.astimezone(UTC) - start.astimezone(UTC)


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """*dt* moved by real seconds, given in its own zone."""
    if dt.tzinfo is None:
        return dt + timedelta(seconds=seconds)
    return (dt.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(dt.tzinfo)


class ffwd:  # noqa: N801 - the public name
    """A wall-clock time to move forward to: fields replace those of a date; `weeks`, `weekday` (0: Monday) move it."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year, self.month, self.weeks, self.weekday = year, month, weeks, weekday
        self.day, self.hour, self.minute, self.second, self.microsecond = day, hour, minute, second, microsecond
        self.days = weeks * 7

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None} | extra

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        fields = self._fields()
        if not isinstance(other, datetime):
            fields = {name: value for name, value in fields.items() if name in {"year", "month", "day"}}
        last = calendar.monthrange(fields.get("year", other.year), fields.get("month", other.month))[1]
        fields["day"] = min(fields.get("day", other.day), last)
        result = other.replace(**fields) + timedelta(days=self.days)
        if self.weekday is not None:
            result += timedelta(days=(self.weekday - result.weekday()) % 7)
        return result

    __add__ = __radd__

    def __rsub__(self, other: Any) -> Any:
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ffwd) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # its fields can be set

    def __repr__(self) -> str:
        fields = self._fields(weeks=self.weeks, weekday=self.weekday)
        return f"ffwd({', '.join(f'{name}={value!r}' for name, value in fields.items() if value is not None)})"


def utcoffset(
    time: ModuleType = _time,
    localtime: Callable[..., _time.struct_time] = _time.localtime,
) -> float:
    """Hours this machine is *behind* UTC (west is positive), as events carry it."""
    seconds: int = time.altzone if localtime().tm_isdst else time.timezone
    return seconds / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[..., float] = utcoffset) -> float:
    """The timestamp of a machine *offset* hours behind UTC, as this machine would have written it."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(factor: float, retries: int, maximum: float, full_jitter: bool = False) -> int:
    """Whole seconds before a retry: `factor * 2 ** retries`, at most *maximum*; with *full_jitter* any up to it."""
    # 2 ** retries is exact however large; beyond 2 ** 64 seconds nothing waits, and float factors would overflow.
    countdown = max(0, int(min(maximum, factor * 2 ** min(retries, 64))))
    return random.randrange(countdown + 1) if full_jitter else countdown


__all__ = [
    "DAYNAMES",
    "MONTHNAMES",
    "RATE_MODIFIER_MAP",
    "TIME_UNITS",
    "WEEKDAYS",
    "YEARMONTHS",
    "ZERO",
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
    "yearmonth",
]
