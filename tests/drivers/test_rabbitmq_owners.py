"""A consumer that is cut off owns what it has started for as long as it gives signs of life.

The queue here is of the kind quorum; `engine/test_rabbitmq_owners.py` has whole workers, and a classic one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from celery.backends.memory import MemoryStore
from celery.brokers.base import Consumer
from celery.brokers.rabbitmq import RabbitBroker
from celery.wire.message import Delivery, Outgoing, Queue, Settlement
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ

LEASE = 2.0
NARROW = (r"^(q|celeriac\..*|amq\.default)$",) * 3
OPTIONS = {"delay_queue_type": "classic", "lease": LEASE}


class Scene(NamedTuple):
    """*first* is behind a proxy, *heir* is not; both consume from one queue, with one result store.

    *allow* gives the user of a narrow heir rights.
    """

    broker: RabbitBroker
    proxy: Proxy
    far: RabbitBroker
    near: RabbitBroker
    store: MemoryStore
    allow: Callable[..., str]
    first: Consumer
    heir: Consumer

    def renew(self) -> None:
        """As two workers do it. Who reads signs last renews its own before: then it knows if this process stood still,
        and takes nobody for dead who had no time to sign."""
        assert self.heir.renew()
        assert self.first.renew()

    def check_nothing_is_left(self) -> None:
        """What comes to the heir meanwhile is for nobody."""

        def is_over() -> bool:
            assert collect(self.heir, 1, 0.2) == []
            [stats] = self.broker.stats(["q"])
            return (stats.ready, stats.leased, stats.dead) == (0, 0, 0) and self.heir.due_in() is None

        wait_until(is_over)


@pytest.fixture
def kind() -> str:
    """Of the heir: a *narrow* one may not use the queues of delays, so it keeps what another one runs."""
    return "narrow"


@pytest.fixture
def scene(kind: str, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, allow: Callable[..., str]) -> Iterator[Scene]:
    store = MemoryStore(f"memory://owners-{rabbitmq_vhost}")
    with Proxy(rabbitmq_server.port) as proxy:
        broker = RabbitBroker(rabbitmq_server.url(rabbitmq_vhost), options=OPTIONS)
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_vhost}"
        far = RabbitBroker(url, options={**OPTIONS, "timeout": 10})
        near = RabbitBroker(allow(*NARROW) if kind == "narrow" else broker.url, options=OPTIONS)
        broker.declare([Queue("q", arguments={"x-queue-type": "quorum"})])
        first, heir = (one.consumer(["q"], name=name, store=store) for one, name in ((far, "first"), (near, "heir")))
        made = Scene(broker, proxy, far, near, store, allow, first, heir)
        yield made
        proxy.heal()
        made.first.close()
        made.heir.close()
        for one in (near, far, broker):
            one.close()


def collect(
    consumer: Consumer, count: int, seconds: float = 30.0, meanwhile: Callable[[], object] = bool
) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        meanwhile()
        found += consumer.claim(count - len(found), timeout=0.2)
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"


def started(scene: Scene, body: bytes) -> Delivery:
    """Started by the first one, which is cut off then."""
    scene.broker.publish([Outgoing(body, "q")])
    [delivery] = collect(scene.first, 1)
    assert scene.first.start([delivery]) == ["ok"]
    scene.proxy.refuse()
    scene.proxy.reset()
    return delivery


by_either = pytest.mark.parametrize("kind", ["free", "narrow"])


@by_either
def test_what_its_owner_ends_is_over(scene: Scene) -> None:
    delivery = started(scene, b"m")
    assert collect(scene.heir, 1, 2 * LEASE, scene.renew) == []
    assert scene.first.settle([Settlement(delivery)]) == [True]
    scene.proxy.heal()
    assert collect(scene.heir, 1, 2 * LEASE, scene.renew) == []
    scene.check_nothing_is_left()


@by_either
def test_what_its_owner_lets_go_of_is_nobody_elses(scene: Scene) -> None:
    """It could not be acknowledged: whoever gets it next does so, also after its owner has gone."""
    delivery = started(scene, b"m")
    scene.first.let_go([delivery])
    assert collect(scene.heir, 1, LEASE, scene.renew) == []
    assert scene.first.settle([Settlement(delivery)]) == [True]
    scene.first.close()
    assert collect(scene.heir, 1, 2 * LEASE) == []
    scene.check_nothing_is_left()


@by_either
def test_an_owner_that_comes_back_goes_on(scene: Scene) -> None:
    delivery = started(scene, b"m")
    assert collect(scene.heir, 1, LEASE, scene.renew) == []
    scene.proxy.heal()
    assert collect(scene.first, 1, 2 * LEASE, scene.first.renew) == []
    assert scene.first.settle([Settlement(delivery, "requeue")]) == [True]
    [again] = collect(scene.heir, 1)
    assert (again.envelope, again.deliveries, again.interrupted) == (b"m", 1, False)
    assert scene.heir.settle([Settlement(again)]) == [True]
    assert collect(scene.heir, 1, LEASE) == []


@by_either
def test_what_a_silent_owner_had_started_was_interrupted(scene: Scene) -> None:
    delivery = started(scene, b"m")
    [taken] = collect(scene.heir, 1)
    assert (taken.envelope, taken.deliveries, taken.interrupted, taken.redelivered) == (b"m", 1, True, True)
    assert scene.heir.start([taken]) == ["ok"]
    assert scene.first.settle([Settlement(delivery, "requeue")]) == [False], "it is another's now"
    assert scene.heir.settle([Settlement(taken)]) == [True]
    scene.proxy.heal()
    assert collect(scene.first, 1, LEASE) == []
    assert collect(scene.heir, 1, LEASE) == []


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_what_is_kept_is_in_nobodys_way_and_is_said_once(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = scene.store.get
    monkeypatch.setattr(scene.store, "get", lambda keys: (asked.append(len(keys)), read(keys))[1])
    scene.broker.publish([Outgoing(b"theirs %d" % number, "q") for number in range(50)])
    theirs = collect(scene.first, 50)
    assert scene.first.start(theirs) == ["ok"] * 50
    scene.proxy.refuse()
    scene.proxy.reset()
    began, found, sent = time.monotonic(), [], 0
    while len(found) < 100 or time.monotonic() - began < 3 * LEASE:
        assert time.monotonic() - began < 100
        if sent == len(found) < 100:
            scene.broker.publish([Outgoing(b"%d" % sent, "q")])
            sent += 1
        claimed = collect(scene.heir, 1, 0.2, scene.renew)
        scene.heir.settle([Settlement(one) for one in claimed])
        found += [one.envelope for one in claimed]
    assert found == [b"%d" % number for number in range(100)]
    assert len(asked) < 110 + 5 * (time.monotonic() - began), (
        "it reads for each that comes, then twice for all of them together, once in a second or two"
    )
    assert scene.first.settle([Settlement(one) for one in theirs]) == [True] * 50
    collect(scene.heir, 1, 2 * LEASE)
    scene.check_nothing_is_left()
    scene.heir.close()
    assert scene.broker.stats(["q"])[0].ready == 0
    [text] = said(caplog, "cannot be put off")
    assert "celery_delayed_.* too" in text


def test_what_is_kept_goes_back_where_nobody_claims_and_its_owner_is_dead(scene: Scene) -> None:
    """The worker has no room: somebody else may have."""
    started(scene, b"m")
    assert collect(scene.heir, 1, LEASE, scene.renew) == []
    third = scene.broker.consumer(["q"], name="third", store=scene.store)
    deadline, found = time.monotonic() + 30, []
    while not found and time.monotonic() < deadline:
        assert scene.heir.renew()
        found = third.claim(1, timeout=0.2)
    [taken] = found
    assert (taken.envelope, taken.deliveries, taken.interrupted) == (b"m", 1, True)
    third.settle([Settlement(taken)])
    third.close()


def test_what_is_kept_goes_back_before_the_server_is_impatient(scene: Scene) -> None:
    """And it is put off as soon as that is allowed."""
    options = {**OPTIONS, "consumer_timeout": 3 * LEASE}
    heir = RabbitBroker(scene.near.url, options=options)
    scene.heir.close()
    impatient = heir.consumer(["q"], name="impatient", store=scene.store)
    scene = scene._replace(heir=impatient)
    delivery = started(scene, b"m")
    assert collect(impatient, 1, LEASE, scene.renew) == []
    scene.allow(*[pattern.replace("|", "|celery_delayed_.*|", 1) for pattern in NARROW])

    levels = [f"celery_delayed_{number}" for number in range(4)]

    def waits() -> bool:
        return any(stats.ready for stats in scene.broker.stats(levels))

    deadline = time.monotonic() + 60
    while not waits():
        assert time.monotonic() < deadline
        assert collect(impatient, 1, 0.2, scene.renew) == []
    assert scene.first.settle([Settlement(delivery)]) == [True]
    assert collect(impatient, 1, 2 * LEASE) == []
    impatient.close()
    heir.close()


def test_what_runs_for_long_is_kept_where_no_copy_may_go_about(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    near = RabbitBroker(scene.near.url, options={**OPTIONS, "consumer_timeout": 0.3})
    runner = near.consumer(["q"], name="runner", store=scene.store)
    scene.heir.close()
    scene.broker.publish([Outgoing(b"m", "q")])
    [delivery] = collect(runner, 1)
    assert runner.start([delivery]) == ["ok"]
    until = time.monotonic() + 2 * LEASE
    while time.monotonic() < until or not said(caplog, "cannot be put off"):
        assert runner.renew()
        assert collect(runner, 1, 0.2) == []
    assert runner.settle([Settlement(delivery)]) == [True]
    runner.close()
    near.close()
    assert scene.broker.stats(["q"])[0].ready == 0
    assert len(said(caplog, "cannot be put off")) == 1
