"""Entries as text: how a schedule book keeps those that were added to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from celery.beat.entry import ScheduleEntry
from celery.schedules import clocked, crontab, rrule, schedule, solar

FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")


def write_schedule(plan: Any) -> dict[str, Any]:
    """A schedule as a dict; raises TypeError for one that is code."""
    if isinstance(plan, crontab):
        fields = {name: _plain(getattr(plan, f"_orig_{name}")) for name in FIELDS}
        return {"type": "crontab", **fields, "tz": plan._own_zone()}
    if isinstance(plan, schedule):
        return {"type": "interval", "every": plan.run_every.total_seconds(), "relative": plan.relative}
    if isinstance(plan, solar):
        return {"type": "solar", "event": plan.event, "lat": plan.lat, "lon": plan.lon}
    if isinstance(plan, clocked):
        return {"type": "clocked", "at": plan.clocked_time.isoformat(), "tz": plan._given_tz and str(plan._given_tz)}
    if isinstance(plan, rrule):
        return {"type": "rrule", "rule": str(plan._rule), "tz": plan._given[1]["tz"] and str(plan._given[1]["tz"])}
    raise TypeError(f"The schedule {plan!r} cannot be kept in the store: put the entry into beat_schedule.")


def _plain(field: Any) -> Any:
    return field if isinstance(field, str | int) else sorted(field)


READERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "crontab": lambda given: crontab(**{key: value for key, value in given.items() if value is not None}),
    "interval": lambda given: schedule(timedelta(seconds=given["every"]), given.get("relative", False)),
    "solar": lambda given: solar(given["event"], given["lat"], given["lon"]),
    "clocked": lambda given: clocked(given["at"], tz=given.get("tz")),
    "rrule": lambda given: rrule(given["rule"], tz=given.get("tz")),
}


def read_schedule(given: Mapping[str, Any]) -> Any:
    """A schedule from its dict; raises ValueError for what is none."""
    rest = dict(given)
    kind = rest.pop("type", None)
    if kind not in READERS:
        raise ValueError(f"there is no schedule of type {kind!r}")
    return READERS[kind](rest)


def write_entry(entry: ScheduleEntry) -> bytes:
    """A definition. Raises TypeError for what JSON does not know."""
    said = {
        "task": entry.task, "schedule": write_schedule(entry.schedule), "args": list(entry.args or ()),
        "kwargs": dict(entry.kwargs), "options": dict(entry.options), "missed": entry.missed, "overlap": entry.overlap,
    }  # fmt: skip
    return json.dumps({name: value for name, value in said.items() if value not in (None, [], {})}).encode()


def read_entry(definition: bytes) -> dict[str, Any]:
    """A definition as an entry of `beat_schedule`; raises ValueError for what is none."""
    said: dict[str, Any] = json.loads(definition)
    said["schedule"] = read_schedule(said["schedule"])
    return said
