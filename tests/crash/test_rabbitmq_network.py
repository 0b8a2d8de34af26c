"""The network between workers, producers and RabbitMQ breaks: nothing is lost, committed twice, or hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from celery.drivers import broker_class
from crash.fleet import Fleet
from crash.forms import Form, forms, rarely
from crash.rabbit import Commits, check_kept, kinds, through
from crash.test_redis_network import pass_time
from rig.proxy import Proxy, Way
from rig.rabbitmq import RabbitMQ

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]


def ways(short: tuple[Way, ...]) -> pytest.MarkDecorator:
    """Parametrises a test with the `ways` that are cut, none for both: *short* always, others with `make chaos`."""
    names: dict[str, tuple[Way, ...]] = {"both": (), "up": ("up",), "down": ("down",)}
    marks = {id: [] if ways == short else [pytest.mark.chaos] for id, ways in names.items()}
    return pytest.mark.parametrize("ways", [pytest.param(ways, id=id, marks=marks[id]) for id, ways in names.items()])


@pytest.fixture
def way(rabbitmq_server: RabbitMQ) -> Iterator[Proxy]:
    """A proxy before the shared node."""
    with Proxy(rabbitmq_server.port) as proxy:
        yield proxy


@pytest.fixture
def make(make_fleet: MakeFleet, rabbitmq_url: str, redis_url: str) -> MakeFleet:
    """`make(kind, lease)`: a fleet in a vhost of the shared node, whose queues are of that kind."""

    def make(kind: str, lease: float, **settings: object) -> Fleet:
        return make_fleet(
            backend=redis_url, lease=lease, task_default_queue_type=kind, **{"broker": rabbitmq_url, **settings}
        )

    return make


@ways(("down",))
@kinds("classic")
@forms(Form(200, 10.0, 1), Form(10_000, 30.0, 4, again=10.0))
def test_a_partition_shorter_than_the_heartbeat(
    make: MakeFleet,
    commits: Commits,
    way: Proxy,
    rabbitmq_url: str,
    ways: tuple[Way, ...],
    kind: str,
    form: Form,
) -> None:
    """Matrix rows 18 and 19, one way or both: nothing runs twice, and the worker works on by itself."""
    fleet = make(kind, form.lease)
    cut_off = fleet.start(ready=True, broker_url=through(way, rabbitmq_url))
    ids = fleet.publish(form.tasks // 2, seconds=0.005)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 120)
        way.hold(*ways)
        pass_time(fleet, 2.0)
        ran = fleet.begun()
        way.heal()
        healed = time.monotonic()
        fleet.wait_for_more(ran, 20, len(ids))
        assert time.monotonic() - healed <= form.again
    fleet.start()
    fleet.settle(ids, 120)
    assert cut_off.poll() is None
    check_kept(fleet, ids, commits, lost_early=False, once=True)


@ways(())
@kinds("quorum")
@forms(Form(200, 2.0, 1), Form(10_000, 10.0, 2))
def test_a_partition_longer_than_the_heartbeat(
    make: MakeFleet,
    commits: Commits,
    way: Proxy,
    rabbitmq_url: str,
    ways: tuple[Way, ...],
    kind: str,
    form: Form,
) -> None:
    """Matrix rows 18 and 19: the server gives what the worker held to another one; each task has one result."""
    fleet = make(kind, form.lease, broker_heartbeat=2)
    cut_off = fleet.start(ready=True, broker_url=through(way, rabbitmq_url))
    ids = fleet.publish(form.tasks // 2, seconds=0.02)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 120)
        way.hold(*ways)
        if round == 1:
            fleet.start(ready=True)
        pass_time(fleet, 7.0)
        way.heal()
    fleet.settle(ids, 120)
    assert cut_off.poll() is None
    number = 5_000_000
    fleet.workers[-1].terminate()
    fleet.workers[-1].wait(60)
    assert fleet.client(f"print(late.delay({number}).get(timeout=60))").strip() == str(number)
    check_kept(fleet, ids, commits)


def test_a_black_hole_under_publishers(make: MakeFleet, way: Proxy, rabbitmq_url: str) -> None:
    """Matrix row 21: a typed error within `broker_publish_timeout`, on a connection that stands and on a new one."""
    fleet = make("classic", 2.0, broker=through(way, rabbitmq_url), broker_publish_timeout=2.0)
    broker = broker_class("amqp://")(through(way, rabbitmq_url), options={"timeout": 2.0})
    broker.stats(["celery"])
    fleet.client("late.delay(0)")
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
    assert 1.0 <= float(printed) <= 12.0
    began = time.monotonic()
    with pytest.raises(Exception, match="RabbitMQ at") as caught:
        broker.stats(["celery"])
    assert type(caught.value).__name__ == "BrokerError"
    assert time.monotonic() - began <= 12.0
    way.heal()
    assert broker.stats(["celery"])[0].ready >= 1
    broker.close()


@pytest.mark.parametrize("pool", ["prefork", rarely("threads"), rarely("solo")])
@kinds("classic")
@forms(Form(200, 5.0, 1, again=30.0), Form(10_000, 30.0, 1, again=10.0))
def test_a_black_hole_under_consumers(
    make: MakeFleet, commits: Commits, way: Proxy, rabbitmq_url: str, pool: str, kind: str, form: Form
) -> None:
    """Matrix row 21: an idle worker whose connections died without a word finds out, and consumes again.

    The heartbeat is far away: the worker asks by itself.
    """
    fleet = make(kind, form.lease, broker_heartbeat=60)
    worker = fleet.start("-P", pool, ready=True, broker_url=through(way, rabbitmq_url))
    assert fleet.client("print(late.delay(-1).get(timeout=60))").strip() == "-1"
    # The connections that stand are dead from now on, as after a fail-over or in a NAT that forgot them; new ones pass.
    assert way.abandon() > 0
    abandoned = time.monotonic()
    ids = fleet.publish(form.tasks // 2)
    fleet.wait(lambda: fleet.begun() > 5)
    assert time.monotonic() - abandoned <= form.again + 5
    # What the server has sent to the dead connection it keeps for that one until it knows better.
    way.reset()
    fleet.settle(ids, 120)
    assert worker.poll() is None
    check_kept(fleet, ids, commits, lost_early=False)


@kinds("quorum")
@forms(Form(240, 5.0, 6), Form(10_000, 10.0, 100))
def test_connections_are_reset_under_load(
    make: MakeFleet, commits: Commits, way: Proxy, rabbitmq_url: str, kind: str, form: Form
) -> None:
    """Matrix row 22: producers and workers send again what was not answered; every task is done once.

    A message may then be there twice, but has one task id: it has one result, and its callback one id.
    """
    fleet = make(kind, form.lease, broker=through(way, rabbitmq_url))
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
    check_kept(fleet, ids, commits, lost_early=False)


@kinds("classic")
@forms(Form(60, 10.0, 1), Form(10_000, 30.0, 1), minutes=20)
def test_a_slow_network(
    make: MakeFleet, commits: Commits, way: Proxy, rabbitmq_url: str, kind: str, form: Form
) -> None:
    """Matrix row 23: everything takes 100 ms more each way; all is done, once.

    A worker waits for two round trips between two batches: it has as many slots, and reserves as much, as such a
    network asks for.
    """
    fleet = make(kind, form.lease, worker_prefetch_multiplier=8)
    way.delay(0.1)
    worker = fleet.start("-P", "threads", concurrency=32, ready=True, broker_url=through(way, rabbitmq_url))
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    fleet.settle(ids, 600)
    assert worker.poll() is None
    check_kept(fleet, ids, commits, lost_early=False, once=True)
