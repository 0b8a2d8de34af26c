"""Workers on Redis that are killed, or stand still: nothing is lost and nothing is committed twice."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from crash.fleet import Fleet, Process, check_promises, children_of, go_on, is_final, slaughter, stop
from crash.forms import Form, forms
from rig.redis import RedisServer

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]


@forms(Form(1_000, 2.0, 8), Form(10_000, 30.0, 60))
def test_children_are_killed_again_and_again(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Matrix row 1."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    worker = fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        victims = fleet.slots(worker)
        with suppress(ProcessLookupError):
            os.kill(victims[round % len(victims)], signal.SIGKILL)
    fleet.settle(ids, 120)
    check_promises(fleet, ids)
    assert worker.poll() is None


@forms(Form(1_000, 2.0, 2), Form(10_000, 10.0, 6, again=5.0))
def test_parents_are_killed_and_their_children_go(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Matrix row 2: orphans end within 5 s, and whatever they finish is committed by nobody."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
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
    check_promises(fleet, ids)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("point", ["start", "settle"])
@forms(Form(400, 1.5, 2), Form(10_000, 10.0, 10))
def test_workers_are_killed_before_they_mark_or_settle(
    make_fleet: MakeFleet, redis_url: str, point: str, form: Form
) -> None:
    """Matrix rows 3 and 4: after the claim and before the start; after the side effect and before the settlement."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    ids = fleet.publish(form.tasks // 2)
    for round in range(form.rounds):
        doomed = fleet.start(kill=f"{point}:{2 + round}")
        assert doomed.wait(60) == -signal.SIGKILL
        slaughter(doomed)
    assert fleet.begun() < form.tasks, "the tasks had run before a worker was killed: the test proves nothing"
    fleet.start()
    fleet.settle(ids, 120)
    check_promises(fleet, ids)


@forms(Form(200, 1.5, 2), Form(10_000, 10.0, 10))
def test_workers_are_killed_between_the_result_and_its_follow_ups(
    make_fleet: MakeFleet, redis_server: RedisServer, redis_url: str, durable: RedisServer, form: Form
) -> None:
    """Matrix row 5, where results are on another server: the callbacks come all the same."""
    fleet = make_fleet(broker=redis_url, backend=durable.url(), lease=form.lease)
    ids = fleet.publish(form.tasks, early=False)
    for round in range(form.rounds):
        doomed = fleet.start(kill=f"sent:{2 + round}")
        assert doomed.wait(60) == -signal.SIGKILL
        slaughter(doomed)
    fleet.start()
    states = fleet.settle(ids, 120)
    fleet.wait(lambda: len(fleet.commits()) >= len(ids))
    fleet.wait(fleet.idle)
    assert set(states.values()) == {"SUCCESS"}
    assert set(fleet.commits()) == set(range(len(ids)))


