"""The network between workers, producers and a Redis server breaks: nothing is lost, done twice, or hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from celery.drivers import broker_class
from crash.fleet import Fleet, check_promises
from crash.forms import Form, forms, rarely
from rig.proxy import Proxy
from rig.redis import RedisServer

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]
faults = pytest.mark.parametrize("fault", ["hold", rarely("swallow")])


def pass_time(fleet: Fleet, seconds: float) -> None:
    ends = time.monotonic() + seconds
    fleet.wait(lambda: time.monotonic() > ends, seconds + 60)


@faults
@forms(Form(600, 10.0, 2), Form(10_000, 30.0, 4, again=10.0))
def test_a_partition_shorter_than_the_lease(
    make_fleet: MakeFleet, durable: RedisServer, way: Proxy, fault: str, form: Form
) -> None:
    """Matrix row 18: the worker is cut off, another one is not; nothing runs twice, and it works on by itself."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    cut_off = fleet.start(ready=True, broker_url=way.url(), result_backend=way.url())
    ids = fleet.publish(form.tasks // 2, seconds=0.005)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 120)
        getattr(way, fault)()
        pass_time(fleet, max(2.0, form.lease - 20))
        ran = fleet.begun()
        way.heal()
        healed = time.monotonic()
        fleet.wait_for_more(ran, 20, len(ids))
        assert time.monotonic() - healed <= form.again
    fleet.start()
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)
    assert cut_off.poll() is None


@faults
@forms(Form(400, 1.5, 1), Form(10_000, 10.0, 2))
def test_a_partition_longer_than_the_lease(
    make_fleet: MakeFleet, durable: RedisServer, way: Proxy, fault: str, form: Form
) -> None:
    """Matrix row 18: another worker takes over; what the one that was cut off then wants to commit is refused."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    cut_off = fleet.start(ready=True, broker_url=way.url(), result_backend=way.url())
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 120)
        getattr(way, fault)()
        if round == 1:
            fleet.start(ready=True)
        pass_time(fleet, form.lease * 2)
        way.heal()
    fleet.settle(ids, 120)
    check_promises(fleet, ids)
    assert cut_off.poll() is None
    number = 5_000_000
    fleet.workers[-1].terminate()
    fleet.workers[-1].wait(30)
    assert fleet.client(f"print(late.delay({number}).get(timeout=30))").strip() == str(number)


@forms(Form(400, 1.5, 1), Form(10_000, 10.0, 1))
def test_renewals_are_lost_and_everything_else_passes(
    make_fleet: MakeFleet, durable: RedisServer, way: Proxy, form: Form
) -> None:
    """Matrix row 19: the lease ends although the worker claims and settles; the fence decides, there is one commit."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    broker = broker_class(durable.url())(durable.url())
    way.swallow_requests_with(broker._scripts["renew"].sha.encode())  # type: ignore[attr-defined]
    fleet.start(ready=True, broker_url=way.url(), result_backend=way.url())
    fleet.start(ready=True)
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    fleet.settle(ids, 300)
    check_promises(fleet, ids)


@forms(Form(400, 1.5, 1), Form(10_000, 10.0, 1))
def test_answers_are_lost_and_requests_pass(
    make_fleet: MakeFleet, durable: RedisServer, way: Proxy, form: Form
) -> None:
    """Matrix row 19, the other way: the server does what it is asked, and the worker never learns of it."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    fleet.start(ready=True, broker_url=way.url(), result_backend=way.url())
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    fleet.wait(lambda: fleet.begun() >= form.tasks // 10)
    way.swallow("down")
    fleet.start(ready=True)
    pass_time(fleet, form.lease * 2)
    way.heal()
    fleet.settle(ids, 300)
    check_promises(fleet, ids)


def test_a_black_hole_under_publishers(make_fleet: MakeFleet, durable: RedisServer, way: Proxy) -> None:
    """Matrix row 21: a typed error within `broker_publish_timeout`, on a connection that stands and on a new one."""
    fleet = make_fleet(broker=way.url(), broker_publish_timeout=2.0)
    broker = broker_class(way.url())(way.url(), options={"timeout": 2.0})
    broker.stats()
    way.swallow()
    printed = fleet.client(
        "import time\n"
        "from kombu.exceptions import OperationalError\n"
        "began = time.monotonic()\n"
        "try:\n"
        "    late.delay(1)\n"
        "except OperationalError:\n"
        "    print(time.monotonic() - began)\n"
    )
    assert 1.5 <= float(printed) <= 12.0
    began = time.monotonic()
    with pytest.raises(Exception, match="cannot be reached") as caught:
        broker.stats()
    assert type(caught.value).__name__ == "BrokerError"
    assert time.monotonic() - began <= 12.0
    way.heal()
    assert broker.stats() is not None
    broker.close()


@pytest.mark.parametrize("pool", ["prefork", rarely("threads"), rarely("solo")])
@forms(Form(300, 30.0, 1, again=30.0), Form(10_000, 30.0, 1, again=10.0))
def test_a_black_hole_under_consumers(
    make_fleet: MakeFleet, durable: RedisServer, way: Proxy, pool: str, form: Form
) -> None:
    """Matrix row 21: an idle worker whose connections died without a word finds out, and consumes again."""
    fleet = make_fleet(broker=durable.url(), lease=form.lease)
    worker = fleet.start("-P", pool, ready=True, broker_url=way.url(), result_backend=way.url())
    assert fleet.client("print(late.delay(-1).get(timeout=30))").strip() == "-1"
    way.swallow()
    ids = fleet.publish(form.tasks // 2)
    pass_time(fleet, 0.5)
    # The connections that stood stay dead, as after a fail-over or in a NAT that forgot them; new ones pass.
    assert way.abandon() > 0
    healed = time.monotonic()
    fleet.wait(lambda: fleet.begun() > 5)
    assert time.monotonic() - healed <= form.again
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert worker.poll() is None


@forms(Form(320, 5.0, 8), Form(10_000, 10.0, 100))
def test_connections_are_reset_under_load(make_fleet: MakeFleet, durable: RedisServer, way: Proxy, form: Form) -> None:
    """Matrix row 22: producers and workers send again what was not answered; every task is there once."""
    fleet = make_fleet(broker=way.url(), lease=form.lease)
    fleet.start(ready=True)
    ids: list[str] = []
    portion = form.tasks // 2 // form.rounds
    for round in range(form.rounds):
        way.cut_after("up", 3000 + round * 517)
        ids += fleet.client(
            f"for n in range({round * portion}, {(round + 1) * portion}):\n"
            "    print(late.apply_async((n, 0.001), link=committed.si(n)).id, early.delay(n).id)\n"
        ).split()
        way.reset()
    fleet.settle(ids, 120)
    check_promises(fleet, ids, lost_early=False)
    assert fleet.executions() == len(ids)
