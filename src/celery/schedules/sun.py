"""Where the sun stands, by the formulae of NOAA's solar calculator (those of Meeus, *Astronomical Algorithms*).

Right to about a minute between the polar circles, and for centuries around the year 2000.  Everything is UTC, latitudes
and longitudes are in degrees, north and east are positive.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import acos, asin, cos, degrees, radians, sin, tan

J2000 = datetime(2000, 1, 1, 12)  # noqa: DTZ001 - moments here are naive, and UTC
CENTURY = 36525 * 86400.0
"""Seconds of a Julian century."""
ROUNDS = 4
"""The sun moves on while it rises: each round asks where it stands at the time that the one before found."""

EVENTS: dict[str, tuple[int, float]] = {
    "dawn_astronomical": (-1, -18.0),
    "dawn_nautical": (-1, -12.0),
    "dawn_civil": (-1, -6.0),
    "sunrise": (-1, -0.833),
    "solar_noon": (0, 0.0),
    "sunset": (1, -0.833),
    "dusk_civil": (1, -6.0),
    "dusk_nautical": (1, -12.0),
    "dusk_astronomical": (1, -18.0),
}
"""Event: before (-1) or after (1) noon, and how many degrees the centre of the sun is above the horizon then.

At sunrise and sunset its upper edge is on the horizon: half its width (16') and refraction (34') below.
"""


def next_event(event: str, latitude: float, longitude: float, after: datetime, days: int = 366) -> datetime | None:
    """The first *event* after *after*, to the second; None if there is none for *days* days (beyond a polar circle)."""
    midday = after.replace(hour=12, minute=0, second=0, microsecond=0)
    for day in range(-1, days + 2):
        found = event_near(event, latitude, longitude, midday + timedelta(days=day))
        if found is not None and found > after:
            return found
    return None


def event_near(event: str, latitude: float, longitude: float, midday: datetime) -> datetime | None:
    """The *event* of the day whose noon is nearest to *midday* (12:00) seen from the meridian of Greenwich."""
    side, altitude = EVENTS[event]
    moment = midday - timedelta(minutes=4 * longitude)
    for _ in range(ROUNDS):
        declination, equation = _sun(moment)
        noon = midday - timedelta(minutes=4 * longitude + equation)
        if not side:
            moment = noon
            continue
        slant = cos(radians(latitude)) * cos(declination)
        if not slant:
            return None
        height = (sin(radians(altitude)) - sin(radians(latitude)) * sin(declination)) / slant
        if not -1.0 <= height <= 1.0:
            return None
        moment = noon + side * timedelta(minutes=4 * degrees(acos(height)))
    return moment.replace(microsecond=0) + timedelta(seconds=round(moment.microsecond / 1e6))


def _sun(moment: datetime) -> tuple[float, float]:
    """Declination (radians) and equation of time (minutes)."""
    t = (moment - J2000).total_seconds() / CENTURY
    longitude = radians((280.46646 + t * (36000.76983 + t * 0.0003032)) % 360)
    anomaly = radians(357.52911 + t * (35999.05029 - t * 0.0001537))
    eccentricity = 0.016708634 - t * (0.000042037 + t * 0.0000001267)
    centre = (
        sin(anomaly) * (1.914602 - t * (0.004817 + t * 0.000014))
        + sin(2 * anomaly) * (0.019993 - t * 0.000101)
        + sin(3 * anomaly) * 0.000289
    )
    node = radians(125.04 - 1934.136 * t)
    apparent = longitude + radians(centre - 0.00569 - 0.00478 * sin(node))
    seconds = 21.448 - t * (46.815 + t * (0.00059 - t * 0.001813))
    obliquity = radians(23 + (26 + seconds / 60) / 60 + 0.00256 * cos(node))
    declination = asin(sin(obliquity) * sin(apparent))
    y = tan(obliquity / 2) ** 2
    equation = (
        y * sin(2 * longitude)
        - 2 * eccentricity * sin(anomaly)
        + 4 * eccentricity * y * sin(anomaly) * cos(2 * longitude)
        - 0.5 * y * y * sin(4 * longitude)
        - 1.25 * eccentricity**2 * sin(2 * anomaly)
    )
    return declination, 4 * degrees(equation)
