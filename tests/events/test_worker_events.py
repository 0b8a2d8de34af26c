"""What a worker tells of its tasks and of itself, on every broker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from celery import Celery, chord, group
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import Ignore, Reject
from celery.signals import heartbeat_sent
from celery.utils import uuid
from celery.utils.nodenames import gethostname
from celery.wire.broadcast import decode
from events.conftest import PATIENCE, Ear, Listen

NODE = "w@here"
Start = Callable[..., AbstractContextManager[TestWorkController]]


@pytest.fixture
def start() -> Start:
    def start(app: Celery, **options: Any) -> AbstractContextManager[TestWorkController]:
        defaults: dict[str, Any] = {
            "pool": "solo", "perform_ping_check": False, "task_events": True, "hostname": NODE,
            "shutdown_timeout": PATIENCE,
        }  # fmt: skip
        return start_worker(app, **{**defaults, **options})

    return start


def define(app: Celery) -> None:
    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="fail", shared=False)
    def fail() -> None:
        raise ValueError("no")

    @app.task(name="again", shared=False, bind=True, max_retries=1)
    def again(self: Any) -> None:
        raise self.retry(countdown=0, exc=KeyError("k"))

    @app.task(name="reject", shared=False, acks_late=True)
    def reject() -> None:
        raise Reject("no")

    @app.task(name="ignore", shared=False)
    def ignore() -> None:
        raise Ignore

    @app.task(name="quiet", shared=False, send_events=False)
    def quiet() -> None: ...

    @app.task(name="talk", shared=False, bind=True)
    def talk(self: Any) -> None:
        self.send_event("task-progress", percent=50)


def story(ear: Ear, task_id: str, until: str) -> list[dict[str, Any]]:
    """The events of one task, in the order in which they came, up to the first of type *until*."""
    ear.wait(until, uuid=task_id)
    return ear.of(uuid=task_id)


class TestTasks:
    def test_a_task_that_succeeds(self, app: Celery, start: Start, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        with start(app):
            sent = app.tasks["add"].apply_async((1, 2), shadow="sum")
            received, started, succeeded = story(ear, sent.id, "task-succeeded")
        assert {**received, "type": "task-received"} == received
        assert {name: received[name] for name in ("name", "args", "kwargs", "retries", "eta", "expires")} == {
            "name": "sum", "args": "(1, 2)", "kwargs": "{}", "retries": 0, "eta": None, "expires": None,
        }  # fmt: skip
        assert (received["root_id"], received["parent_id"]) == (sent.id, None)
        assert (received["hostname"], received["pid"]) == (NODE, os.getpid())
        assert started["type"] == "task-started"
        assert (succeeded["result"], succeeded["runtime"] >= 0) == ("3", True)
        assert received["clock"] < started["clock"] < succeeded["clock"]
        assert received["timestamp"] <= started["timestamp"] <= succeeded["timestamp"]

    def test_they_come_as_lists_with_the_fields_in_the_order_of_the_original(
        self, memory_app: Celery, start: Start
    ) -> None:
        define(memory_app)
        with memory_app.broker.bus().subscribe(["celeryev/task.multi"]) as subscription, start(memory_app):
            for _ in range(5):
                memory_app.tasks["add"].delay(1, 2)
            told: list[dict[str, Any]] = []
            while len(told) < 15:
                message = subscription.get(PATIENCE)
                assert message is not None
                notice = decode(message[1])
                assert notice.headers == {"hostname": NODE}
                told += notice.body
        common = ["hostname", "utcoffset", "pid", "clock", "uuid"]
        assert list(next(event for event in told if event["type"] == "task-received")) == [
            *common, "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires", "timestamp", "type",
        ]  # fmt: skip
        assert list(told[-1]) == [*common, "result", "runtime", "timestamp", "type"]

    @pytest.mark.parametrize(
        ("name", "types", "last"),
        [
            ("fail", ["task-received", "task-started", "task-failed"], {"exception": "ValueError('no')"}),
            ("reject", ["task-received", "task-started", "task-rejected"], {"requeue": False}),
            ("nope", ["task-failed"], {"exception": "NotRegistered('nope')"}),
        ],
    )
    def test_a_task_that_ends_otherwise(
        self, memory_app: Celery, start: Start, listen: Listen, name: str, types: list[str], last: dict[str, Any]
    ) -> None:
        define(memory_app)
        ear = listen(memory_app)
        with start(memory_app):
            sent = memory_app.send_task(name)
            events = story(ear, sent.id, types[-1])
        assert [event["type"] for event in events] == types
        assert last.items() <= events[-1].items()

    def test_a_failure_has_a_traceback(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        define(memory_app)
        ear = listen(memory_app)
        with start(memory_app):
            sent = memory_app.send_task("fail")
            assert story(ear, sent.id, "task-failed")[-1]["traceback"].endswith("ValueError: no\n")

    def test_a_retry(self, app: Celery, start: Start, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        with start(app):
            sent = app.send_task("again")
            events = story(ear, sent.id, "task-failed")
        assert [event["type"].removeprefix("task-") for event in events] == [
            "received", "started", "retried", "received", "started", "failed",
        ]  # fmt: skip
        assert events[2]["exception"] == "KeyError('k')"
        assert [event["retries"] for event in events if event["type"] == "task-received"] == [0, 1]

    def test_what_nobody_wants_any_more(self, app: Celery, start: Start, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        expired = app.tasks["add"].apply_async((1, 1), expires=-1)
        revoked = app.tasks["add"].apply_async((1, 1))
        revoked.revoke()
        with start(app):
            (late,) = story(ear, expired.id, "task-revoked")
            (unwanted,) = story(ear, revoked.id, "task-revoked")
        assert (late["expired"], late["terminated"], late["signum"]) == (True, False, None)
        assert (unwanted["expired"], unwanted["terminated"]) == (False, False)

    def test_silence(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        define(memory_app)
        ear = listen(memory_app)
        with start(memory_app):
            quiet, ignored = memory_app.send_task("quiet"), memory_app.send_task("ignore")
            last = memory_app.send_task("add", (1, 1))
            ear.wait("task-succeeded", uuid=last.id)
        assert ear.of(uuid=quiet.id) == [], "its send_events is off"
        assert [event["type"] for event in ear.of(uuid=ignored.id)] == ["task-received", "task-started"]

    def test_events_of_ones_own(self, app: Celery, start: Start, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        with start(app):
            sent = app.send_task("talk")
            story(ear, sent.id, "task-succeeded")
            assert ear.wait("task-progress", uuid=sent.id)[0]["percent"] == 50

    def test_the_joins_of_chords_are_nobodys_business(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        define(memory_app)
        ear = listen(memory_app)
        add = memory_app.tasks["add"]
        with start(memory_app):
            body = chord([add.s(1, 1), add.s(2, 2)])(memory_app.signature("ignore", immutable=True))
            ear.wait("task-started", uuid=body.id)
        assert {event["name"] for event in ear.of("task-received")} == {"add", "ignore"}

    def test_characters_that_are_none(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        @memory_app.task(name="odd", shared=False, throws=(ValueError,))  # so that it is not logged: xdist chokes on it
        def odd() -> None:
            raise ValueError("\udc80")

        ear = listen(memory_app)
        with start(memory_app):
            sent = memory_app.send_task("odd")
            assert "udc80" in story(ear, sent.id, "task-failed")[-1]["exception"]

    @pytest.mark.parametrize("serializer", ["yaml", "pickle"])
    def test_another_serializer(self, memory_app: Celery, start: Start, listen: Listen, serializer: str) -> None:
        define(memory_app)
        memory_app.conf.event_serializer = serializer
        ear = listen(memory_app)
        with start(memory_app):
            sent = memory_app.tasks["add"].delay(1, 2)
            assert story(ear, sent.id, "task-succeeded")[-1]["result"] == "3"

    def test_a_dispatcher_of_the_programs_own_sends_them_all(self, start: Start, listen: Listen) -> None:
        place = f"memory://{uuid()}"
        app = TestApp(broker=place, backend=place)

        class Loud(EventDispatcher):
            def send(self, type: str, *args: Any, **fields: Any) -> None:
                super().send(type, *args, loud=True, **fields)

        app.events.dispatcher_cls = Loud
        define(app)
        ear = listen(app)
        with start(app):
            sent = app.tasks["add"].delay(1, 2)
            assert all(event["loud"] for event in story(ear, sent.id, "task-succeeded"))
        app.close()


class TestOnAndOff:
    def test_off_unless_asked_for(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        define(memory_app)
        ear = listen(memory_app)
        with start(memory_app, task_events=False) as worker:
            assert worker.consumer is not None
            assert worker.consumer.reports is None, "what the loop looks at"
            memory_app.tasks["add"].delay(1, 2).get(timeout=PATIENCE)
        assert ear.events == []

    def test_the_setting_asks_for_them(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        define(memory_app)
        memory_app.conf.worker_send_task_events = True
        ear = listen(memory_app)
        with start(memory_app, task_events=None):
            sent = memory_app.tasks["add"].delay(1, 2)
            story(ear, sent.id, "task-succeeded")

    @pytest.mark.parametrize("events", [True, False])
    def test_by_remote_control(self, app: Celery, start: Start, listen: Listen, events: bool) -> None:
        define(app)
        ear = listen(app)

        def tell(command: str) -> Any:
            [answer] = app.control.broadcast(command, reply=True, timeout=PATIENCE, limit=1)
            return answer[NODE]

        with start(app, task_events=events, pool="threads"):
            assert tell("disable_events") == {
                "ok": "task events disabled" if events else "task events already disabled"
            }
            assert tell("enable_events") == {"ok": "task events enabled"}
            assert tell("enable_events") == {"ok": "task events already enabled"}
            sent = app.tasks["add"].delay(1, 2)
            story(ear, sent.id, "task-succeeded")
            assert tell("disable_events") == {"ok": "task events disabled"}
            silent = app.tasks["add"].delay(1, 2)
            silent.get(timeout=PATIENCE)
            assert ear.of(uuid=silent.id) == []


class TestHeart:
    def test_online_heartbeats_and_offline(self, app: Celery, start: Start, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        with start(app, without_heartbeat=False, heartbeat_interval=0.1, task_events=False):
            app.tasks["add"].delay(1, 2).get(timeout=PATIENCE)
            ear.wait("worker-heartbeat", count=2, processed=1)
        ear.wait("worker-offline")
        assert ear.events[0]["type"] == "worker-online"
        assert ear.events[-1]["type"] == "worker-offline"
        beat = ear.of("worker-heartbeat")[-1]
        assert list(beat) == [
            "hostname", "utcoffset", "pid", "clock", "freq", "active", "processed", "loadavg", "sw_ident", "sw_ver",
            "sw_sys", "timestamp", "type", "local_received",
        ]  # fmt: skip
        assert (beat["hostname"], beat["freq"], beat["sw_ident"]) == (NODE, 0.1, "py-celery")
        assert len(beat["loadavg"]) == 3
        assert {event["type"].partition("-")[0] for event in ear.events} == {"worker"}, "tasks are not told of"

    def test_every_two_seconds_unless_told_otherwise(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        ear = listen(memory_app)
        with start(memory_app, without_heartbeat=False):
            assert ear.wait("worker-online")[0]["freq"] == 2.0

    def test_a_heartbeat_can_be_asked_for(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        ear = listen(memory_app)
        with start(memory_app, without_heartbeat=False, heartbeat_interval=600, pool="threads"):
            ear.wait("worker-online")
            memory_app.control.heartbeat()
            assert ear.wait("worker-heartbeat")[0]["freq"] == 600

    def test_the_signal(self, memory_app: Celery, start: Start) -> None:
        beaten = threading.Event()

        @heartbeat_sent.connect(weak=False)
        def on_heartbeat(sender: Any, **kwargs: Any) -> None:
            if sender.tref is not None:
                beaten.set()

        try:
            with start(memory_app, without_heartbeat=False, heartbeat_interval=0.05):
                assert beaten.wait(PATIENCE)
        finally:
            heartbeat_sent.disconnect(on_heartbeat)

    def test_none_of_it(self, memory_app: Celery, start: Start, listen: Listen) -> None:
        ear = listen(memory_app)
        with start(memory_app, without_heartbeat=True):
            pass
        assert ear.of() == []


class TestSent:
    """`task_send_sent_event`."""

    @pytest.fixture
    def telling(self, app: Celery) -> Celery:
        app.conf.task_send_sent_event = True
        define(app)
        return app

    def test_a_task_that_is_sent(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling, "task.sent")
        sent = telling.tasks["add"].apply_async((1, 2), queue="other", root_id="root", parent_id="parent", shadow="sum")
        (event,) = ear.wait("task-sent")
        assert {name: event[name] for name in ("uuid", "name", "args", "kwargs", "retries", "eta", "expires")} == {
            "uuid": sent.id, "name": "add", "args": "(1, 2)", "kwargs": "{}", "retries": 0, "eta": None,
            "expires": None,
        }  # fmt: skip
        assert (event["queue"], event["exchange"], event["routing_key"]) == ("other", "", "other")
        assert (event["root_id"], event["parent_id"]) == ("root", "parent")
        assert (event["hostname"], event["pid"]) == (f"gen{os.getpid()}@{gethostname()}", os.getpid())

    def test_the_short_way_is_still_taken(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling)
        add = telling.tasks["add"]
        ids = [add.delay(1, n).id for n in range(3)]
        assert [event["uuid"] for event in ear.wait("task-sent", count=3)] == ids
        assert any(plan.stencil is not None for plan in add._plans.values())

    def test_in_bulk_groups_and_by_name(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling)
        add = telling.tasks["add"]
        with telling.bulk():
            bulk = [add.delay(1, n).id for n in range(3)]
            assert ear.of() == [], "nothing has been sent yet"
        grouped = [result.id for result in group(add.s(1, n) for n in range(3))()]
        named = [telling.send_task("elsewhere").id]
        assert [event["uuid"] for event in ear.wait("task-sent", count=7)] == [*bulk, *grouped, *named]

    def test_what_is_not_sent_is_not_told_of(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling)

        def fail() -> None:
            with telling.bulk():
                telling.tasks["add"].delay(1, 1)
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        last = telling.tasks["add"].delay(2, 2)
        assert [event["uuid"] for event in ear.wait("task-sent")] == [last.id]

    def test_what_tasks_send(self, telling: Celery, start: Start, listen: Listen) -> None:
        ear = listen(telling)
        add = telling.tasks["add"]
        with start(telling, task_events=False):
            first = (add.s(1, 2) | add.s(3)).apply_async()
            assert first.get(timeout=PATIENCE) == 6
            again = telling.send_task("again")
            ear.wait("task-sent", count=2, uuid=again.id)
        follower = ear.wait("task-sent", uuid=first.id)[0]
        assert (follower["args"], follower["parent_id"]) == ("(3, 3)", first.parent.id)
        assert [event["retries"] for event in ear.of("task-sent", uuid=again.id)] == [0, 1]

    def test_a_dispatcher_of_ones_own(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling)
        dispatcher = telling.events.Dispatcher(hostname="me@here")
        telling.tasks["add"].apply_async((1, 2), event_dispatcher=dispatcher, headers={"the": "long way"})
        assert ear.wait("task-sent")[0]["hostname"] == "me@here"

    def test_exchanges_lead_to_queues(self, telling: Celery, listen: Listen) -> None:
        ear = listen(telling)
        telling.amqp.queues.add("q", exchange="ex", exchange_type="topic", routing_key="a.#")
        telling.broker.declare([telling.amqp.queues.wire("q")])
        telling.tasks["add"].apply_async((1, 2), exchange="ex", routing_key="a.b")
        event = ear.wait("task-sent")[0]
        assert (event["queue"], event["exchange"], event["routing_key"]) == ("q", "ex", "a.b")

    def test_off_unless_asked_for(self, app: Celery, listen: Listen) -> None:
        define(app)
        ear = listen(app)
        app.tasks["add"].delay(1, 2)
        app.events.Dispatcher().send("custom")
        assert [event["type"] for event in ear.wait()] == ["custom"]


def test_a_worker_says_what_it_has_still_to_say(memory_app: Celery, start: Start, listen: Listen) -> None:
    define(memory_app)
    ear = listen(memory_app)
    with start(memory_app):
        sent = [memory_app.tasks["add"].delay(1, n) for n in range(300)]
        sent[-1].get(timeout=PATIENCE)
    assert [event["uuid"] for event in ear.wait("task-succeeded", count=300)] == [result.id for result in sent]
    clocks = [event["clock"] for event in ear.of("task-received", "task-started", "task-succeeded")]
    assert clocks == sorted(set(clocks))
