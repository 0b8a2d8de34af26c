"""The short way of sending a task: the same messages as the long way has, and no change goes unseen."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import serialization as kombu_serialization

from celery import Celery, Task, signals
from celery._state import pop_current_task, push_current_task
from celery.app import plans
from celery.app.settings import detect_settings
from celery.result import AsyncResult
from celery.utils.clock import FakeClock
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, split_body

NOW = 1_700_000_000.0
TAG = re.compile(rb'"delivery_tag":"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"')


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("plans", broker="memory://plans", backend="memory://plans", set_as_current=False)
    app.broker.clock = FakeClock(NOW)
    yield app
    app.close()


def job_of(app: Celery, **options: Any) -> Any:
    def job(*args: Any, **kwargs: Any) -> None: ...

    return app.task(job, name="job", shared=False, lazy=False, **options)


def collect(app: Celery, task: Any, *args: Any, **options: Any) -> Outgoing:
    with app.publisher.collect() as messages:
        task.apply_async(*args, **options)
    (message,) = messages
    return message


def on_no_signal(**named: Any) -> None: ...


@contextmanager
def the_long_way() -> Iterator[None]:
    signals.after_task_publish.connect(on_no_signal)
    try:
        yield
    finally:
        signals.after_task_publish.disconnect(on_no_signal)


def told(app: Celery, task: Any, *args: Any, **options: Any) -> Any:
    """The message, without what is new in each, or the error."""
    try:
        message = collect(app, task, *args, **options)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other way must raise it too
        return type(error), str(error)
    envelope, tags = TAG.subn(b'"delivery_tag":""', message.envelope)
    assert tags == 1
    return envelope if options.get("task_id") else envelope.replace(message.task_id.encode(), b""), (
        message.routing_key, message.exchange, message.priority, message.due, message.expires,
    )  # fmt: skip


def assert_same(app: Celery, task: Any, *args: Any, **options: Any) -> None:
    short = told(app, task, *args, **options)
    with the_long_way():
        long = told(app, task, *args, **options)
    assert short == long


def is_planned(task: Any, **options: Any) -> bool:
    return plans.find(task, task.app, options) is not None


# --- The same bytes ---------------------------------------------------------------------------------------------------

ATOMS = (
    st.none() | st.booleans() | st.integers() | st.integers(2**62, 2**66) | st.floats() | st.text(max_size=8)
    | st.characters(categories=["Cs"]) | st.text("\x7f\x1f\"'\\/a", max_size=4) | st.binary(max_size=4)
    | st.datetimes() | st.decimals(allow_nan=False) | st.sampled_from(["x" * 1500, "é" * 1023, object(), {1}])
)  # fmt: skip
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner)
    | st.dictionaries(st.text(max_size=3) | st.integers() | st.none() | st.booleans(), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
ARGS = st.none() | st.lists(VALUES, max_size=3) | st.lists(VALUES, max_size=3).map(tuple)
KWARGS = st.none() | st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
IDS = st.none() | st.text("abc-09", min_size=1, max_size=8) | st.text(max_size=3)
NUMBERS = st.none() | st.booleans() | st.integers(0, 9) | st.integers(-(2**70), 2**70) | st.floats(0, 100)
MOMENTS = (
    st.none() | st.integers(-5, 10**6) | st.floats(0, 1000) | st.sampled_from([
        datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1), "2031-02-03T04:05:06+01:00", "x",  # noqa: DTZ001
        timedelta(hours=1), date(2030, 1, 1), 1e300,
    ])
)  # fmt: skip
STEPS = st.fixed_dictionaries(
    {"task": st.just("next"), "args": st.lists(VALUES, max_size=1), "kwargs": st.just({}), "options": st.just({})}
)
PLANNED: dict[str, st.SearchStrategy[Any]] = {
    "queue": st.sampled_from(["mail", "é", ""]) | st.none(),
    "priority": NUMBERS,
    "serializer": st.sampled_from(["json", "yaml", "msgpack", "pickle", "nope"]) | st.none(),
    "delivery_mode": st.sampled_from([1, 2, "persistent", True, 7]) | st.none(),
    "ignore_result": st.booleans() | st.none(),
    "retries": NUMBERS,
    "time_limit": NUMBERS,
    "soft_time_limit": NUMBERS,
    "countdown": MOMENTS,
    "eta": MOMENTS,
    "expires": MOMENTS,
    "root_id": IDS,
    "parent_id": IDS,
    "group_id": IDS,
    "group_index": NUMBERS,
    "reply_to": IDS,
    "chain": st.none() | st.lists(VALUES | STEPS, max_size=2) | st.lists(STEPS, max_size=2).map(tuple),
}
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "task_id": IDS,
    "shadow": IDS,
    "compression": st.sampled_from(["gzip", "bzip2"]) | st.none(),
    "headers": st.just({"trace": "1"}) | st.none(),
    "exchange": st.sampled_from(["amq.direct", ""]),
    "routing_key": st.sampled_from(["mail.high", ""]),
    "link": st.just({"task": "next", "args": [], "kwargs": {}, "options": {}}) | st.none(),
    "stamped_headers": st.just(["order"]),
    "order": st.just(7),
    "custom": st.just("c"),
    "expiration": st.integers(0, 10),
    "argsrepr": IDS,
    "retry": st.booleans(),
}


def few_of(*tables: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """At most three, so that an impossible one does not hide the rest."""
    everything = {name: kind for table in tables for name, kind in table.items()}
    chosen = st.lists(st.sampled_from(sorted(everything)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: everything[name] for name in names}))


APP = Celery("plans", broker="memory://plans-any", backend="memory://plans-any", set_as_current=False)
APP.broker.clock = FakeClock(NOW)
JOB = job_of(APP)


@given(ARGS, KWARGS)
@settings(max_examples=400)
def test_any_arguments_travel_as_they_do_on_the_long_way(args: Any, kwargs: Any) -> None:
    assert is_planned(JOB)
    assert_same(APP, JOB, args, kwargs)


@given(few_of(PLANNED, OTHERS), st.sampled_from([(), (1, "é"), [{"a": [1.5]}]]), st.sampled_from([None, {"k": "v"}]))
@settings(max_examples=600)
def test_any_options_travel_as_they_do_on_the_long_way(options: dict[str, Any], args: Any, kwargs: Any) -> None:
    assert_same(APP, JOB, args, kwargs, **options)


@given(few_of(PLANNED), few_of(PLANNED))
@settings(max_examples=150)
def test_attributes_of_the_task_and_options_together(attributes: dict[str, Any], options: dict[str, Any]) -> None:
    app = Celery("plans", broker="memory://plans-own", set_as_current=False)
    app.broker.clock = FakeClock(NOW)
    task = job_of(app, **attributes)
    for given_options in ({}, options, options):
        assert_same(app, task, (1,), None, **given_options)


@given(few_of(PLANNED, OTHERS), few_of(PLANNED), few_of(PLANNED))
@settings(max_examples=150)
def test_routes_and_attributes_and_options_together(
    route: dict[str, Any], attributes: dict[str, Any], options: dict[str, Any]
) -> None:
    app = Celery("plans", broker="memory://plans-own", set_as_current=False)
    app.conf.task_routes = {"job": route}
    app.broker.clock = FakeClock(NOW)
    task = job_of(app, **attributes)
    for given_options in ({}, options, options):
        assert_same(app, task, (1,), None, task_id="an-id", **given_options)


@pytest.mark.parametrize(
    "conf",
    [
        {"task_serializer": "yaml"},
        {"task_default_queue": "other", "task_default_delivery_mode": 1},
        {"task_compression": "gzip"},
        {"task_protocol": 1},
        {"task_routes": {"job": {"queue": "routed", "priority": 4}}},
        {"task_routes": {"job": {"expires": 9, "serializer": "yaml"}}},
        {"task_routes": {"job": {"headers": {"by": "route"}, "custom": 1}}},
        {"task_routes": {"job": {"exchange": "topics", "routing_key": "a.b"}}},
        {"task_routes": {"job": {"retry": False}}},
        {"task_routes": {"job": {"root_id": "of the route", "reply_to": "x", "group_index": 3}}},
        {"task_routes": {"job": {"argsrepr": "hidden", "shadow": "of the route", "countdown": 3}}},
        {"task_routes": {"job": {"shadow": "of the route", "retries": 1, "replaced_task_nesting": 2, "time_limit": 3}}},
        {"task_routes": {"job": {"expiration": 3}}},
        {"task_routes": {"job": {"compression": "gzip", "link": {"task": "next", "args": [], "kwargs": {}}}}},
        {"task_routes": [lambda name, args, kwargs, options, **_: {"queue": f"q{len(args)}"}]},
        {"task_ignore_result": True},
        {"task_soft_time_limit": 1.5},
        {"task_default_priority": 3, "task_inherit_parent_priority": True},
        {"timezone": "Europe/Berlin"},
        {"broker_transport_options": {}, "result_backend": None},
    ],
)
def test_settings_of_all_kinds(conf: dict[str, Any]) -> None:
    app = Celery("plans", broker="memory://plans-conf", backend="memory://plans-conf", set_as_current=False)
    app.conf.update(conf)
    app.broker.clock = FakeClock(NOW)
    task = job_of(app)
    for options in ({}, {"queue": "mail"}, {"countdown": 5}, {"expires": 7}, {"priority": 2, "expires": None},
                    {"root_id": "r", "countdown": None, "group_id": "g"}):  # fmt: skip
        assert_same(app, task, (1, 2), {"é": "é"}, **options, task_id="an-id")


def test_a_route_that_says_to_store_no_result() -> None:
    app = Celery("plans", broker="memory://plans-conf", backend="memory://plans-conf", set_as_current=False)
    app.conf.task_routes = {"job": {"ignore_result": True}}
    job = job_of(app)
    type(job).ignore_result = None
    assert is_planned(job)
    assert job.delay().ignored
    assert_same(app, job)
    with the_long_way():
        assert job.delay().ignored


def test_which_options_are_planned(app: Celery) -> None:
    job = job_of(app)
    assert is_planned(job)
    assert is_planned(job, queue="mail", priority=3, countdown=1, serializer="yaml")
    assert is_planned(job, group_id="g", group_index=0, root_id="r", parent_id=None, expires=1)
    assert is_planned(job, chain=[{"task": "next"}], reply_to="r", root_id="r", parent_id="p")
    for options in ({"headers": {}}, {"link": None}, {"priority": 1.0}, {"priority": True}, {"queue": None}, {"x": 1}):
        assert not is_planned(job, **options)


def test_options_that_are_made_up_do_not_fill_the_memory(app: Celery) -> None:
    job = job_of(app)
    for number in range(plans.MOST_PLANS + 50):
        assert collect(app, job, queue=f"customer-{number}").routing_key == f"customer-{number}"
    assert len(job._plans) == plans.MOST_PLANS


def test_many_threads_do_not_fill_the_memory(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MOST_THREADS", 2)
    job, hold = job_of(app), threading.Barrier(6)
    replies: list[tuple[str, str]] = []

    def send() -> None:
        hold.wait(30)
        for _ in range(2):
            message = decode_envelope(collect(app, job).envelope)
            replies.append((message.properties["reply_to"], app.thread_oid))
        hold.wait(30)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    hold.wait(30)
    hold.wait(30)
    for thread in threads:
        thread.join()
    assert all(reply == own for reply, own in replies)
    assert len({reply for reply, _ in replies}) == 5
    plan = plans.find(job, app, {})
    assert plan is not None
    assert len(plan.replies) <= 2


def test_a_task_that_is_sent_by_a_task(app: Celery) -> None:
    job, inner = job_of(app), app.task(lambda: None, name="inner", shared=False)
    for request in (
        {"id": "parent", "root_id": "root"},
        {"id": "parent"},
        {"id": "p\"'é", "root_id": "é"},
        {"id": "parent", "root_id": 7},
    ):
        job.push_request(called_directly=False, delivery_info={"priority": 8}, **request)
        push_current_task(job)
        try:
            assert_same(app, inner)
            assert_same(app, inner, countdown=3, group_id="g")
            assert_same(app, inner, root_id="mine")
            assert_same(app, inner, task_id="parent")
            assert [type(child) for child in job.request.children] == [app.AsyncResult] * 8
            app.conf.task_inherit_parent_priority = True
            assert_same(app, inner)
            assert collect(app, inner).priority == 8
            app.conf.task_inherit_parent_priority = False
        finally:
            pop_current_task()
            job.pop_request()


# --- No change goes unseen --------------------------------------------------------------------------------------------


def sent(app: Celery, task: Any, **options: Any) -> Any:
    return decode_envelope(collect(app, task, (1,), **options).envelope)


def test_settings_that_change(app: Celery) -> None:
    job = job_of(app)
    assert sent(app, job).properties["delivery_mode"] == 2
    app.conf.task_default_delivery_mode = "transient"
    assert sent(app, job).properties["delivery_mode"] == 1
    app.conf.task_default_queue = "other"
    assert collect(app, job).routing_key == "other"
    app.conf.task_routes = {"job": "routed"}
    assert collect(app, job).routing_key == "routed"
    app.conf.update(task_routes=None, task_protocol=1)
    assert sent(app, job).headers == {}
    app.conf.swap_with(detect_settings({"task_compression": "gzip", "broker_url": "memory://plans"}))
    assert sent(app, job).headers["compression"] == "application/x-gzip"
    app.config_from_object({"task_default_queue": "again", "broker_url": "memory://plans"})
    assert collect(app, job).routing_key == "again"
    app.conf = detect_settings({"task_compression": "bzip2", "broker_url": "memory://plans"})
    assert sent(app, job).headers["compression"] == "application/x-bz2"
    app.conf.task_always_eager = True
    assert job.delay(1).state == "SUCCESS"


def test_queues_and_routers_that_change(app: Celery) -> None:
    job = job_of(app)
    assert collect(app, job).exchange == ""
    app.amqp.queues = {"celery": {"exchange": "topics", "exchange_type": "topic", "routing_key": "a"}}
    assert (collect(app, job).exchange, collect(app, job).routing_key) == ("topics", "a")
    app.conf.task_routes = {"job": "one"}
    assert collect(app, job).routing_key == "one"
    app.amqp.router = app.amqp.Router()
    app.amqp.router.routes = [lambda *args, **kwargs: "two"]
    app.amqp.router = type(app.amqp.router)(app.amqp.router.routes, app.amqp.queues, True, app)
    assert collect(app, job).routing_key == "two"


def test_attributes_of_the_task_that_change(app: Celery) -> None:
    job = job_of(app)
    assert sent(app, job).headers["timelimit"] == [None, None]
    job.time_limit, job.soft_time_limit = 30, 20
    assert sent(app, job).headers["timelimit"] == [30, 20]
    job.expires = 60
    assert collect(app, job).expires == NOW + 60
    assert collect(app, job, expires=None).expires is None
    type(job).expires = None
    del job.expires
    assert collect(app, job).expires is None
    job.name = "renamed"
    assert sent(app, job).headers["task"] == "renamed"


@pytest.mark.parametrize("name", ["before_task_publish", "after_task_publish"])
def test_receivers_that_connect(app: Celery, name: str) -> None:
    job, seen = job_of(app), []
    job.delay()

    def receive(sender: str, **named: Any) -> None:
        seen.append(sender)

    getattr(signals, name).connect(receive)
    try:
        job.delay()
    finally:
        getattr(signals, name).disconnect(receive)
    job.delay()
    assert seen == ["job"]


def test_send_task_of_others_is_called(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = job_of(app), []
    original = Celery.send_task

    def traced(self: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return original(self, name, *args, **kwargs)

    job.delay()
    with monkeypatch.context() as patch:
        patch.setattr(Celery, "send_task", traced)
        job.delay()
        job.delay()
    with monkeypatch.context() as patch:
        patch.setattr(app, "send_task", lambda *args, **kwargs: seen.append("own"))
        job.delay()
    job.delay()
    assert seen == ["job", "job", "own"]

    class Traced(Celery):
        send_task = traced

    app = Traced("traced", broker="memory://plans", set_as_current=False)
    job_of(app).delay()
    assert seen[3:] == ["job"]


def test_apply_async_of_others_is_called(app: Celery) -> None:
    class Tagged(Task):  # type: ignore[type-arg]
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async((*args, "tag"), kwargs, **{"queue": "tagged", **options})

    job = job_of(app, base=Tagged)
    with app.publisher.collect() as (messages):
        job.delay(1)
    assert messages[0].routing_key == "tagged"
    assert split_body(decode_envelope(messages[0].envelope))[0] == [1, "tag"]


def test_results_of_others_are_made(app: Celery) -> None:
    class Own(AsyncResult[Any]):
        pass

    job = job_of(app)
    assert type(job.delay()) is app.AsyncResult
    app.AsyncResult = Own  # type: ignore[misc]
    assert type(job.delay()) is Own
    type(job).AsyncResult = lambda self, task_id: ("result", self.name)
    assert job.delay() == ("result", "job")

    class Careful(AsyncResult[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.made = True

    app = Celery("plans", broker="memory://plans", set_as_current=False)
    app.AsyncResult = app.subclass_with_self(Careful)  # type: ignore[misc]
    assert job_of(app).delay().made


def test_a_result_is_what_it_is_on_the_long_way(app: Celery) -> None:
    job = job_of(app)
    for options in ({}, {"ignore_result": True}, {"ignore_result": False, "countdown": 1}):
        short = job.apply_async(**options)
        with the_long_way():
            long = job.apply_async(**options)
        assert type(short) is type(long) is app.AsyncResult
        for name in ("app", "parent", "ignored", "_cache", "backend"):
            assert getattr(short, name) == getattr(long, name)


def test_backends_of_others_are_told(app: Celery) -> None:
    told_of: list[Any] = []

    class Backend:
        def on_task_call(self, producer: Any, task_id: str) -> None:
            told_of.append((producer, task_id))

    job = job_of(app)
    job.delay()
    app.backend = Backend()
    result = job.delay()
    job.apply_async(ignore_result=True)
    assert told_of == [(None, result.id)]


def test_a_promise_of_a_task_can_be_patched(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(shared=False)
    def job() -> None: ...

    job.delay()
    with mock.patch.object(job, "delay", return_value="patched"):
        assert job.delay() == "patched"
    with mock.patch.object(job, "apply_async", return_value="patched"):
        assert job.delay() == job.apply_async() == "patched"
    with monkeypatch.context() as patch:
        patch.setattr(Task, "delay", lambda self: ("of the class", self.name))
        assert job.delay() == ("of the class", job.name)
    assert job.delay().id

    @app.task(shared=False)
    def other() -> None: ...

    with mock.patch.object(other, "apply_async", return_value="patched before it was made"):
        assert other.delay() == "patched before it was made"


def test_a_serializer_that_kombu_is_given(app: Celery) -> None:
    job, registry = job_of(app), kombu_serialization.registry
    before = registry._encoders["json"], registry._decoders["application/json"]
    assert sent(app, job).content_type == "application/json"
    kombu_serialization.register("json", lambda value: "mine", lambda text: text, "application/mine", "utf-8")
    try:
        message = sent(app, job)
        assert (message.content_type, message.body) == ("application/mine", b"mine")
        assert_same(app, job, (1,))
        late = job_of(Celery("late", broker="memory://plans", set_as_current=False))
        assert sent(late.app, late).body == b"mine"
    finally:
        kombu_serialization.unregister("json")
        kombu_serialization.register("json", before[0].encoder, before[1], before[0].content_type, "utf-8")
    assert sent(app, job).content_type == sent(late.app, late).content_type == "application/json"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="capability: this system does not fork")
def test_a_forked_child_says_who_it_is(app: Celery) -> None:
    job = job_of(app)
    mine = sent(app, job)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            theirs = sent(app, job)
            if theirs.properties["reply_to"] == app.thread_oid:
                os.write(write, f"{theirs.headers['origin']} {theirs.properties['reply_to']}".encode())
                code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        origin, reply = pipe.read().split()
    assert os.waitpid(child, 0)[1] == 0
    assert origin.startswith(f"gen{child}@")
    assert mine.headers["origin"].startswith(f"gen{os.getpid()}@")
    assert reply != mine.properties["reply_to"]


def test_arguments_are_what_they_were_when_they_were_sent(app: Celery) -> None:
    job, args = job_of(app), [[1]]
    message = collect(app, job, args)
    args[0].append(2)
    assert split_body(decode_envelope(message.envelope))[0] == [[1]]


def test_odd_values_leave_no_trace(app: Celery) -> None:
    """An argument that cannot be encoded sends nothing, and the next message is none the worse."""
    job = job_of(app)
    with app.publisher.collect() as messages, pytest.raises(Exception, match="not JSON serializable"):
        job.delay(object())
    assert messages == []
    assert split_body(sent(app, job))[0] == [1]
    assert sys.getrefcount(job._plans) < 10
    assert_same(app, job, (Decimal("1.5"), "\ud800", 2**70))
