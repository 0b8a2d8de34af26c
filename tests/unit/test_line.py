"""What of the claimed starts next: `celery.worker.line`."""

from __future__ import annotations

import pytest

from celery.wire.message import Delivery
from celery.wire.protocol import Head
from celery.worker.claimed import Claimed
from celery.worker.decisions import Facts
from celery.worker.line import Line

EARLY, LATE = Facts("early"), Facts("late", acks_late=True)
RETRIED = Facts("retried", retry_on_worker_lost=True)


def line_of(*kinds: Facts) -> Line:
    return Line(
        Claimed(Head(task=facts.name, id=str(number)), Delivery(str(number), "q", b"", 1), facts, number)
        for number, facts in enumerate(kinds)
    )


@pytest.mark.parametrize(
    ("kinds", "free", "idle", "count"),
    [
        ([EARLY] * 5, 4, 2, 2),
        ([EARLY] * 5, 4, 0, 0),
        ([LATE, RETRIED, LATE, EARLY], 3, 0, 3),
        ([LATE, RETRIED, LATE, EARLY], 4, 0, 3),
        ([LATE, EARLY, EARLY, LATE], 4, 2, 2),
        ([EARLY, LATE, LATE], 3, 1, 1),
        ([EARLY], 3, 2, 2),
        ([], 3, 2, 3),
        ([EARLY] * 3, 1, 2, 1),
    ],
)
def test_what_acknowledges_early_is_taken_where_it_begins_at_once(
    kinds: list[Facts], free: int, idle: int, count: int
) -> None:
    assert line_of(*kinds).that_can_begin(free, idle) == count


def test_it_is_taken_in_its_order() -> None:
    line = line_of(EARLY, LATE, EARLY)
    assert [request.id for request in line.take(2, ())] == ["0", "1"]
    assert [request.id for request in line.take(2, ())] == ["2"]
    assert line.take(2, ()) == []
