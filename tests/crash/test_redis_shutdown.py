"""Workers on Redis that are told to go, under load: nothing is lost, failed, counted or run again without need."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from crash.fleet import Fleet, check_promises
from crash.forms import Form, forms

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]


@forms(Form(1_000, 10.0, 4), Form(10_000, 10.0, 12))
def test_workers_are_replaced_under_load(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Matrix row 10: every task runs once, none fails, none is left; as many workers come as go."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    current = fleet.start(ready=True)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        current.terminate()
        heir = fleet.start(ready=True)
        assert current.wait(60) == 0
        current = heir
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)


@forms(Form(50, 10.0, 1), Form(10_000, 10.0, 1))
def test_a_grace_that_is_too_short_gives_back_what_runs(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Matrix row 11: what has not begun goes back at once and uncounted, what runs when the grace is over as well."""
    fleet = make_fleet(broker=redis_url, lease=form.lease, worker_soft_shutdown_timeout=1.0)
    worker = fleet.start(ready=True)
    ids = fleet.publish(form.tasks, early=False)
    fleet.wait(lambda: len(fleet.commits()) == len(ids), 240)
    ran = fleet.executions()
    more = fleet.client("print(*(late.delay(n, 30.0).id for n in range(10)))").split()
    fleet.wait(lambda: fleet.executions() == ran + 2)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(60) == 0
    assert fleet.counts() == "10 0 0 0"
    deliveries = fleet.client("print(*sorted(entry.deliveries for entry in app.broker.entries('ready')))").split()
    assert deliveries[:8] == ["0"] * 8
    assert fleet.states(more) == dict.fromkeys(more, "PENDING")


@pytest.mark.parametrize("signals", [("SIGTERM", "SIGTERM"), ("SIGQUIT",)], ids="-".join)
@forms(Form(400, 1.5, 2), Form(10_000, 10.0, 10))
def test_workers_that_are_hurried_lose_nothing(
    make_fleet: MakeFleet, redis_url: str, signals: tuple[str, ...], form: Form
) -> None:
    """Matrix row 12: gone within seconds, while tasks run that would take a minute."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    ids = fleet.publish(form.tasks // 2)
    for round in range(1, form.rounds + 1):
        worker = fleet.start(ready=True)
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        asked = time.monotonic()
        for name in signals:
            os.kill(worker.pid, getattr(signal, name))
        assert worker.wait(60) == 0
        assert time.monotonic() - asked <= form.again
    fleet.start()
    fleet.settle(ids, 120)
    check_promises(fleet, ids)
