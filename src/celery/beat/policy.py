"""Which ticks of an entry are run now: what was missed, and what is too late. Pure; times are Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from celery.schedules import BaseSchedule, called, crontab, schedule

GRACE = 30.0
"""Seconds by which a tick may be late and is not missed: longer than another beat takes to step in."""
MOST = 1000
"""Ticks that `missed="all"` makes up for at most."""
MISSED = ("skip", "one", "all")
OVERLAP = ("allow", "skip")
WINDOWS = (3600.0, 86400.0, 32 * 86400.0, 400 * 86400.0)
"""How far is looked back, at first and then, for the latest ticks of a schedule that missed many."""


class Due(NamedTuple):
    """*run* are the ticks to be run, *last* is the latest tick that is over, *next* the first that is to come."""

    run: list[float]
    last: float
    next: float | None
    skipped: bool
    """Whether ticks were missed that are not made up for."""


def check_policies(missed: Any, overlap: Any) -> None:
    """Raise ValueError with a sentence for what is no policy."""
    number = isinstance(missed, int) and not isinstance(missed, bool) and missed > 0
    if missed not in (None, *MISSED) and not number:
        raise ValueError(f"missed is {missed!r}: write 'skip', 'one', 'all', or how many are made up for at most")
    if overlap not in (None, *OVERLAP):
        raise ValueError(f"overlap is {overlap!r}: write 'allow' or 'skip'")


def decide(plan: Any, first: float, now: float, missed: str | int, deadline: float | None = None) -> Due:
    """What to do with an entry whose next tick is *first*, which is not after *now*.

    *missed*: of the ticks that are over run the latest (`one`), the latest so many (a number, or `all`: `MOST`), or,
    with `skip`, the latest if it is no later than `GRACE`.  *deadline*: those of a crontab that are later than so many
    seconds are not run, whatever *missed* says.
    """
    limit = MOST if missed == "all" else missed if isinstance(missed, int) else 1
    ticks, more, following = _latest(plan, first, now, limit)
    run = ticks[-limit:]
    if missed == "skip":
        run = [tick for tick in run if now - tick <= GRACE]
    if deadline is not None and isinstance(plan, crontab):
        run = [tick for tick in run if now - tick <= deadline]
    return Due(run, ticks[-1], following, more or len(run) < len(ticks))


def next_after(plan: Any, moment: float) -> float | None:
    """The first tick after *moment*; None when there is none any more."""
    after = datetime.fromtimestamp(moment, UTC)
    if type(plan).next_tick is BaseSchedule.next_tick:
        # Written for Celery: it only says how long that is from now.
        tick: datetime | None = plan.now() + plan.remaining_estimate(after)
    else:
        tick = plan.next_tick(after)
    return None if tick is None else round(tick.timestamp(), 3)


def _latest(plan: Any, first: float, now: float, limit: int) -> tuple[list[float], bool, float | None]:
    """The latest ticks from *first* to *now*, *limit* or more if there are as many; if there are more; the next."""
    if isinstance(plan, called) or not hasattr(plan, "next_tick"):
        return [first], False, next_after(plan, now)
    start = first
    if isinstance(plan, schedule) and not plan.relative:
        every = plan.run_every.total_seconds()
        start = round(first + max(0, int((now - first) // every) + 1 - limit) * every, 3)
    for window in WINDOWS:
        if now - start <= window:
            break
        began = next_after(plan, now - window)
        if began is not None and began <= now and len(_walk(plan, began, now)[0]) >= limit:
            start = began
            break
    ticks, following = _walk(plan, start, now)
    return ticks, start > first, following


def _walk(plan: Any, start: float, now: float) -> tuple[list[float], float | None]:
    ticks: list[float] = []
    tick: float | None = start
    while tick is not None and tick <= now:
        ticks.append(tick)
        tick = next_after(plan, tick)
    return ticks, tick


def fingerprint(plan: Any) -> str:
    """Differs when an entry has got another schedule; the same in every process."""
    if isinstance(plan, schedule):
        return f"every {plan.run_every / timedelta(seconds=1):g}{' relative' if plan.relative else ''}"
    if isinstance(plan, BaseSchedule) and type(plan).__module__ == "celery.schedules":
        zone = f" {plan._own_zone() or ''}" if isinstance(plan, crontab) else ""
        return repr(plan) + zone
    return f"{type(plan).__module__}.{type(plan).__qualname__}"
