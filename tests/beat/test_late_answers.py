"""The store says what time it is; on a machine that pauses its answer is heard long after it was given."""

from __future__ import annotations

from typing import Any

import pytest

from celery import Celery
from celery.beat import StoreScheduler
from celery.utils import uuid
from celery.utils.clock import FakeClock

PAUSE = 5.0
RENEWED = 4.0
"""Seconds after which the lease is asked for again."""


def test_an_answer_that_is_heard_late_is_no_jump_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, place = FakeClock(), f"memory://{uuid()}"
    app = Celery("late", broker=place, backend=place, set_as_current=False)
    app.conf.beat_schedule = {"tick": {"task": "add", "schedule": 60.0}}
    app.broker.clock = clock
    scheduler = StoreScheduler(app, clock=clock)
    scheduler.tick()
    planned = scheduler.upcoming()
    lead = scheduler.book.lead

    def heard_late(*args: Any) -> Any:
        said = lead(*args)
        clock.advance(PAUSE)
        return said

    with monkeypatch.context() as paused:
        paused.setattr(scheduler.book, "lead", heard_late)
        clock.advance(RENEWED)
        scheduler.tick()
    clock.advance(RENEWED)
    scheduler.tick()
    assert "The clock of the store" not in caplog.text
    assert scheduler.upcoming() == planned
    app.close()
