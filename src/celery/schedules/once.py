"""Schedules that are one moment, and those that a function makes up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import Any

from celery.schedules.base import BaseSchedule, schedstate
from celery.schedules.wallclock import from_moment, moments_of, to_moment
from celery.utils.time import is_naive, maybe_iso8601, maybe_timedelta, timezone


class clocked(BaseSchedule):  # noqa: N801 - called as in django-celery-beat
    """Once, at *clocked_time*: an aware time, or one by the clock of *tz* (the app's by default), also as ISO 8601."""

    def __init__(
        self, clocked_time: datetime | str, nowfun: Any = None, app: Any = None, tz: str | tzinfo | None = None
    ) -> None:
        when = maybe_iso8601(clocked_time) if isinstance(clocked_time, str) else clocked_time
        if not isinstance(when, datetime):
            raise TypeError(f"A clocked time is a datetime or one as ISO 8601, not {clocked_time!r}.")
        self.clocked_time: datetime = when
        self._given_tz = tz
        super().__init__(nowfun=nowfun, app=app)
        if tz is not None:
            self.tz = timezone.get_timezone(tz)

    def next_tick(self, after: datetime) -> datetime | None:
        moment = to_moment(self.maybe_make_aware(after))
        when = self.clocked_time
        tick = moments_of(when, self.tz)[0] if is_naive(when) else to_moment(when)
        return from_moment(tick, self.tz) if tick > moment else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, clocked) and self.clocked_time == other.clocked_time and super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"<clocked: {self.clocked_time.isoformat()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.clocked_time, self.nowfun, None, self._given_tz)


class called(BaseSchedule):  # noqa: N801 - as its neighbours
    """After as long as *fun* says each time: it takes nothing and returns seconds or a timedelta.

    It is asked once for each run, so an answer that is different each time (to spread load) is one answer a time.
    """

    def __init__(self, fun: Callable[[], float | timedelta], nowfun: Any = None, app: Any = None) -> None:
        self.fun = fun
        self._asked: tuple[datetime, datetime] | None = None
        super().__init__(nowfun=nowfun, app=app)

    def next_tick(self, after: datetime) -> datetime | None:
        """Asks *fun*, unless it was asked for the same *after* just before."""
        moment = to_moment(self.maybe_make_aware(after))
        if self._asked is None or self._asked[0] != moment:
            self._asked = (moment, moment + self._ask())
        return self._in_zone(self._asked[1])

    def is_due(self, last_run_at: datetime) -> schedstate:
        """When it is due: ask again at once, with the time of that run."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        return schedstate(is_due=left <= 0, next=max(left, 0.0))

    def _ask(self) -> timedelta:
        answer = maybe_timedelta(self.fun())
        if not isinstance(answer, timedelta) or answer <= timedelta(0):
            raise ValueError(f"{self!r} is to return a timedelta or a number of seconds above 0, not {answer!r}.")
        return answer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, called) and self.fun == other.fun and super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"<called: {getattr(self.fun, '__module__', '')}.{getattr(self.fun, '__qualname__', repr(self.fun))}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fun, self.nowfun)
