"""Workers on RabbitMQ, their results in Redis, that are killed or stand still: nothing is lost, nothing is committed
twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from crash.fleet import Fleet, children_of, go_on, slaughter, stop
from crash.forms import Form, forms, rarely
from crash.rabbit import Commits, check_kept, kinds
from crash.test_redis_processes import alive

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make(make_fleet: MakeFleet, rabbitmq_url: str, redis_url: str) -> MakeFleet:
    """`make(kind, lease)`: a fleet in a vhost of the shared node, whose queues are of that kind."""

    def make(kind: str, lease: float, **settings: object) -> Fleet:
        return make_fleet(broker=rabbitmq_url, backend=redis_url, lease=lease, task_default_queue_type=kind, **settings)

    return make


@kinds("classic")
@forms(Form(300, 2.0, 3), Form(10_000, 30.0, 60))
def test_children_are_killed_again_and_again(make: MakeFleet, commits: Commits, kind: str, form: Form) -> None:
    """Matrix row 1."""
    fleet = make(kind, form.lease)
    worker = fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        victims = fleet.slots(worker)
        with suppress(ProcessLookupError):
            os.kill(victims[round % len(victims)], signal.SIGKILL)
    fleet.settle(ids, 120)
    assert worker.poll() is None
    check_kept(fleet, ids, commits)


@kinds("quorum")
@forms(Form(300, 2.0, 1), Form(10_000, 10.0, 6))
def test_parents_are_killed_and_their_children_go(make: MakeFleet, commits: Commits, kind: str, form: Form) -> None:
    """Matrix row 2: orphans end within 5 s, and whatever they finish is committed by nobody."""
    fleet = make(kind, form.lease)
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    for round in range(1, form.rounds + 1):
        doomed = fleet.start(ready=True)
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        orphans = children_of(doomed.pid)
        doomed.kill()
        doomed.wait(10)
        killed = time.monotonic()
        fleet.wait(lambda orphans=orphans: not any(alive(pid) for pid in orphans), 30)
        assert time.monotonic() - killed <= form.again
    fleet.start()
    fleet.settle(ids, 120)
    check_kept(fleet, ids, commits)


@kinds("quorum")
@pytest.mark.parametrize("point", ["start", "settle"])
@forms(Form(300, 1.5, 1), Form(10_000, 10.0, 10))
def test_workers_are_killed_before_they_mark_or_settle(
    make: MakeFleet, commits: Commits, point: str, kind: str, form: Form
) -> None:
    """Matrix rows 3 and 4: after the claim and before the mark; after the side effect, the results and the follow-ups,
    and before the acknowledgement."""
    kill_at(point, make(kind, form.lease), commits, form)


@kinds("classic")
@pytest.mark.parametrize("point", ["stored", rarely("sent")])
@forms(Form(300, 1.5, 1), Form(10_000, 10.0, 10))
def test_workers_are_killed_between_the_result_and_its_follow_ups(
    make: MakeFleet, commits: Commits, point: str, kind: str, form: Form
) -> None:
    """Matrix row 5: the results are in Redis, and the callbacks come all the same, each under one task id."""
    kill_at(point, make(kind, form.lease), commits, form)


@kinds("quorum")
@forms(Form(400, 2.0, 1), Form(20_000, 10.0, 3))
def test_everything_is_killed_again_and_again(make: MakeFleet, commits: Commits, kind: str, form: Form) -> None:
    """Rows 1 to 4 at once: whole workers, at any moment."""
    fleet = make(kind, form.lease)
    ids = fleet.kill_pairs(form.tasks // 2, form.rounds, seconds=0.001)
    fleet.start()
    fleet.start()
    fleet.settle(ids, 300)
    check_kept(fleet, ids, commits)


@kinds("classic")
@forms(Form(200, 2.0, 1), Form(10_000, 30.0, 1), minutes=20)
def test_a_worker_that_stood_still_is_refused_when_it_comes_back(
    make: MakeFleet, commits: Commits, kind: str, form: Form
) -> None:
    """Matrix row 7: the server takes back what it held after two heartbeats, and another does it; what it then wants
    to commit is refused and counted."""
    fleet = make(kind, form.lease, broker_heartbeat=2)
    zombie = fleet.start(ready=True, concurrency=1)
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    fleet.wait(lambda: fleet.begun() >= 5)
    stop(zombie)
    fleet.start(concurrency=2)
    fleet.settle(ids, 300)
    go_on(zombie)
    fleet.wait(lambda: "were refused" in fleet.said or "was lost" in fleet.said)
    assert fleet.client("print(late.delay(0).get(timeout=30))").strip() == "0"
    assert zombie.poll() is None
    check_kept(fleet, ids, commits)


@kinds("quorum")
@forms(Form(300, 10.0, 2), Form(10_000, 10.0, 12))
def test_workers_are_replaced_under_load(make: MakeFleet, commits: Commits, kind: str, form: Form) -> None:
    """Matrix row 10: every task runs once, none fails, none is left; as many workers come as go."""
    fleet = make(kind, form.lease)
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    current = fleet.start(ready=True)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        current.terminate()
        heir = fleet.start(ready=True)
        assert current.wait(60) == 0
        current = heir
    fleet.settle(ids, 120)
    check_kept(fleet, ids, commits, lost_early=False, once=True)


@kinds("classic")
@forms(Form(100, 2.0, 1), Form(10_000, 10.0, 1))
def test_a_grace_that_is_too_short_gives_back_what_runs(
    make: MakeFleet, commits: Commits, kind: str, form: Form
) -> None:
    """Matrix row 11: what has not begun goes back at once and uncounted, what runs when the grace is over as well."""
    fleet = make(kind, form.lease, worker_soft_shutdown_timeout=1.0)
    worker = fleet.start(ready=True)
    more = fleet.client("print(*(late.delay(10**6 + n, 8.0).id for n in range(2)))").split()
    fleet.wait(lambda: fleet.executions() == 2)
    ids = fleet.publish(form.tasks // 2)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(60) == 0
    fleet.wait(lambda: fleet.counts() == f"{len(ids) + 2} 0 0 0")
    assert fleet.begun() == 2
    assert fleet.states(more) == dict.fromkeys(more, "PENDING")
    fleet.start("-P", "threads", concurrency=8, ready=True, worker_soft_shutdown_timeout=0.0)
    fleet.settle([*ids, *more], 240)
    assert fleet.executions() == len(ids) + 4
    check_kept(fleet, ids, commits, lost_early=False)
    commits.check(more)


@pytest.mark.parametrize("signals", [("SIGTERM", "SIGTERM"), ("SIGQUIT",)], ids="-".join)
@kinds("quorum")
@forms(Form(200, 1.5, 1), Form(10_000, 10.0, 10))
def test_workers_that_are_hurried_lose_nothing(
    make: MakeFleet, commits: Commits, signals: tuple[str, ...], kind: str, form: Form
) -> None:
    """Matrix row 12: gone within seconds."""
    fleet = make(kind, form.lease)
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
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
    check_kept(fleet, ids, commits)


def kill_at(point: str, fleet: Fleet, commits: Commits, form: Form) -> None:
    """Kill a worker when it has come to *point* for the second time, the next at the third, and so on."""
    ids = fleet.publish(form.tasks // 2)
    for round in range(form.rounds):
        doomed = fleet.start(kill=f"{point}:{2 + round}")
        assert doomed.wait(60) == -signal.SIGKILL
        slaughter(doomed)
    assert fleet.begun() < form.tasks, "the tasks had run before a worker was killed: the test proves nothing"
    fleet.start()
    fleet.settle(ids, 120)
    check_kept(fleet, ids, commits)


@kinds("classic")
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
@forms(Form(1000, 2.0, 2), Form(10_000, 30.0, 20))
def test_without_results_what_had_not_begun_is_not_lost(
    make_fleet: MakeFleet, rabbitmq_url: str, fault: signal.Signals, kind: str, form: Form
) -> None:
    """Matrix rows 2 and 10, of tasks that are acknowledged when they begin, as nothing can tell later that they did.

    What a killed worker had acknowledged and the server had not read goes with it: that may run again.
    """
    slots = 2
    fleet = make_fleet(broker=rabbitmq_url, backend="disabled://", lease=form.lease, task_default_queue_type=kind)
    fleet.client(f"with app.bulk():\n    for n in range({form.tasks}):\n        early.delay(n)\n")
    for round in range(1, form.rounds + 1):
        doomed = fleet.start(ready=True, concurrency=slots)
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 1): fleet.begun() >= goal, 120)
        doomed.send_signal(fault)
        doomed.wait(60)
    lost = form.rounds * slots if fault == signal.SIGKILL else 0
    heir = fleet.start(ready=True)
    fleet.wait(lambda: fleet.begun() >= form.tasks - lost, 120)
    heir.terminate()
    assert heir.wait(60) == 0
    if fault == signal.SIGTERM:
        assert fleet.idle()
        assert fleet.executions() == form.tasks
