"""Years of a large schedule in minutes, by a clock that is moved to the next tick, beside an oracle that knows cron."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cronsim import CronSim

from celery import Celery
from celery.beat import StoreScheduler
from celery.schedules import crontab
from celery.utils import uuid
from celery.utils.clock import FakeClock

BEGIN = datetime(2020, 1, 1, 0, 0, 30, tzinfo=UTC)


def crons(count: int, dice: random.Random) -> Iterator[tuple[str, str]]:
    """(name, text): some each hour, most each day, week or month."""
    for number in range(count):
        minute = dice.randrange(60)
        yield f"entry {number}", dice.choices(
            [
                f"{minute} */{dice.choice((6, 8, 12))} * * *", f"{minute} {dice.randrange(24)} * * *",
                f"{minute} {dice.randrange(24)} * * {dice.randrange(7)}", f"{minute} 3 {dice.randrange(1, 32)} * *",
                f"{minute} 4 29 2 *",
                f"{minute} 5 {dice.choice(('1-7', '*/10', '28-31'))} {dice.choice(('*', '*/3'))} *",
            ],
            weights=[1, 4, 10, 20, 5, 10],
        )[0]  # fmt: skip


def simulate(entries: int, days: float) -> int:
    """Run a schedule for so long; how many ticks there were. Each entry's ticks are those of the oracle."""
    place, clock, begin = f"memory://{uuid()}", FakeClock(BEGIN.timestamp()), BEGIN
    app = Celery("years", broker=place, backend=place, set_as_current=False)
    app.broker.clock = clock
    texts = dict(crons(entries, random.Random(entries)))
    app.conf.beat_schedule = {
        name: {"task": "none", "schedule": crontab.from_string(text)} for name, text in texts.items()
    }
    sent: Counter[str] = Counter()
    ran: dict[str, list[float]] = {name: [] for name in texts}

    class Recording(StoreScheduler):
        max_interval = 1e9

        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            ran[entry.name].append(self._states[entry.name].next or 0.0)
            sent[entry.options["task_id"]] += 1

        def _until_renewal(self) -> float:
            return 1e9 if self._lead is not None else 0.0

    scheduler = Recording(app, clock=clock)
    scheduler.lease = 1e12
    scheduler.look_every = 1e9
    scheduler.report = lambda *_: None  # type: ignore[method-assign]  # nobody knows the task
    end = begin + timedelta(days=days)
    while clock.time() < end.timestamp():
        clock.advance(max(scheduler.tick(), 0.0))
    for name, text in texts.items():
        theirs = itertools.takewhile(lambda tick: tick < end, CronSim(text, begin))
        expected = [tick.timestamp() for tick in theirs]
        assert [tick for tick in ran[name] if tick < end.timestamp()] == expected, (name, text)
    assert set(sent.values()) == {1}
    return len(sent)


def test_a_year_of_a_hundred_entries() -> None:
    assert simulate(100, 366) > 5_000


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_ten_years_of_a_thousand_entries() -> None:
    print(f"{simulate(1000, 3653):,} ticks")
