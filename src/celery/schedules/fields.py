"""The fields of a crontab: text, numbers and names to sets of numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, TypeAlias

from celery.utils.time import weekday, yearmonth

Cronspec: TypeAlias = int | str | Iterable[int]

CRON_PATTERN_INVALID = "A field of this crontab takes numbers from {min} to {max}, not {value!r}."
CRON_INVALID_TYPE = "A field of a crontab is a number, a text such as '*/15' or an iterable of numbers, not {type!r}."
CRON_INVALID_DATE = (
    "This crontab would never run: there is no day {day_of_month!r} in month {month_of_year!r}. Correct day_of_month or"
    " month_of_year."
)
CRON_DAYS_IN_MONTH = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}


class ParseException(Exception):
    """A field of a crontab that cannot be read."""


class crontab_parser:  # noqa: N801 - the public name
    """Reads one field, which counts *max_* values from *min_* on.

    `*`, `*/n`, `a`, `a-b`, `a-b/n` and lists of these with commas; days and months also by name.  A range may go
    round: `fri-mon`, `22-2`.  Raises `ParseException` or `ValueError` with a sentence that names the part.
    """

    ParseException = ParseException

    _PART: ClassVar[re.Pattern[str]] = re.compile(
        r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\w*))?"
    )

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """The numbers that *spec* stands for."""
        found: set[int] = set()
        for part in spec.split(","):
            found.update(self._parse_part(part.strip()))
        return found

    def _parse_part(self, part: str) -> Sequence[int]:
        if not part:
            raise ParseException("A field of a crontab has an empty part: write '*' for all, or leave the comma out.")
        match = self._PART.fullmatch(part)
        if match is None:
            raise ParseException(f"{part!r} is no part of a crontab: write '*', '*/15', '5', '1-5' or '1-5/2'.")
        if match["star"]:
            numbers = list(range(self.min_, self.min_ + self.max_))
        elif match["last"]:
            numbers = self._expand_range(match["first"], match["last"])
        elif match["step"] is None:
            return [self._expand_number(match["first"])]
        else:
            raise ValueError(f"{part!r} has a step but no range: write '*/{match['step']}' or '1-5/{match['step']}'.")
        return numbers if match["step"] is None else numbers[:: self._expand_step(match["step"], part)]

    def _expand_step(self, text: str, part: str) -> int:
        if not text:
            raise ParseException(f"{part!r} has no number after the slash: write for example '*/15'.")
        if not text.isdecimal() or int(text) == 0:
            raise ValueError(f"The step of {part!r} is to be a number of 1 or more.")
        return int(text)

    def _expand_range(self, first: str, last: str) -> list[int]:
        low, high = self._expand_number(first), self._expand_number(last)
        if high >= low:
            return list(range(low, high + 1))
        return [*range(low, self.min_ + self.max_), *range(self.min_, high + 1)]

    def _expand_number(self, text: str) -> int:
        most = self.min_ + self.max_ - 1
        if text.isdecimal():
            number = int(text)
        else:
            read: Callable[[str], int] = yearmonth if self.max_ == 12 else weekday
            try:
                number = read(text)
            except KeyError:
                raise ValueError(
                    f"{text!r} is neither a number nor the name of a day ('mon') or a month ('jan')."
                ) from None
        if not self.min_ <= number <= most:
            hint = " (Sunday is 0)" if (self.max_, number) == (7, 7) else ""
            raise ValueError(CRON_PATTERN_INVALID.format(min=self.min_, max=most, value=number) + hint)
        return number


def cronfield(s: Cronspec | None) -> Cronspec:
    """*s*, or `*` for None."""
    return "*" if s is None else s


def expand(spec: Cronspec, max_: int, min_: int = 0) -> set[int]:
    """The numbers of a field that counts *max_* values from *min_* on.

    Raises TypeError for what is no field, `ParseException` or ValueError for one that cannot be read.
    """
    if isinstance(spec, str):
        return crontab_parser(max_, min_).parse(spec)
    if isinstance(spec, int):
        numbers = {spec}
    elif isinstance(spec, Iterable):
        numbers = set(spec)
    else:
        raise TypeError(CRON_INVALID_TYPE.format(type=type(spec)))
    if not numbers:
        raise ValueError("A field of this crontab names no number: write '*' for all.")
    for number in numbers:
        if not isinstance(number, int):
            raise TypeError(CRON_INVALID_TYPE.format(type=type(number)))
        if not min_ <= number < min_ + max_:
            hint = " (Sunday is 0)" if (max_, number) == (7, 7) else ""
            raise ValueError(CRON_PATTERN_INVALID.format(min=min_, max=min_ + max_ - 1, value=number) + hint)
    return numbers
