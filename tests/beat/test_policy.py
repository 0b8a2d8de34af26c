"""Which ticks are run that were missed; entries as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery import Celery
from celery.beat.codec import read_schedule, write_schedule
from celery.beat.policy import Due, check_policies, decide, fingerprint, next_after
from celery.schedules import BaseSchedule, clocked, crontab, maybe_schedule, rrule, schedule, solar

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def app() -> Celery:
    return Celery("policy", broker="memory://policy", set_as_current=False)


@pytest.mark.parametrize(
    ("missed", "late", "run", "skipped"),
    [
        ("one", 0, [0], False), ("skip", 0, [0], False), ("all", 0, [0], False), (2, 0, [0], False),
        ("one", 35, [30], True), ("skip", 35, [30], True), ("all", 35, [0, 10, 20, 30], False), (2, 35, [20, 30], True),
        ("one", 3600, [3600], True), (3, 3600, [3580, 3590, 3600], True),
    ],
)  # fmt: skip
def test_intervals(app: Celery, missed: Any, late: float, run: list[float], skipped: bool) -> None:
    due = decide(schedule(10, app=app), NOON, NOON + late, missed)
    assert due == Due([NOON + tick for tick in run], NOON + late // 10 * 10, NOON + late // 10 * 10 + 10, skipped)


@pytest.mark.parametrize(
    ("missed", "late", "count"),
    [("skip", 29, 1), ("skip", 31, 0), ("one", 7200, 1), ("all", 7200, 3), ("all", 86400 * 400, 1000)],
)
def test_crontabs(app: Celery, missed: Any, late: float, count: int) -> None:
    due = decide(crontab(minute=0, app=app), NOON, NOON + late, missed)
    assert len(due.run) >= count
    assert due.run[-count:] == [due.last - 3600 * n for n in reversed(range(count))]
    assert due.last == NOON + late // 3600 * 3600
    assert due.next == due.last + 3600


def test_a_deadline_is_for_crontabs(app: Celery) -> None:
    assert decide(crontab(minute=0, app=app), NOON, NOON + 100, "one", 60).run == []
    assert decide(crontab(minute=0, app=app), NOON, NOON + 50, "one", 60).run == [NOON]
    assert decide(schedule(3600, app=app), NOON, NOON + 100, "one", 60).run == [NOON]


def test_years_of_a_schedule_of_seconds_are_not_walked(app: Celery) -> None:
    due = decide(schedule(1, app=app), NOON, NOON + 10 * 365 * 86400, "all")
    assert len(due.run) == 1000
    assert due.run[-1] == due.last == NOON + 10 * 365 * 86400
    due = decide(crontab(app=app), NOON, NOON + 10 * 365 * 86400, "one")
    assert due.run == [NOON + 10 * 365 * 86400]


def test_what_ends_and_what_makes_itself_up(app: Celery) -> None:
    once = clocked(datetime.fromtimestamp(NOON, UTC), app=app)
    assert decide(once, NOON, NOON + 1, "one") == Due([NOON], NOON, None, skipped=False)
    answers = iter([60, 90])
    assert decide(maybe_schedule(lambda: next(answers), app=app), NOON, NOON + 5, "one").next == NOON + 65


def test_schedules_written_for_celery(app: Celery) -> None:
    class Odd(BaseSchedule):
        def remaining_estimate(self, last_run_at: datetime) -> timedelta:
            return last_run_at + timedelta(minutes=1) - self.now()

    assert next_after(Odd(app=app), NOON) == pytest.approx(NOON + 60)
    assert fingerprint(Odd(app=app)).endswith("Odd")


@pytest.mark.parametrize(
    ("missed", "overlap", "words"),
    [
        ("never", None, "missed is 'never'"),
        (0, None, "missed is 0"),
        (True, None, "missed is True"),
        (None, "x", "overlap is 'x'"),
    ],
)
def test_what_is_no_policy(missed: Any, overlap: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_policies(missed, overlap)


@pytest.mark.parametrize(
    "plan",
    [
        schedule(30), schedule(86400, relative=True), crontab("*/5", [1, 2], "mon", tz="Asia/Tokyo"),
        solar("sunset", 48.8, 2.3),
        clocked("2030-01-01T00:00:00+00:00"), rrule("DAILY", byhour=9, tz="Asia/Tokyo"), rrule("FREQ=WEEKLY;BYDAY=MO"),
    ],
    ids=repr,
)  # fmt: skip
def test_schedules_as_text(plan: Any) -> None:
    again = read_schedule(write_schedule(plan))
    assert again == plan
    assert fingerprint(again) == fingerprint(plan)
    with pytest.raises(TypeError, match="cannot be kept in the store: put the entry into beat_schedule"):
        write_schedule(maybe_schedule(lambda: 3))
    with pytest.raises(ValueError, match="no schedule of type 'x'"):
        read_schedule({"type": "x"})
