"""What every bus keeps to."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator

import pytest

from celery.brokers.base import Broker, Slot

SOON = 30.0
"""Seconds within which what must happen has happened."""


class BusContract:
    """Override `connect` with a function that makes a broker on one place, which is new in every test."""

    @pytest.fixture
    def connect(self) -> Callable[..., Broker]:
        pytest.fail("Override the fixture `connect`.")

    @pytest.fixture
    def broker(self, connect: Callable[..., Broker]) -> Iterator[Broker]:
        broker = connect()
        if not broker.can.fanout:
            pytest.skip("capability: this broker has no bus")
        yield broker
        broker.close()

    def test_everyone_who_listens_gets_it(self, broker: Broker, connect: Callable[..., Broker]) -> None:
        other = connect()
        with broker.bus().subscribe(["news"]) as first, other.bus().subscribe(["news"]) as second:
            broker.bus().publish("news", b"\x00hello")
            assert first.get(SOON) == ("news", b"\x00hello")
            assert second.get(SOON) == ("news", b"\x00hello")
            assert first.get(0.0) is None
        other.close()

    def test_knows_when_somebody_listens(self, broker: Broker, connect: Callable[..., Broker]) -> None:
        other = connect()
        with other.bus().subscribe(["news", "celeryev/*"]):
            assert broker.bus().hears("news")
            assert broker.bus().hears("celeryev/task.multi")
        assert isinstance(broker.bus().hears("nobody/wants.this"), bool)
        other.close()

    def test_keeps_the_order(self, broker: Broker) -> None:
        with broker.bus().subscribe(["t"]) as subscription:
            for number in range(1200):
                broker.bus().publish("t", str(number).encode())
            assert [subscription.get(SOON) for _ in range(1200)] == [("t", str(n).encode()) for n in range(1200)]

    def test_only_topics_that_were_asked_for(self, broker: Broker) -> None:
        with broker.bus().subscribe(["a", "worker.*"]) as subscription:
            for topic in ("b", "a", "worker", "worker.online", "aa", "worker.x.y"):
                broker.bus().publish(topic, b"")
            assert [subscription.get(SOON) for _ in range(3)] == [
                ("a", b""),
                ("worker.online", b""),
                ("worker.x.y", b""),
            ]
            assert subscription.get(0.0) is None

    def test_a_beginning_is_a_whole_word_or_less(self, broker: Broker) -> None:
        """Of events: `worker*` is what hears of `worker.online`; and what begins with no word hears of all."""
        with broker.bus().subscribe(["celeryev/worker*"]) as some, broker.bus().subscribe(["celeryev/*"]) as every:
            for topic in ("celeryev/task.sent", "celeryev/worker.online", "celeryev/worker.offline"):
                broker.bus().publish(topic, topic.encode())
            assert [some.get(SOON) for _ in range(2)] == [
                ("celeryev/worker.online", b"celeryev/worker.online"),
                ("celeryev/worker.offline", b"celeryev/worker.offline"),
            ]
            assert every.get(SOON) == ("celeryev/task.sent", b"celeryev/task.sent")
            assert some.get(0.0) is None

    def test_what_nobody_heard_is_gone(self, broker: Broker) -> None:
        bus = broker.bus()
        with bus.subscribe(["mark"]) as mark:
            bus.publish("t", b"before")
            bus.publish("mark", b"")
            assert mark.get(SOON), "what is sent may be on its way yet, but not past what is sent later"
        with broker.bus().subscribe(["t"]) as subscription:
            broker.bus().publish("t", b"after")
            assert subscription.get(SOON) == ("t", b"after")
            assert subscription.get(0.0) is None

    def test_get_waits(self, broker: Broker) -> None:
        with broker.bus().subscribe(["t"]) as subscription:
            got: list[tuple[str, bytes] | None] = []
            waiter = threading.Thread(target=lambda: got.append(subscription.get(60.0)))
            waiter.start()
            broker.bus().publish("t", b"1")
            waiter.join(SOON)
            assert got == [("t", b"1")]
            assert subscription.get(0.02) is None

    def test_descriptor_is_readable_while_something_is_there(self, broker: Broker) -> None:
        with broker.bus().subscribe(["t"]) as subscription:
            assert not readable(subscription.fileno(), 0.0)
            broker.bus().publish("t", b"1")
            broker.bus().publish("t", b"2")
            assert readable(subscription.fileno(), SOON)
            assert subscription.get(0.0) == ("t", b"1")
            assert readable(subscription.fileno(), SOON)
            assert subscription.get(0.0) == ("t", b"2")
            assert subscription.get(0.0) is None
            assert not readable(subscription.fileno(), 0.0)

    def test_closing_ends_a_get(self, broker: Broker) -> None:
        subscription = broker.bus().subscribe(["t"])
        got: list[tuple[str, bytes] | None] = []
        waiter = threading.Thread(target=lambda: got.append(subscription.get()))
        waiter.start()
        subscription.close()
        subscription.close()
        waiter.join(SOON)
        assert got == [None]
        assert subscription.get(0.0) is None

    def test_a_box_takes_what_is_posted_to_it(self, broker: Broker, connect: Callable[..., Broker]) -> None:
        other = connect()
        with broker.bus().open_box("replies", "me") as mine, other.bus().open_box("replies", "you") as yours:
            for number in range(20):
                other.bus().post("replies", "me", str(number).encode(), 60.0)
            broker.bus().post("replies", "you", b"\x00yours", 60.0)
            assert [mine.get(SOON) for _ in range(20)] == [str(number).encode() for number in range(20)]
            assert yours.get(SOON) == b"\x00yours"
            assert mine.get(0.0) is None
            assert yours.get(0.02) is None
        other.close()

    def test_what_is_posted_to_a_closed_box_is_gone(self, broker: Broker) -> None:
        broker.bus().post("replies", "me", b"before", 60.0)
        box = broker.bus().open_box("replies", "me")
        broker.bus().post("replies", "me", b"unread", 60.0)
        box.close()
        box.close()
        with broker.bus().open_box("replies", "mark") as mark:
            broker.bus().post("replies", "me", b"after", 60.0)
            broker.bus().post("replies", "mark", b"", 60.0)
            assert mark.get(SOON) == b"", "what is sent may be on its way yet, but not past what is sent later"
        with broker.bus().open_box("replies", "me") as box:
            assert box.get(0.0) is None
            broker.bus().post("replies", "me", b"now", 60.0)
            assert box.get(SOON) == b"now"

    def test_a_box_waits(self, broker: Broker) -> None:
        with broker.bus().open_box("replies", "me", Slot(expires=60.0, ttl=60.0)) as box:
            got: list[bytes | None] = []
            waiter = threading.Thread(target=lambda: got.append(box.get(60.0)))
            waiter.start()
            broker.bus().post("replies", "me", b"1", 60.0)
            waiter.join(SOON)
            assert got == [b"1"]

    def test_boxes_and_topics_do_not_meet(self, broker: Broker) -> None:
        with broker.bus().subscribe(["replies"]) as subscription, broker.bus().open_box("replies", "me") as box:
            broker.bus().publish("replies", b"to all")
            broker.bus().post("replies", "me", b"to one", 60.0)
            assert subscription.get(SOON) == ("replies", b"to all")
            assert box.get(SOON) == b"to one"
            assert subscription.get(0.0) is None
            assert box.get(0.0) is None


def readable(descriptor: int, timeout: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])
