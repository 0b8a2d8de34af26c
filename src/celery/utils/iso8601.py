"""Times as ISO 8601 text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

# What `datetime.fromisoformat` does not take: years and months alone, a single digit, a blank between date and time.
ISO8601_REGEX = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2})"
    r"(?:[T ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?"
    r"(?P<timezone>Z|[+-]\d{2}:?\d{2})?)?)?)?\Z"
)
TIMEZONE_REGEX = re.compile(r"(?P<prefix>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})\Z")


def parse_iso8601(datestring: str) -> datetime:
    """A time from ISO 8601 text, aware if the text says a zone. Raises ValueError that says what is wrong."""
    try:
        return datetime.fromisoformat(datestring)
    except (TypeError, ValueError):
        pass
    match = ISO8601_REGEX.match(datestring) if isinstance(datestring, str) else None
    if match is None:
        raise ValueError(f"{datestring!r} is not a time; write it as ISO 8601, such as 2026-08-01T12:30:00+00:00.")
    found = match.groupdict()
    zone = found["timezone"]
    offset = None
    if zone == "Z":
        offset = UTC
    elif zone:
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        delta = timedelta(hours=hours, minutes=minutes)
        offset = timezone(-delta if zone[0] == "-" else delta)
    return datetime(
        int(found["year"]),
        int(found["month"] or 1),
        int(found["day"] or 1),
        int(found["hour"] or 0),
        int(found["minute"] or 0),
        int(found["second"] or 0),
        int(((found["fraction"] or "") + "000000")[:6]),
        offset,
    )


__all__ = ["ISO8601_REGEX", "TIMEZONE_REGEX", "parse_iso8601"]
