"""The Redis server goes, comes back, forgets, or is full: what was accepted is done, once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from crash.fleet import Fleet, check_promises, is_final, slaughter
from crash.forms import Form, forms
from rig.redis import RedisServer

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "SIGKILL"])
@forms(Form(1_000, 10.0, 2), Form(10_000, 10.0, 6, again=5.0))
def test_a_server_that_goes_and_comes_back(make_fleet: MakeFleet, durable: RedisServer, kill: bool, form: Form) -> None:
    """Matrix rows 15 and 16, promises 1 and 8: what it acknowledged it has, and workers consume again in seconds."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    workers = [fleet.start(ready=True), fleet.start(ready=True)]
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        if kill:
            durable.kill()
        else:
            durable.stop()
        ran = fleet.begun()
        durable.start()
        back = time.monotonic()
        fleet.wait_for_more(ran, 50, len(ids))
        assert time.monotonic() - back <= form.again
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert [worker.poll() for worker in workers] == [None, None]


@forms(Form(400, 6.0, 1), Form(10_000, 10.0, 1))
def test_a_server_that_is_away_for_longer_than_the_lease(
    make_fleet: MakeFleet, durable: RedisServer, form: Form
) -> None:
    """Nobody could renew meanwhile: the living get the time to connect again, and nothing runs twice.

    That time is half a lease; under a lease of 2 s it would be too short for a worker that tries every 1 to 2 s.
    """
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    for _ in range(2):
        fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.005)
    fleet.wait(lambda: fleet.begun() >= form.tasks // 10)
    durable.stop()
    ends = time.monotonic() + form.lease * 1.2
    fleet.wait(lambda: time.monotonic() > ends)
    durable.start()
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)


@forms(Form(400, 2.0, 3), Form(10_000, 10.0, 40))
def test_what_a_power_cut_leaves_is_whole(make_fleet: MakeFleet, durable: RedisServer, form: Form) -> None:
    """Matrix row 16 without fsync: the last writes are gone, at any byte. What is left is one state, and goes on."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    ids = fleet.publish(form.tasks // 2)
    [log] = durable.folder.glob("appendonlydir/*.incr.aof")
    published = log.stat().st_size
    doomed = fleet.start(ready=True)
    fleet.wait(lambda: fleet.begun() >= form.tasks // 4)
    slaughter(doomed)
    durable.kill()
    whole = log.read_bytes()
    for round in range(form.rounds):
        log.write_bytes(whole[: len(whole) - 1 - round * 104_729 % (len(whole) - published)])
        durable.start()
        states = fleet.states(ids)
        ready, leased, delayed, dead = map(int, fleet.counts().split())
        ended = sum(is_final(state) for state in states.values())
        assert dead == delayed == 0
        assert ready + leased + ended >= len(ids)
        durable.kill()
    durable.start()
    fleet.start()
    fleet.settle(ids, 120)
    fleet.wait(fleet.idle)
    assert fleet.counts() == "0 0 0 0"


@forms(Form(400, 10.0, 1), Form(10_000, 10.0, 1))
def test_a_full_server_refuses_publishers_and_lets_workers_finish(
    make_fleet: MakeFleet, durable: RedisServer, form: Form
) -> None:
    """Matrix row 24: a typed error at once; what was accepted is done, also by a worker that starts only then."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    worker = fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.01)
    fleet.wait(lambda: fleet.begun() >= form.tasks // 20)
    durable.ask("CONFIG", "SET", "maxmemory", "1")
    refused = fleet.client(
        "import time\n"
        "from kombu.exceptions import OperationalError\n"
        "began = time.monotonic()\n"
        "try:\n"
        "    late.delay(1)\n"
        "except OperationalError as error:\n"
        "    print(error)\n"
        "assert time.monotonic() - began < 20\n"
    )
    assert "maxmemory" in refused
    second = fleet.start(ready=True)
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)
    durable.ask("CONFIG", "SET", "maxmemory", "0")
    assert fleet.client("print(late.delay(0).get(timeout=30))").strip() == "0"
    assert [worker.poll(), second.poll()] == [None, None]


def test_a_server_that_may_evict_is_warned_of_or_refused(make_fleet: MakeFleet, durable: RedisServer) -> None:
    """Matrix row 25."""
    durable.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    fleet = make_fleet(broker=durable.url())
    warned = fleet.start(ready=True)
    fleet.wait(lambda: "maxmemory-policy allkeys-lru" in fleet.said)
    assert fleet.client("print(late.delay(0).get(timeout=30))").strip() == "0"
    assert fleet.said.count("maxmemory-policy allkeys-lru") == 1
    refused = fleet.start(broker_transport_options={"strict": True})
    assert refused.wait(60) != 0
    assert "CONFIG SET maxmemory-policy noeviction" in fleet.said
    assert "Traceback" not in fleet.said
    assert warned.poll() is None


@forms(Form(200, 2.0, 2), Form(10_000, 10.0, 10, again=5.0))
def test_workers_outlive_a_server_that_was_emptied(make_fleet: MakeFleet, durable: RedisServer, form: Form) -> None:
    """Matrix row 25, FLUSHALL: what was there is gone, what comes afterwards is done, once."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    workers = [fleet.start(ready=True), fleet.start(ready=True)]
    for round in range(form.rounds):
        ran = fleet.begun()
        fleet.publish(form.tasks // 2, seconds=0.005, first=round * form.tasks)
        fleet.wait(lambda ran=ran: fleet.begun() > ran)
        durable.ask("FLUSHALL")
        began = time.monotonic()
        number = 1_000_000 + round
        printed = fleet.client(
            f"r = late.apply_async(({number},), link=committed.si({number})); print(r.get(timeout=30))"
        )
        assert printed.strip() == str(number)
        assert time.monotonic() - began <= form.again
        fleet.wait(lambda number=number: len(fleet.commits()[number]) == 1)
        fleet.wait(fleet.idle)
    assert all(len(tags) == 1 for tags in fleet.commits().values() if tags)
    assert [worker.poll() for worker in workers] == [None, None]


@forms(Form(1_000, 10.0, 30), Form(10_000, 10.0, 300))
def test_scripts_are_flushed_under_load(make_fleet: MakeFleet, durable: RedisServer, form: Form) -> None:
    """Matrix row 26."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        durable.ask("SCRIPT", "FLUSH")
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)
    assert "ERROR" not in fleet.said


@forms(Form(1_000, 10.0, 30), Form(10_000, 10.0, 300))
def test_connections_are_killed_under_load(make_fleet: MakeFleet, durable: RedisServer, form: Form) -> None:
    """`CLIENT KILL` of everything, again and again, while producers and workers are at it."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        durable.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        durable.ask("CLIENT", "KILL", "TYPE", "pubsub")
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)
