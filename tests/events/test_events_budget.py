"""How much Python events cost a worker's loop and its thread, in calls: a slow machine does not fail this."""

from __future__ import annotations

from celery import Celery
from celery.wire.message import Delivery, Outcome
from celery.wire.protocol import Head
from celery.worker.claimed import Claimed
from celery.worker.decisions import Facts
from celery.worker.outlet import CHUNK, Outlet
from celery.worker.reports import Reports
from rig.calls import count_calls


def test_a_task_costs_the_loop_six_calls_and_the_thread_next_to_none(memory_app: Celery) -> None:
    outlet = Outlet(memory_app.broker.bus())
    dispatcher = memory_app.events.Dispatcher(outlet, hostname="w@h")
    reports = outlet.writer = Reports(memory_app, "w@h", outlet, dispatcher)
    request = Claimed(Head(task="t", id="i"), Delivery(1, "q", b"", 1), Facts("t"), 1, "w@h")
    outcome = Outcome(1, "SUCCESS", 0.1, detail="None")

    def tell() -> None:
        reports.received(request)
        reports.started(request)
        reports.succeeded(request, outcome)

    assert count_calls(tell).total() <= 7
    for _ in range(CHUNK // 3):
        tell()
    assert count_calls(outlet._drain).total() <= 100, "for hundreds of events, in one message"
