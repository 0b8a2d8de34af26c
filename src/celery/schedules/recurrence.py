"""Recurrence rules of iCalendar (RFC 5545), by python-dateutil."""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from celery.schedules.base import BaseSchedule
from celery.schedules.wallclock import next_moment, to_moment
from celery.utils.deferred import deferred
from celery.utils.time import timezone

if TYPE_CHECKING:
    from dateutil import rrule as _dateutil
else:
    _dateutil = deferred("dateutil.rrule")

BEGIN = datetime(1970, 1, 1)  # noqa: DTZ001 - what a clock reads
"""Where rules begin that do not say: the same in every process."""
FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY")
"""By dateutil's numbers."""
STEPS = {3: timedelta(days=1), 4: timedelta(hours=1), 5: timedelta(minutes=1), 6: timedelta(seconds=1)}
"""How long one step of a frequency is, where all are equally long."""


def is_rule(value: Any) -> bool:
    """Whether *value* is a rule or a set of rules of dateutil, which is not imported to find that out."""
    return type(value).__module__ == "dateutil.rrule" and hasattr(value, "after")


class rrule(BaseSchedule):  # noqa: N801 - the public name
    """By a recurrence rule: what `dateutil.rrule.rrule` takes, an object of it, or the text of a rule.

        rrule(HOURLY, interval=6)
        rrule("DAILY", byhour=9, byminute=30, tz="Europe/Berlin")
        rrule("DTSTART:20250101T090000\\nRRULE:FREQ=WEEKLY;BYDAY=MO,FR")

    A rule names readings of the clock of *tz* (of `dtstart`, if that has a zone; else the app's); each counts once,
    when the clock is changed as `celery.schedules.wallclock` says.  Without `dtstart` a rule begins in 1970.
    """

    def __init__(
        self, freq: Any, *, nowfun: Any = None, app: Any = None, tz: str | tzinfo | None = None, **rule: Any
    ) -> None:
        self._given = (freq, {**rule, "tz": tz})
        start = rule.get("dtstart")
        if isinstance(start, date) and not isinstance(start, datetime):
            start = datetime(start.year, start.month, start.day)  # noqa: DTZ001
        if start is not None:
            rule["dtstart"] = start
        self._rule = _make(freq, rule)
        super().__init__(nowfun=nowfun, app=app)
        zone = tz or _zone_of(self._rule)
        if zone is not None:
            self.tz = timezone.get_timezone(zone)

    def next_tick(self, after: datetime) -> datetime | None:
        moment = to_moment(self.maybe_make_aware(after))
        return self._in_zone(next_moment(moment, self.tz, self._next_reading))

    def _next_reading(self, reading: datetime) -> datetime | None:
        """The first reading of the rule after *reading*; the rule is not walked from its beginning where it can be."""
        rule = _forward(self._rule, reading)
        zone = _zone_of(rule)
        found = rule.after(reading if zone is None else reading.replace(tzinfo=zone))
        return None if found is None else found.replace(tzinfo=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, rrule) and str(self._rule) == str(other._rule) and str(self.tz) == str(other.tz)

    __hash__ = None

    def __repr__(self) -> str:
        return f"<rrule: {rule_text(self._rule)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        freq, rule = self._given
        return _remake, (type(self), freq, rule)


def rule_text(rule: Any) -> str:
    """A rule on one line."""
    return "; ".join(str(rule).split()) if hasattr(rule, "_freq") else repr(rule)


def _remake(cls: type[rrule], freq: Any, rule: dict[str, Any]) -> rrule:
    return cls(freq, **rule)


def _make(freq: Any, rule: dict[str, Any]) -> Any:
    if is_rule(freq):
        return freq
    if isinstance(freq, str) and freq.upper() not in FREQUENCIES:
        try:
            return _dateutil.rrulestr(freq, **{"dtstart": BEGIN, **rule})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{freq!r} is no recurrence rule ({error}): write for example 'FREQ=DAILY;BYHOUR=9'."
            ) from error
    number = FREQUENCIES.index(freq.upper()) if isinstance(freq, str) else freq
    if not isinstance(number, int) or not 0 <= number < len(FREQUENCIES):
        raise ValueError(f"{freq!r} is no frequency: write one of {', '.join(FREQUENCIES)}.")
    return _dateutil.rrule(number, **{"dtstart": BEGIN, **rule})  # type: ignore[arg-type]


def _zone_of(rule: Any) -> tzinfo | None:
    """The zone that the times of *rule* are in; None for naive ones."""
    rules = [rule] if hasattr(rule, "_dtstart") else getattr(rule, "_rrule", [])
    for one in rules:
        zone: tzinfo | None = one._tzinfo
        return zone
    for moment in getattr(rule, "_rdate", []):
        found: tzinfo | None = moment.tzinfo
        return found
    return None


def _forward(rule: Any, reading: datetime) -> Any:
    """*rule* with a beginning shortly before *reading*, if all that it names after that stays the same."""
    step = STEPS.get(getattr(rule, "_freq", -1))
    if step is None or rule._count is not None or rule._bysetpos:
        return rule
    start = rule._dtstart.replace(tzinfo=None)
    every = step * rule._interval
    if reading - start < 2 * every:
        return rule
    begin = start + ((reading - start) // every - 1) * every
    return rule.replace(dtstart=begin.replace(tzinfo=rule._tzinfo))
