"""Events as maps, sending them and hearing them."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import kombu
import pytest
from kombu.exceptions import OperationalError

import celery.events
from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.events import Event, EventDispatcher, EventReceiver, get_exchange, group_from
from celery.utils.nodenames import gethostname
from celery.wire.broadcast import decode, encode
from events.conftest import PATIENCE, Listen


class TestEvent:
    def test_it_is_a_map_with_a_type_and_the_time(self) -> None:
        before = time.time()
        event = Event("task-sent", uuid="a")
        assert event.pop("timestamp") >= before
        assert event == {"type": "task-sent", "uuid": "a"}

    def test_it_keeps_a_time_that_it_is_given(self) -> None:
        assert Event("x", {"timestamp": 5, "a": 1}, b=2) == {"type": "x", "timestamp": 5, "a": 1, "b": 2}

    @pytest.mark.parametrize(
        ("type", "group"), [("task-sent", "task"), ("worker-elect-ack", "worker"), ("custom", "custom"), ("", "")]
    )
    def test_its_group_stands_before_the_first_dash(self, type: str, group: str) -> None:
        assert group_from(type) == group

    def test_its_exchange_in_the_words_of_kombu(self) -> None:
        exchange = celery.events.event_exchange
        assert (exchange.name, exchange.type) == ("celeryev", "topic")
        assert get_exchange(kombu.Connection("memory://"), "mine").type == "topic"
        assert get_exchange(kombu.Connection("redis://nowhere"), "mine").type == "fanout"


class TestDispatcher:
    def test_what_is_sent_is_heard_with_what_all_events_have(self, app: Celery, listen: Listen) -> None:
        ear = listen(app)
        app.events.Dispatcher(hostname="me@here").send("task-progress", uuid="a", percent=5)
        (event,) = ear.wait("task-progress")
        assert (event["uuid"], event["percent"], event["hostname"]) == ("a", 5, "me@here")
        assert event["pid"] == os.getpid()
        assert event["utcoffset"] == time.timezone / 3600 or time.localtime().tm_isdst
        assert abs(event["timestamp"] - time.time()) < 60
        assert event["local_received"] >= event["timestamp"]
        assert event["clock"] >= 1

    def test_the_topic_is_exchange_and_type(self, app: Celery) -> None:
        app.conf.event_exchange = "mine"
        with app.broker.bus().subscribe(["mine/worker.elect.ack"]) as subscription:
            app.events.Dispatcher(hostname="me@here").send("worker-elect-ack", id="a")
            received = subscription.get(PATIENCE)
            assert received is not None
            assert decode(received[1]).headers == {"hostname": "me@here"}

    def test_clocks_grow(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app)
        dispatcher = memory_app.events.Dispatcher()
        for _ in range(3):
            dispatcher.send("custom")
        clocks = [event["clock"] for event in ear.wait("custom", count=3)]
        assert clocks == sorted(set(clocks))

    def test_blind_events_have_no_clock_and_are_given_one(self, memory_app: Celery, listen: Listen) -> None:
        with memory_app.broker.bus().subscribe(["celeryev/custom"]) as subscription:
            memory_app.events.Dispatcher().send("custom", blind=True)
            received = subscription.get(PATIENCE)
            assert received is not None
            assert "clock" not in decode(received[1]).body
        receiver = memory_app.events.Receiver(None)
        _, event = receiver.event_from_message({"type": "custom"})
        assert event["clock"] == memory_app.clock.value

    def test_groups_that_are_not_named_are_silent(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app)
        dispatcher = memory_app.events.Dispatcher(groups=["worker"])
        dispatcher.send("task-sent")
        dispatcher.send("worker-online")
        assert [event["type"] for event in ear.wait()] == ["worker-online"]

    def test_a_group_that_is_buffered_is_sent_as_a_list(self, memory_app: Celery) -> None:
        called: list[int] = []
        dispatcher = memory_app.events.Dispatcher(
            buffer_group=["task"], buffer_limit=3, on_send_buffered=lambda: called.append(1)
        )
        with memory_app.broker.bus().subscribe(["celeryev/*"]) as subscription:
            for number in range(4):
                dispatcher.send("task-progress", number=number)
            received = subscription.get(PATIENCE)
            assert subscription.get(0) is None, "the fourth waits"
            dispatcher.flush()
            rest = subscription.get(PATIENCE)
        assert received is not None
        assert rest is not None
        assert [received[0], rest[0]] == ["celeryev/task.multi"] * 2
        assert [event["number"] for event in decode(received[1]).body] == [0, 1, 2]
        assert [event["number"] for event in decode(rest[1]).body] == [3]
        assert len(called) == 3, "the one that filled the buffer did not wait"

    def test_off_and_on(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app)
        told: list[str] = []
        dispatcher = memory_app.events.Dispatcher(enabled=False)
        dispatcher.on_enabled.add(lambda: told.append("on"))
        dispatcher.on_disabled.add(lambda: told.append("off"))
        dispatcher.send("one")
        dispatcher.enable()
        dispatcher.send("two")
        dispatcher.disable()
        dispatcher.disable()
        dispatcher.send("three")
        dispatcher.publish("four", {}, None)
        assert [event["type"] for event in ear.wait(count=2)] == ["two", "four"]
        assert told == ["on", "off"]

    def test_the_default_is_anonymous_and_for_a_while(self, memory_app: Celery) -> None:
        with memory_app.events.default_dispatcher() as dispatcher:
            assert isinstance(dispatcher, EventDispatcher)
            assert dispatcher.hostname == f"gen{os.getpid()}@{gethostname()}"
            assert not dispatcher.buffer_while_offline

    def test_a_serializer_of_ones_choice(self, memory_app: Celery, listen: Listen) -> None:
        memory_app.conf.event_serializer = "yaml"
        ear = listen(memory_app)
        memory_app.events.Dispatcher().send("custom", pair={"a": [1, None]})
        assert ear.wait("custom")[0]["pair"] == {"a": [1, None]}

    def test_what_no_serializer_has_a_word_for_is_sent_as_its_repr(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app)
        memory_app.events.Dispatcher().send("custom", thing=object)
        assert ear.wait("custom")[0]["thing"] == repr(object)

    def test_tasks_send_events_about_themselves(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app)

        @memory_app.task(bind=True)
        def report(self: Any) -> None:
            self.send_event("task-progress", percent=50)

        report.apply(task_id="a")
        assert ear.wait("task-progress")[0]["uuid"] == "a"


class TestNobodyThere:
    """The broker cannot be reached."""

    @pytest.fixture
    def lonely(self, tmp_path: Path) -> Celery:
        (tmp_path / "file").touch()
        return TestApp(broker=f"sqlite:///{tmp_path}/file/broker.db", backend="cache+memory://")

    def test_events_wait_for_the_next_flush(self, lonely: Celery, memory_app: Celery, listen: Listen) -> None:
        dispatcher = lonely.events.Dispatcher(hostname="me@here")
        dispatcher.send("worker-online")
        other = memory_app.events.Dispatcher(hostname="other@here")
        other.extend_buffer(dispatcher)
        ear = listen(memory_app)
        other.flush()
        assert ear.wait("worker-online")[0]["hostname"] == "me@here"

    def test_so_many_and_no_more(self, lonely: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        dispatcher = lonely.events.Dispatcher()
        size = dispatcher._outbound_buffer.maxlen
        assert size is not None
        dispatcher._outbound_buffer.extend([("event", "key", OSError())] * size)
        dispatcher.send("worker-online")
        assert len(dispatcher._outbound_buffer) == size

    def test_or_are_raised_where_nothing_is_to_wait(self, lonely: Celery) -> None:
        with lonely.events.default_dispatcher() as dispatcher, pytest.raises(OperationalError):
            dispatcher.send("worker-online")


class TestReceiver:
    def test_handlers_by_type_and_for_the_rest(self, memory_app: Celery) -> None:
        seen: list[tuple[str, str]] = []
        handlers = {
            "task-sent": lambda event: seen.append(("sent", event["type"])),
            "*": lambda event: seen.append(("rest", event["type"])),
        }
        receiver = memory_app.events.Receiver(None, handlers=handlers)
        receiver.process("task-sent", {"type": "task-sent"})
        receiver.process("other", {"type": "other"})
        memory_app.events.Receiver(None).process("other", {})
        assert seen == [("sent", "task-sent"), ("rest", "other")]

    @pytest.mark.parametrize(
        ("routing_key", "heard"),
        [
            ("#", {"worker-online", "task-sent", "worker-elect-ack"}),
            ("worker.#", {"worker-online", "worker-elect-ack"}),
            ("worker.*", {"worker-online"}),
            ("*.online", {"worker-online"}),
            ("task.sent", {"task-sent"}),
        ],
    )
    def test_the_routing_key_chooses(self, app: Celery, listen: Listen, routing_key: str, heard: set[str]) -> None:
        ear, everything = listen(app, routing_key), listen(app)
        dispatcher = app.events.Dispatcher()
        for type in ("worker-online", "task-sent", "worker-elect-ack"):
            dispatcher.send(type)
        everything.wait(count=3)
        assert {event["type"] for event in ear.wait(count=len(heard))} == heard

    def test_a_limit_counts_messages(self, memory_app: Celery) -> None:
        seen: list[int] = []
        receiver = memory_app.events.Receiver(None, handlers={"*": lambda event: seen.append(event["number"])})
        dispatcher = memory_app.events.Dispatcher(buffer_group=["task"])

        def send(*args: Any, **kwargs: Any) -> None:
            dispatcher.send("task-a", number=1)
            dispatcher.send("task-a", number=2)
            dispatcher.flush()
            dispatcher.send("other", number=3)
            dispatcher.send("other", number=4)

        receiver.on_consume_ready = send
        receiver.capture(limit=2, timeout=PATIENCE)
        assert seen == [1, 2, 3]

    def test_a_timeout_is_raised(self, memory_app: Celery) -> None:
        with pytest.raises(TimeoutError):
            memory_app.events.Receiver(None).capture(timeout=0.05, wakeup=False)

    def test_it_can_be_told_to_stop(self, memory_app: Celery) -> None:
        receiver = memory_app.events.Receiver(None)
        receiver.on_iteration = receiver.stop
        assert list(receiver.itercapture(wakeup=False)) == []

    def test_it_asks_workers_for_a_heartbeat_first(self, memory_app: Celery) -> None:
        with memory_app.broker.bus().subscribe(["celery.pidbox"]) as subscription:
            receiver = memory_app.events.Receiver(None)
            receiver.on_iteration = receiver.stop
            receiver.capture()
            received = subscription.get(PATIENCE)
        assert received is not None
        assert decode(received[1]).body["method"] == "heartbeat"

    def test_nonsense_is_passed_over(self, memory_app: Celery, listen: Listen, caplog: Any) -> None:
        ear = listen(memory_app)
        bus = memory_app.broker.bus()
        bus.publish("celeryev/a", b"\xff nonsense")
        for body in ("text", 5, [1, {"no": "type"}], {"type": 7}):
            bus.publish("celeryev/a", encode(body, exchange="celeryev", routing_key="a"))
        pickled = encode({"type": "evil"}, exchange="celeryev", routing_key="a", serializer="pickle")
        bus.publish("celeryev/a", pickled)
        memory_app.events.Dispatcher().send("sane")
        assert [event["type"] for event in ear.wait("sane")] == ["sane"]
        assert len(ear.events) == 1
        assert "cannot be read" in caplog.text

    def test_accept_names_what_may_come(self, memory_app: Celery, listen: Listen) -> None:
        ear = listen(memory_app, accept=["pickle", "json"])
        pickled = encode(
            {"type": "custom", "set": {1, 2}}, exchange="celeryev", routing_key="custom", serializer="pickle"
        )
        assert pickle.dumps({1, 2})
        memory_app.broker.bus().publish("celeryev/custom", pickled)
        assert ear.wait("custom")[0]["set"] == {1, 2}

    def test_what_a_handler_raises_ends_the_capture(self, memory_app: Celery) -> None:
        def fail(event: dict[str, Any]) -> None:
            raise LookupError(event["type"])

        receiver = memory_app.events.Receiver(None, handlers={"*": fail})
        receiver.on_consume_ready = lambda *args, **kwargs: memory_app.events.Dispatcher().send("custom")
        with pytest.raises(LookupError, match="custom"):
            receiver.capture(timeout=PATIENCE)


class TestClocks:
    """What the original does with clocks and time zones; see `/tests/events/stories.py` for the rest."""

    @pytest.fixture
    def receiver(self, memory_app: Celery) -> EventReceiver:
        receiver: EventReceiver = memory_app.events.Receiver(None)
        receiver.clock.value = 10
        return receiver

    def test_ours_follows_theirs(self, receiver: EventReceiver) -> None:
        _, event = receiver.event_from_message({"type": "task-x", "clock": 99})
        assert (event["clock"], receiver.clock.value) == (99, 100)

    def test_an_event_without_one_happens_now(self, receiver: EventReceiver) -> None:
        _, event = receiver.event_from_message({"type": "task-x", "clock": None})
        assert (event["clock"], receiver.clock.value) == (11, 11)

    def test_clients_send_before_anything_here_hears_of_it(self, receiver: EventReceiver) -> None:
        _, event = receiver.event_from_message({"type": "task-sent", "clock": 99})
        assert (event["clock"], receiver.clock.value) == (9, 11)

    def test_timestamps_become_ours(self, receiver: EventReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        there = {"type": "task-x", "timestamp": 5.0, "utcoffset": -2}
        assert receiver.event_from_message(dict(there))[1]["timestamp"] == 7205.0
        assert receiver.event_from_message(dict(there), localize=False)[1]["timestamp"] == 5.0
        assert receiver.event_from_message({"type": "task-x", "timestamp": 5.0})[1]["timestamp"] == 5.0
        monkeypatch.undo()
        time.tzset()


class TestConnections:
    def test_kombu_connections_to_our_broker_lead_to_it(self, redis_url: str, listen: Listen) -> None:
        app = TestApp(broker=redis_url, backend=redis_url)
        ear = listen(app, channel=app.connection())
        app.events.Dispatcher(app.connection()).send("custom")
        assert ear.wait("custom")
        app.close()

    def test_others_lead_where_they_lead(self, redis_url: str, listen: Listen, memory_app: Celery) -> None:
        there = kombu.Connection(redis_url)
        ear = listen(memory_app, channel=there)
        memory_app.events.Dispatcher(there).send("custom")
        assert ear.wait("custom")

    def test_transports_that_cannot_are_silent(self, memory_app: Celery) -> None:
        class Deaf(EventDispatcher):
            DISABLED_TRANSPORTS = frozenset({"memory"})

        assert not Deaf(kombu.Connection("memory://"), app=memory_app).enabled

    def test_ids_differ(self, memory_app: Celery) -> None:
        first, second = memory_app.events.Receiver(None), memory_app.events.Receiver(None, node_id=str(uuid4()))
        assert first.queue_name.startswith("celeryev.")
        assert first.node_id != second.node_id
