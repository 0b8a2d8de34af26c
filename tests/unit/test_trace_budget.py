"""How many Python calls one task costs between its envelope and its outcome: every one is paid for every task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.app.runner import make_runner
from celery.utils import uuid
from celery.wire.message import Job
from rig.calls import fewest_calls

BUDGET = 50


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid()
    app = Celery("budget", broker=f"memory://{name}", backend=f"memory://{name}", set_as_current=False)
    yield app
    app.close()


@pytest.mark.parametrize("ignore_result", [True, False])
def test_one_trace_is_few_calls(app: Celery, ignore_result: bool) -> None:
    task = app.task(lambda x: x, name="t", ignore_result=ignore_result, shared=False)
    runner = make_runner(app, "w@h")
    job = Job(1, app.amqp.outgoing("t", (1,), {}, ignore_result=task.ignore_result).envelope)
    runner(job)
    outcomes: list[Any] = []
    calls = fewest_calls(lambda: outcomes.append(runner(job)))

    assert outcomes[0].detail == "1"
    assert calls.total() <= BUDGET, calls.most_common(60)
