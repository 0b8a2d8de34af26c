"""A RabbitMQ node goes and comes back, is full, or is one of three that are killed: what was confirmed is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celery.backends.store import in_order
from celery.brokers.rabbitmq import RabbitBroker
from celery.contrib.testing.contract.stores import part
from celery.drivers import broker_class
from celery.exceptions import BrokerError
from celery.wire.message import Queue
from crash.fleet import Fleet, slaughter
from crash.forms import Form, forms, rarely
from crash.rabbit import Commits, Producer, check_kept, kinds
from rig.rabbitmq import Cluster, RabbitMQ

pytestmark = pytest.mark.crash
MakeFleet = Callable[..., Fleet]
VHOST = "fleet"


@pytest.fixture
def mortal(mortal_rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> Iterator[RabbitMQ]:
    """The node of this module, which runs when a test begins; `make` has a vhost of it that goes with the test."""
    mortal_rabbitmq.start()
    mortal_rabbitmq.add_vhosts([VHOST])
    yield mortal_rabbitmq
    mortal_rabbitmq.start()
    mortal_rabbitmq.control("delete_vhost", VHOST)


@pytest.fixture
def make(mortal: RabbitMQ, make_fleet: MakeFleet, redis_url: str) -> MakeFleet:
    """`make(kind, lease)`: a fleet on the module's node, whose queues are of that kind."""

    def make(kind: str, lease: float, **settings: object) -> Fleet:
        given = {"broker": mortal.url(VHOST), **settings}
        return make_fleet(backend=redis_url, lease=lease, task_default_queue_type=kind, **given)

    return make


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "SIGKILL"])
@kinds("quorum")
@forms(Form(400, 10.0, 1, again=30.0), Form(10_000, 30.0, 6, again=5.0))
def test_a_node_that_goes_and_comes_back(
    make: MakeFleet, commits: Commits, mortal: RabbitMQ, kill: bool, kind: str, form: Form
) -> None:
    """Matrix rows 15 and 16, promises 1 and 8: what it confirmed it has, and workers consume again in seconds."""
    fleet = make(kind, form.lease)
    workers = [fleet.start(ready=True), fleet.start(ready=True)]
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    producer = Producer(fleet, form.tasks // 10)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 120)
        if kill:
            mortal.kill()
        else:
            mortal.end()
        ran = fleet.begun()
        mortal.start()
        back = time.monotonic()
        fleet.wait_for_more(ran, 20, len(ids) + form.tasks // 10)
        print(f"consuming again after {time.monotonic() - back:.1f} s")
        assert time.monotonic() - back <= form.again
    more = producer.confirmed()
    assert set(fleet.settle(more, 120).values()) == {"SUCCESS"}
    fleet.settle(ids, 120)
    assert [worker.poll() for worker in workers] == [None, None]
    check_kept(fleet, ids, commits, lost_early=False)
    commits.check(more)


@pytest.mark.parametrize("cause", ["memory", rarely("disk")])
@kinds("classic")
@forms(Form(100, 5.0, 1), Form(10_000, 30.0, 1))
def test_a_node_that_is_full(
    make: MakeFleet, commits: Commits, mortal: RabbitMQ, cause: str, kind: str, form: Form
) -> None:
    """Matrix row 24: a typed error in time, and workers go on; what is to send something when it ends waits with it.

    Also those that start only then; all is done when the node takes messages again.
    """
    fleet = make(kind, form.lease, broker_publish_timeout=3.0)
    fleet.start(ready=True)
    count = max(100, form.tasks // 5)
    plain = fleet.client(f"with app.bulk():\n    print(*(early.delay(10**6 + n, 0.05).id for n in range({count})))")
    ids = fleet.publish(form.tasks // 2, seconds=0.001)
    fleet.wait(lambda: fleet.begun() >= 5)
    alarm(mortal, cause, on=True)
    try:
        refused = fleet.client(
            "import time\n"
            "from kombu.exceptions import OperationalError\n"
            "began = time.monotonic()\n"
            "try:\n"
            "    late.delay(1)\n"
            "except OperationalError as error:\n"
            "    print(error)\n"
            "assert time.monotonic() - began < 15\n"
        )
        assert "takes no messages for now" in refused
        fleet.start(ready=True)
        fleet.settle(plain.split(), 240)
    finally:
        alarm(mortal, cause, on=False)
    fleet.settle(ids, 120)
    assert fleet.client("print(late.delay(0).get(timeout=60))").strip() == "0"
    check_kept(fleet, ids, commits, lost_early=False)


def alarm(node: RabbitMQ, cause: str, *, on: bool) -> None:
    if cause == "memory":
        node.control("set_vm_memory_high_watermark", *(("absolute", "1MB") if on else ("0.8",)))
    else:
        node.control("set_disk_free_limit", "1000000GB" if on else "50MB")


@pytest.fixture
def cluster(rabbitmq_cluster: Cluster) -> Iterator[Cluster]:
    """Three nodes, all of which run again when the test is over."""
    yield rabbitmq_cluster
    rabbitmq_cluster.start()


@pytest.fixture
def cluster_url(cluster: Cluster, tmp_path: Path) -> str:
    """An empty vhost, on any of the nodes."""
    name = tmp_path.name
    cluster.nodes[0].add_vhosts([name])
    return cluster.url(name)


def leader(cluster: Cluster, url: str) -> RabbitMQ:
    """The node that leads the queue of the tasks."""
    rows = cluster.nodes[0].queues("name", "leader", vhost=url.rpartition("/")[2])
    [name] = [leader for queue, leader in rows if queue == "celery"]
    return next(node for node in cluster.nodes if node.node == name)


@forms(Form(400, 5.0, 1, again=60.0), Form(10_000, 30.0, 4, again=10.0), minutes=20)
def test_a_node_of_a_cluster_is_killed(
    make: MakeFleet, commits: Commits, cluster: Cluster, cluster_url: str, form: Form
) -> None:
    """Matrix row 17, promises 1 and 8: the node that leads the queue, the one of the first URL to begin with.

    Nothing confirmed is lost; workers consume again within 10 s, and producers are served by the others.  A queue of
    the kind classic is away with its node, and served again when that is back.
    """
    with closing(broker_class(cluster_url)(cluster_url)) as broker:
        broker.declare([Queue("plain")])
    fleet = make("quorum", form.lease, broker=cluster_url, broker_publish_timeout=10.0)
    workers = [fleet.start("-Q", "celery,plain", ready=True), fleet.start("-Q", "celery,plain", ready=True)]
    ids = fleet.publish(form.tasks // 2, seconds=0.005)
    more: list[str] = []
    for round in range(form.rounds):
        victim = leader(cluster, cluster_url)
        assert victim is cluster.nodes[0] or round
        fleet.wait(lambda goal=(round + 1) * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 240)
        producer = Producer(fleet, form.tasks // 4 // form.rounds, 0.02, first=9_000_000 + round * form.tasks)
        victim.kill()
        ran, sent, killed = fleet.begun(), producer.count(), time.monotonic()
        fleet.wait_for_more(ran, 20, len(ids) + (round + 1) * (form.tasks // 4 // form.rounds))
        again = time.monotonic() - killed
        goal = min(sent + 6, form.tasks // 4 // form.rounds)
        fleet.wait(lambda producer=producer, goal=goal: producer.count() >= goal)  # type: ignore[misc]
        print(f"consuming again after {again:.1f} s, sending again after {time.monotonic() - killed:.1f} s")
        assert again <= form.again
        victim.start()
        more += producer.confirmed()
    assert set(fleet.settle(more, 240).values()) == {"SUCCESS"}
    fleet.settle(ids, 240)
    assert fleet.client("print(late.apply_async((0,), queue='plain').get(timeout=60))").strip() == "0"
    assert [worker.poll() for worker in workers] == [None, None]
    check_kept(fleet, ids, commits)
    commits.check(more)


def test_a_join_whose_node_is_away_is_neither_done_nor_incomplete(cluster: Cluster, cluster_url: str) -> None:
    """Its parts are in a queue of the kind classic, which is away with its node. Who sees to it waits."""
    vhost, group = cluster_url.rpartition("/")[2], "g."
    here, there = cluster.nodes[0], cluster.nodes[2]
    with closing(RabbitBroker(there.url(vhost))) as broker:
        assert broker.joins().arrive([part(0, 2), part(1, 2)]) == [False, True]
    there.restart()  # not before it is down has a node all its queues on disk
    there.end()
    with closing(RabbitBroker(here.url(vhost), options={"timeout": 2.0})) as broker:
        with pytest.raises(BrokerError, match="is down or inaccessible") as caught:
            broker.joins().hold(group)
        assert caught.value.temporary
        there.start()
        held = broker.joins().hold(group)
        assert held is not None
        assert in_order(held.parts) == [b"0", b"1"]
        held.close()


@kinds("classic")
@forms(Form(200, 2.0, 1), Form(10_000, 10.0, 4))
def test_everything_is_killed_at_once(
    make: MakeFleet, commits: Commits, mortal: RabbitMQ, kind: str, form: Form
) -> None:
    """Rows 1 to 4 and 16 at once: the node and all workers, and all of them start again."""
    fleet = make(kind, form.lease)
    ids = fleet.publish(form.tasks // 2, seconds=0.002)
    for round in range(1, form.rounds + 1):
        pair = [fleet.start(ready=True), fleet.start(ready=True)]
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 2): fleet.begun() >= goal, 240)
        mortal.kill()
        for worker in pair:
            slaughter(worker)
        mortal.start()
    fleet.start()
    fleet.start()
    fleet.settle(ids, 240)
    check_kept(fleet, ids, commits)


@forms(Form(200, 5.0, 1, again=90.0), Form(10_000, 30.0, 2, again=60.0), minutes=20)
def test_a_cluster_without_its_majority(
    make: MakeFleet, commits: Commits, cluster: Cluster, cluster_url: str, form: Form
) -> None:
    """Matrix row 20: two of three nodes are killed. What is sent meanwhile is confirmed truthfully, or refused.

    Nothing confirmed is lost, and all goes on by itself when there is a majority again.
    """
    fleet = make("quorum", form.lease, broker=cluster_url, broker_publish_timeout=5.0)
    workers = [fleet.start(ready=True), fleet.start(ready=True)]
    ids = fleet.publish(form.tasks // 2, seconds=0.005)
    producer = Producer(fleet, form.tasks // 10)
    for round in range(1, form.rounds + 1):
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 3): fleet.begun() >= goal, 240)
        for node in cluster.nodes[:2]:
            node.kill()
        refused = fleet.client(
            "from kombu.exceptions import OperationalError\n"
            "try:\n"
            "    late.delay(1)\n"
            "except OperationalError as error:\n"
            "    print(error)\n"
        )
        assert "RabbitMQ" in refused
        ran = fleet.begun()
        cluster.start()
        back = time.monotonic()
        fleet.wait(lambda ran=ran: fleet.begun() > ran + 20, form.again)
        print(f"consuming again after {time.monotonic() - back:.1f} s")
    more = producer.confirmed()
    assert set(fleet.settle(more, 240).values()) == {"SUCCESS"}
    fleet.settle(ids, 240)
    assert [worker.poll() for worker in workers] == [None, None]
    check_kept(fleet, ids, commits)
    commits.check(more)
