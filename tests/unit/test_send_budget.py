"""How much Python one `delay()` costs. Calls are counted, not timed: a slow machine does not fail this."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery import Celery

MOST_CALLS = 80


def count_calls(step: Callable[[], Any]) -> Counter[str]:
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls


def test_delay_on_the_memory_broker_stays_within_its_budget() -> None:
    app = Celery("budget", broker="memory://budget", backend="memory://budget")

    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    for _ in range(3):  # what is made once is made now
        add.delay(1, y=2)
    calls = count_calls(lambda: add.delay(1, y=2))
    assert calls.total() <= MOST_CALLS, calls.most_common(30)


def test_shared_tasks_cost_little_more() -> None:
    app = Celery("budget", broker="memory://budget-shared", backend="memory://budget-shared")

    @app.task(bind=True, priority=3, time_limit=10, queue="other")
    def scale(self: Any, x: float) -> float:
        return x

    for _ in range(3):
        scale.apply_async((1.5,), headers={"a": 1})
    calls = count_calls(lambda: scale.apply_async((1.5,), headers={"a": 1}))
    assert calls.total() <= MOST_CALLS, calls.most_common(30)
