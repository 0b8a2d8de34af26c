"""Schedules by the sun."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from celery.schedules.base import BaseSchedule
from celery.schedules.sun import EVENTS, next_event
from celery.schedules.wallclock import to_moment

SOLAR_INVALID_EVENT = "There is no solar event {event!r}: write one of {all_events}."
SOLAR_EPHEM_NOT_INSTALLED = "The sun is computed here: solar schedules need no other package."
SOLAR_INVALID_LATITUDE = "A latitude is a number of degrees from -90 to 90, not {lat!r}."
SOLAR_INVALID_LONGITUDE = "A longitude is a number of degrees from -180 to 180, not {lon!r}."


def check_place(lat: Any, lon: Any) -> tuple[float, float]:
    """Latitude and longitude; raises ValueError for what is none."""
    if not _is_degree(lat, 90):
        raise ValueError(SOLAR_INVALID_LATITUDE.format(lat=lat))
    if not _is_degree(lon, 180):
        raise ValueError(SOLAR_INVALID_LONGITUDE.format(lon=lon))
    return lat, lon


def _is_degree(value: Any, most: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


class solar(BaseSchedule):  # noqa: N801 - the public name
    """Once a day, when the sun is at *event* seen from latitude *lat* and longitude *lon* (degrees; north, east: +).

    Beyond the polar circles there are days without: those are passed over.
    """

    _all_events: ClassVar[frozenset[str]] = frozenset(EVENTS)

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        if event not in EVENTS:
            raise ValueError(SOLAR_INVALID_EVENT.format(event=event, all_events=", ".join(sorted(EVENTS))))
        self.event = event
        self.lat, self.lon = check_place(lat, lon)
        super().__init__(**kwargs)

    def next_tick(self, after: datetime) -> datetime | None:
        after = self.maybe_make_aware(after)
        return self._in_zone(next_event(self.event, self.lat, self.lon, to_moment(after)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, solar) and (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)

    __hash__ = None

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)