@forms(Form(1_000, 2.0, 2), Form(20_000, 10.0, 3))
def test_everything_is_killed_again_and_again(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Rows 1 to 4 at once: whole workers, at any moment."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    ids = fleet.kill_pairs(form.tasks // 2, form.rounds)
    fleet.start()
    fleet.start()
    fleet.settle(ids, 300)
    check_promises(fleet, ids)


@forms(Form(40, 1.5, 1), Form(200, 10.0, 12, again=12.0), Form(200, 30.0, 4, again=40.0))
def test_what_a_dead_worker_ran_begins_again_in_time(make_fleet: MakeFleet, redis_url: str, form: Form) -> None:
    """Promise 2: within the lease and a sweep, p99 over all that dead workers ran.

    12 s under a lease of 10 s, 40 s under the default one.
    """
    fleet = make_fleet(broker=redis_url, lease=form.lease)

    def start() -> Process:
        return fleet.start("-P", "threads", ready=True, concurrency=form.tasks)

    def places() -> dict[int, int]:
        """The process in which each task has begun last."""
        rows = [line.split() for line in fleet.log.read_text().splitlines()]
        return {int(number): int(pid) for _, number, pid in rows}

    workers = [start(), start(), start()]
    fleet.client(f"with app.bulk():\n    for n in range({form.tasks}):\n        stay.delay(n)")
    fleet.wait(lambda: len(places()) == form.tasks)
    waits: list[float] = []
    for _ in range(form.rounds):
        [(pid, _)] = Counter(places().values()).most_common(1)
        victim = next(worker for worker in workers if worker.pid == pid)
        orphans = {number for number, place in places().items() if place == pid}
        killed = time.monotonic()
        slaughter(victim)
        while orphans:
            fleet.wait(lambda pid=pid, orphans=orphans: any(places()[number] != pid for number in orphans))
            again = {number for number in orphans if places()[number] != pid}
            waits += [time.monotonic() - killed] * len(again)
            orphans -= again
        workers[workers.index(victim)] = start()
    waits.sort()
    print(f"{len(waits)} tasks began again after {waits[0]:.1f} to {waits[-1]:.1f} s")
    assert waits[int(len(waits) * 0.99)] <= form.again


@forms(Form(300, 2.0, 1), Form(10_000, 30.0, 1), minutes=20)
def test_a_worker_that_stood_still_is_refused_when_it_comes_back(
    make_fleet: MakeFleet, redis_url: str, form: Form
) -> None:
    """Matrix row 7: what it held is done by another; what it then wants to commit is refused and counted."""
    fleet = make_fleet(broker=redis_url, lease=form.lease)
    zombie = fleet.start(ready=True, concurrency=1)
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    fleet.wait(lambda: fleet.begun() >= 5)
    stop(zombie)
    fleet.start(concurrency=2)
    fleet.settle([id for id in ids if not is_final(id)], 300)
    go_on(zombie)
    fleet.wait(lambda: "were refused" in fleet.said or "was lost" in fleet.said)
    check_promises(fleet, ids)
    assert fleet.client("print(late.delay(0).get(timeout=30))").strip() == "0"
    assert zombie.poll() is None


@pytest.mark.parametrize(
    ("task", "pool"),
    [
        ("hold_interpreter", "prefork"),
        ("spin", "threads"),
        pytest.param("spin", "solo", marks=pytest.mark.chaos),
        pytest.param("spin", "prefork", marks=pytest.mark.chaos),
    ],
)
def test_code_that_keeps_the_processor_keeps_the_lease(
    make_fleet: MakeFleet, redis_url: str, task: str, pool: str
) -> None:
    """Matrix row 8: for longer than the lease; other workers are there to take what seems lost."""
    fleet = make_fleet(broker=redis_url, lease=2.0)
    fleet.start("-P", pool, concurrency=1, ready=True)
    id = fleet.client(f"print({task}.delay(1, 3.5).id)").strip()
    fleet.wait(lambda: fleet.lines()["late 1"] == 1)
    fleet.start(concurrency=1)
    assert fleet.client(f"print(app.AsyncResult({id!r}).get(timeout=30))").strip() == "1"
    assert fleet.lines()["late 1"] == 1
    assert "A worker is gone" not in fleet.said


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("task", "pool"), [("hold_interpreter", "prefork"), ("spin", "threads")])
def test_code_that_keeps_the_processor_keeps_the_lease_of_all_others(
    make_fleet: MakeFleet, redis_url: str, task: str, pool: str
) -> None:
    """Matrix row 8 under load: 10,000 tasks, among them some that keep the processor for longer than the lease."""
    fleet = make_fleet(broker=redis_url, lease=2.0)
    workers = [fleet.start("-P", pool, ready=True), fleet.start("-P", pool, ready=True)]
    ids: list[str] = []
    busy: list[str] = []
    for round in range(5):
        busy.append(fleet.client(f"print({task}.delay({10**6 + round}, 4.0).id)").strip())
        ids += fleet.client(
            f"with app.bulk():\n    for n in range({round * 1000}, {(round + 1) * 1000}):\n"
            "        print(late.apply_async((n, 0.001), link=committed.si(n)).id, early.delay(n, 0.001).id)\n"
        ).split()
    fleet.settle([*ids, *busy], 300)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids) + len(busy)
    assert [worker.poll() for worker in workers] == [None, None]
    assert "A worker is gone" not in fleet.said
