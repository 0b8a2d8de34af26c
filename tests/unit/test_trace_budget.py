"""How many Python calls one task costs between its envelope and its outcome: every one is paid for every task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.app.runner import make_runner
from celery.utils import uuid
from celery.wire.message import Job

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
    calls: list[str] = []

    def count(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            calls.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        outcome = runner(job)
    finally:
        sys.setprofile(before)

    assert outcome.detail == "1"
    assert len(calls) <= BUDGET, "\n".join(calls)
