"""What every schedule is, and the simplest one: an interval."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, NamedTuple

from celery.schedules.wallclock import from_moment, moments_of, to_moment
from celery.utils.imports import symbol_by_name
from celery.utils.time import ZERO, delta_resolution, humanize_seconds, maybe_make_aware, maybe_timedelta, timezone

NEVER = 100_000_000.0
"""Seconds (three years) that `is_due` says when there is no next time: nobody sleeps for so long."""


class schedstate(NamedTuple):  # noqa: N801 - the public name
    """Whether a schedule is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """When something is to run.

    A subclass fills `next_tick`, or, as those written for Celery do, `remaining_estimate` and `is_due`.  *nowfun* gives
    the time; without it the time is that of *app*, or of the current app.
    """

    _app: Any = None

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def next_tick(self, after: datetime) -> datetime | None:
        """The first time after *after* (aware) at which it is due; None when there is none any more. Pure."""
        raise NotImplementedError(f"{type(self).__name__} does not say when it is due: give it next_tick().")

    def now(self) -> datetime:
        now: datetime = (self.nowfun or self.app.now)()
        return now

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Time until it is due again after *last_run_at*; negative when that has passed."""
        now = self.maybe_make_aware(self.now())
        tick = self.next_tick(self.maybe_make_aware(last_run_at))
        return timedelta(seconds=NEVER) if tick is None else to_moment(tick) - to_moment(now)

    def is_due(self, last_run_at: datetime) -> schedstate:
        """(whether it is due, seconds until it is (again)), for something that ran at *last_run_at*."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0.0))

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """An aware time as it is; a naive one is in UTC, or, without *naive_as_utc*, in the schedule's zone."""
        if dt.year == 1:  # there is no *never ran*: the beginning of time, which has no room for zones
            dt = dt.replace(year=2)
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    def to_local(self, dt: datetime) -> datetime:
        """*dt* in this machine's zone where the app does without UTC, else as it is."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    @property
    def app(self) -> Any:
        # The one arrow that points up: without an app of its own a schedule has the current one, as in Celery.
        return self._app or symbol_by_name("celery._state:current_app")._get_current_object()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The zone that readings of the clock are in."""
        zone: tzinfo = self.app.timezone
        return zone

    @cached_property
    def utc_enabled(self) -> bool:
        return bool(self.app.conf.enable_utc)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseSchedule) and other.nowfun == self.nowfun

    __hash__ = None  # type: ignore[assignment]  # as in Celery: two schedules may be equal and change

    def _in_zone(self, moment: datetime | None) -> datetime | None:
        return None if moment is None else from_moment(moment, self.tz)


class schedule(BaseSchedule):  # noqa: N801 - the public name
    """Every *run_every*, seconds or a timedelta. *relative*: at whole days, hours or minutes, as it is made of them."""

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        every = maybe_timedelta(run_every)
        if isinstance(run_every, bool) or not isinstance(every, timedelta):
            raise TypeError(f"An interval is given in seconds or as a timedelta, not as {run_every!r}.")
        self.run_every: timedelta = every
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def next_tick(self, after: datetime) -> datetime | None:
        """Time that really passes: changes of the clock make no interval longer or shorter."""
        if self.run_every <= ZERO:
            raise ValueError(
                f"An interval of {self.run_every.total_seconds():g} seconds would never end: give more than 0."
            )
        moment = to_moment(self.maybe_make_aware(after))
        if not self.relative:
            return self._in_zone(moment + self.run_every)
        reading = from_moment(moment, self.tz).replace(tzinfo=None)
        while True:
            reading = delta_resolution(reading + self.run_every, self.run_every).replace(microsecond=0)
            found = moments_of(reading, self.tz)[-1]
            if found > moment:
                return self._in_zone(found)

    @property
    def seconds(self) -> float:
        return max(self.run_every.total_seconds(), 0.0)

    @property
    def human_seconds(self) -> str:
        return humanize_seconds(self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every
        return self.run_every == other

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)
