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


def test_a_batch_costs_the_loop_as_many_calls_as_a_task_and_the_thread_next_to_none(memory_app: Celery) -> None:
    outlet = Outlet(memory_app.broker.bus())
    dispatcher = memory_app.events.Dispatcher(outlet, hostname="w@h")
    reports = outlet.writer = Reports(memory_app, "w@h", outlet, dispatcher)
    request = Claimed(Head(task="t", id="i"), Delivery(1, "q", b"", 1), Facts("t"), 1, "w@h")
    batch, outcome = [request] * (CHUNK // 3), Outcome(1, "SUCCESS", 0.1, detail="None")

    def tell() -> None:
        reports.received(batch)
        reports.started(batch)
        reports.succeeded([(request, outcome) for request in batch])

    assert count_calls(tell).total() <= 20
    assert count_calls(outlet._drain).total() <= 100, "for hundreds of events, in one message"
