"""Joins that RabbitMQ keeps for apps without a result store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from celery.amqp.joins import DONE, OPEN, RabbitHeld
from celery.backends.store import in_order
from celery.brokers.answers import Held, Joins
from celery.brokers.rabbitmq import RabbitBroker
from celery.contrib.testing.contract.stores import part
from celery.exceptions import BrokerError
from celery.wire.message import Arrival, Outgoing, Queue
from rig.proxy import Proxy, Way
from rig.rabbitmq import RabbitMQ

Connect = Callable[[], RabbitBroker]


@pytest.fixture(params=["classic", "quorum"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(rabbitmq_url: str, kind: str) -> Iterator[Connect]:
    made: list[RabbitBroker] = []

    def broker() -> RabbitBroker:
        made.append(RabbitBroker(rabbitmq_url, options={"timeout": 30}))
        made[-1].plan = lambda: [Queue("q", arguments={"x-queue-type": kind})]
        return made[-1]

    yield broker
    for broker in made:
        broker.close()


@pytest.fixture
def joins(connect: Connect) -> Joins:
    return connect().joins()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is slow is no other one who looks."""
    monkeypatch.setattr("celery.amqp.joins.PATIENCE", 20.0)


def values(held: Held | None) -> list[bytes] | None:
    """What is held, given back."""
    if held is None:
        return None
    found = in_order(held.parts)
    held.close()
    return found


def test_a_join_may_be_complete_after_its_last_part(joins: Joins) -> None:
    assert joins.arrive([part(2, 3)]) == [False]
    assert joins.arrive([part(0, 3)]) == [False]
    assert values(joins.hold("g.")) is None
    assert joins.arrive([part(10, 3)]) == [True]
    assert values(joins.hold("g.")) == [b"0", b"2", b"10"]
    assert values(joins.hold("g.")) == [b"0", b"2", b"10"], "it was let go of"


def test_a_part_that_comes_twice_counts_once(joins: Joins) -> None:
    joins.arrive([part(0, 2), part(0, 2, b"another")])
    assert values(joins.hold("g.")) is None
    assert joins.arrive([part(1, 2)]) == [True]
    assert values(joins.hold("g.")) == [b"0", b"1"]


def test_a_join_grows_by_each_index_once(joins: Joins) -> None:
    more = Arrival("g.", "+more", b"", 2, grows=True)
    joins.arrive([part(0, 2), more, more, part(1, 2)])
    assert values(joins.hold("g.")) is None
    assert joins.arrive([part(2, 2)]) == [True]
    assert values(joins.hold("g.")) == [b"0", b"1", b"2"]


