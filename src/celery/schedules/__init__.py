"""Schedules: intervals, crontabs, the sun, recurrence rules, single moments and functions.

Each says by `next_tick(after)` when it is due next: a pure function of the time that it is given.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.schedules.base import NEVER, BaseSchedule, schedstate, schedule
from celery.schedules.cron import CRON_REPR, crontab
from celery.schedules.fields import (
    CRON_DAYS_IN_MONTH,
    CRON_INVALID_DATE,
    CRON_INVALID_TYPE,
    CRON_PATTERN_INVALID,
    Cronspec,
    ParseException,
    cronfield,
    crontab_parser,
)
from celery.schedules.once import called, clocked
from celery.schedules.recurrence import is_rule, rrule
from celery.schedules.solar import (
    SOLAR_EPHEM_NOT_INSTALLED,
    SOLAR_INVALID_EVENT,
    SOLAR_INVALID_LATITUDE,
    SOLAR_INVALID_LONGITUDE,
    solar,
)

for _public in (
    BaseSchedule,
    ParseException,
    called,
    clocked,
    crontab,
    crontab_parser,
    rrule,
    schedstate,
    schedule,
    solar,
):
    _public.__module__ = __name__  # where pickles of Celery's look for them, and ours are found by Celery


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """What stands under `schedule` in an entry, as a schedule.

    Seconds and timedeltas are intervals, rules of dateutil `rrule`, functions `called`; the rest is given back.
    """
    if isinstance(s, int | float | timedelta):
        return schedule(s, relative, app=app)
    if isinstance(s, BaseSchedule):
        if app is not None:
            s.app = app
        return s
    if is_rule(s):
        return rrule(s, app=app)
    if callable(s) and not isinstance(s, type):
        return called(s, app=app)
    if hasattr(s, "is_due"):
        s.app = app
    return s


__all__ = [
    "CRON_DAYS_IN_MONTH",
    "CRON_INVALID_DATE",
    "CRON_INVALID_TYPE",
    "CRON_PATTERN_INVALID",
    "CRON_REPR",
    "NEVER",
    "SOLAR_EPHEM_NOT_INSTALLED",
    "SOLAR_INVALID_EVENT",
    "SOLAR_INVALID_LATITUDE",
    "SOLAR_INVALID_LONGITUDE",
    "BaseSchedule",
    "Cronspec",
    "ParseException",
    "called",
    "clocked",
    "cronfield",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "rrule",
    "schedstate",
    "schedule",
    "solar",
]
