"""How much Python one `delay()` costs. Calls are counted, not timed: a slow machine does not fail this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from rig.calls import fewest_calls

SHORT_WAY, WITH_TIMES, LONG_WAY, ON_SQLITE = 18, 26, 47, 31


def test_delay_on_the_memory_broker_stays_within_its_budget() -> None:
    app = Celery("budget", broker="memory://budget", backend="memory://budget")

    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    for _ in range(3):  # what is made once is made now
        add.delay(1, y=2)
    calls = fewest_calls(lambda: add.delay(1, y=2))
    assert calls.total() <= SHORT_WAY, calls.most_common(30)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"queue": "other", "priority": 1}, SHORT_WAY),
        ({"countdown": 10}, WITH_TIMES),
        ({"expires": 10, "group_id": "group"}, WITH_TIMES),
        ({"headers": {"a": 1}}, LONG_WAY),
    ],
)
def test_options_cost_little_more(options: dict[str, Any], most: int) -> None:
    app = Celery("budget", broker="memory://budget-options", backend="memory://budget-options")

    @app.task(bind=True, priority=3, time_limit=10, queue="other")
    def scale(self: Any, x: int) -> int:
        return x

    for _ in range(3):
        scale.apply_async((1,), **options)
    calls = fewest_calls(lambda: scale.apply_async((1,), **options))
    assert calls.total() <= most, calls.most_common(30)


def test_delay_on_sqlite_stays_within_its_budget(tmp_path: Path) -> None:
    app = Celery("budget", broker=f"sqlite:///{tmp_path}/budget.db")

    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    for _ in range(3):
        add.delay(1, y=2)
    calls = fewest_calls(lambda: add.delay(1, y=2))
    app.close()
    assert calls.total() <= ON_SQLITE, calls.most_common(40)