def test_one_at_a_time_holds_a_join(joins: Joins, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    joins.arrive([part(0, 1)])
    held = joins.hold("g.")
    assert held is not None
    with monkeypatch.context() as patch:
        patch.setattr("celery.amqp.joins.PATIENCE", 0.05)
        for other in (joins, connect().joins()):
            with pytest.raises(BrokerError, match="Somebody else") as caught:
                other.hold("g.")
            assert caught.value.temporary
    held.close()
    held.close()
    assert values(connect().joins().hold("g.")) == [b"0"]


def test_what_a_dead_holder_held_is_there_for_the_next(joins: Joins, connect: Connect) -> None:
    joins.arrive([part(0, 2), part(1, 2)])
    dying = connect()
    assert dying.joins().hold("g.") is not None
    dying.close()
    assert values(joins.hold("g.")) == [b"0", b"1"]


def test_a_finished_join_leaves_only_the_note_that_it_is(
    joins: Joins, rabbitmq_server: RabbitMQ, rabbitmq_url: str
) -> None:
    vhost = rabbitmq_url.rpartition("/")[2]
    joins.arrive([part(0, 1)])
    held = joins.hold("g.")
    assert held is not None
    held.finish()
    held.close()
    assert rabbitmq_server.queues("name", vhost=vhost) == [[f"{DONE}g."]]
    assert joins.arrive([part(0, 1)]) == [True], "a part that is repeated"
    assert joins.hold("g.") is None
    assert rabbitmq_server.queues("name", vhost=vhost) == [[f"{DONE}g."]]
    assert joins.hold("another.") is None


def test_an_open_join_is_durable_and_ends_a_week_after_its_last_part(
    joins: Joins, rabbitmq_server: RabbitMQ, rabbitmq_url: str, kind: str
) -> None:
    joins.arrive([part(0, 2)])
    [row] = rabbitmq_server.queues("name", "durable", "type", "arguments", vhost=rabbitmq_url.rpartition("/")[2])
    assert row[:3] == [f"{OPEN}g.", "true", kind]
    assert '{"x-expires",604800000}' in row[3]


def test_joins_do_not_touch(joins: Joins) -> None:
    assert joins.arrive([part(0, 2, group="g."), part(0, 1, group="h."), part(0, 2, group="gg.")]) == [
        False, True, False,
    ]  # fmt: skip
    assert values(joins.hold("h.")) == [b"0"]
    assert values(joins.hold("g.")) is None


def test_of_parts_that_arrive_at_once_somebody_finds_it_complete(connect: Connect) -> None:
    """Whatever the order: whoever is told that it may be complete looks, and one of them finds that it is."""
    found: dict[str, list[list[bytes]]] = {}
    start = threading.Barrier(4)

    def see_to(joins: Joins, group: str) -> None:
        while True:
            try:
                held = joins.hold(group)
            except BrokerError as error:
                if not error.temporary:
                    raise
            else:
                break
        if held is not None:
            found[group].append(in_order(held.parts))
            held.finish()
            held.close()

    def work(joins: Joins, numbers: range, group: str) -> None:
        start.wait()
        for number in numbers:
            if joins.arrive([part(number, 20, group=group)]) == [True]:
                see_to(joins, group)

    for group in ("a.", "b.", "c.", "d.", "e."):
        found[group] = []
        threads = [
            threading.Thread(target=work, args=(connect().joins(), range(first, 20, 4), group)) for first in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found[group] == [[b"%d" % number for number in range(20)]]


def queues(server: RabbitMQ, url: str) -> list[list[str]]:
    return server.queues("name", vhost=url.rpartition("/")[2])


@pytest.mark.parametrize(("way", "bytes"), [("up", 1), ("down", 1), ("down", 24)])
def test_a_connection_that_breaks_while_it_finishes_leaves_no_parts(
    joins: Joins, rabbitmq_server: RabbitMQ, rabbitmq_url: str, way: Way, bytes: int
) -> None:
    """Before it is noted that it is done, and between that and the end of the queue: the body has been sent by then."""
    joins.arrive([part(0, 1)])
    with Proxy(rabbitmq_server.port) as proxy:
        far = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_url.rpartition('/')[2]}")
        held = far.joins().hold("g.")
        assert held is not None
        proxy.cut_after(way, bytes)
        held.finish()
        assert proxy.cut.is_set()
        held.close()
        far.close()
    assert joins.hold("g.") is None
    assert queues(rabbitmq_server, rabbitmq_url) == [[f"{DONE}g."]]


def test_what_was_finished_is_not_held_again_however_far_its_end_has_come(
    joins: Joins, connect: Connect, rabbitmq_server: RabbitMQ, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits for the parts while whoever has them finishes, and dies before their queue is deleted."""
    monkeypatch.setattr("celery.amqp.joins.PATIENCE", 30.0)
    joins.arrive([part(0, 1)])
    dying = joins.hold("g.")
    assert dying is not None
    found: list[Held | None] = []
    with Proxy(rabbitmq_server.port) as proxy:
        far = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_url.rpartition('/')[2]}")
        far.connect()
        waiting = threading.Thread(target=lambda: found.append(far.joins().hold("g.")))
        before = proxy.count["up"]
        waiting.start()
        while proxy.count["up"] < before + 2000:  # it looks again and again
            assert waiting.is_alive()
            time.sleep(0.01)
        connect().declare([Queue(f"{DONE}g.", arguments={"x-expires": 600_000})])
        dying.close()
        waiting.join(60)
        far.close()
    assert found == [None]
    assert queues(rabbitmq_server, rabbitmq_url) == [[f"{DONE}g."]]


def test_a_join_that_is_finished_while_another_one_begins_to_take_it_is_no_error(
    joins: Joins, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the queue of its parts and the wish for them; the queue is gone then."""
    joins.arrive([part(0, 1)])
    free = RabbitHeld._free

    def look(late: RabbitHeld, name: str) -> int:
        there = free(late, name)
        monkeypatch.setattr(RabbitHeld, "_free", free)
        held = joins.hold("g.")
        assert held is not None
        held.finish()
        held.close()
        return there

    monkeypatch.setattr(RabbitHeld, "_free", look)
    late = connect().joins()
    with pytest.raises(BrokerError, match="Somebody else") as caught:
        late.hold("g.")
    assert caught.value.temporary
    assert late.hold("g.") is None


def test_whoever_waits_for_parts_that_are_gone_is_told_soon(connect: Connect) -> None:
    """Several look at once; to the others the parts do not come any more."""
    start, took, held_by = threading.Barrier(3), list[float](), list[str]()

    def look(joins: Joins, number: int) -> None:
        for turn in range(10):
            group = f"{turn}."
            if not number:
                joins.arrive([part(0, 1, group=group)])
            start.wait(60)
            began = time.monotonic()
            with suppress(BrokerError):
                held = joins.hold(group)
                if held is not None:
                    held_by.append(group)
                    held.finish()
                    held.close()
            took.append(time.monotonic() - began)

    threads = [threading.Thread(target=look, args=(connect().joins(), number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held_by == [f"{turn}." for turn in range(10)]
    assert len(took) == 30
    assert max(took) < 25, "nobody has waited until the server should have answered"


def test_a_queue_of_a_join_that_is_made_again_ends_like_any_other(
    joins: Joins, connect: Connect, rabbitmq_server: RabbitMQ, rabbitmq_url: str, kind: str
) -> None:
    """Whoever had it may delete it between the declaration of it and a part, which comes back then."""
    connect().publish([Outgoing(b"x", f"{OPEN}g.")])
    [row] = rabbitmq_server.queues("type", "arguments", vhost=rabbitmq_url.rpartition("/")[2])
    assert row[0] == kind
    assert '{"x-expires",604800000}' in row[1]


def test_parts_that_are_given_back_are_not_seen_by_halves(joins: Joins, connect: Connect) -> None:
    """Whoever looks while another gives back what was not complete sees all of it, or that it is held."""
    enough, wrong = threading.Event(), []

    def look(joins: Joins) -> None:
        while not enough.is_set():
            try:
                found = values(joins.hold("g."))
            except BrokerError as error:
                if not error.temporary:
                    raise
            else:
                if found is not None:
                    wrong.append(found)

    joins.arrive([Arrival("g.", "+more", b"", 2, grows=True)])
    threads = [threading.Thread(target=look, args=(connect().joins(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        joins.arrive([part(0, 2), part(1, 2)])
    enough.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
