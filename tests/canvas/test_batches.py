"""The tasks of a group are sent from one stencil, with the same messages as if they were sent one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, Task, chord, group, signals
from celery._state import pop_current_task, push_current_task
from celery.app import batches
from celery.canvas.ids import fixed_ids
from celery.utils.clock import FakeClock
from celery.wire.message import Outgoing

TAG = re.compile(rb'"delivery_tag":"[^"]*"')


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("batches", broker=place, backend=place, set_as_current=False) as app:
        app.broker.clock = FakeClock(1_700_000_000.0)

        @app.task(name="add")
        def add(x: Any = 0, y: Any = 0, *more: Any, **named: Any) -> Any:
            return x

        @app.task(name="quiet", ignore_result=True, priority=3, expires=60)
        def quiet(x: Any = 0) -> None: ...

        @app.task(name="loose", typing=False)
        def loose() -> None: ...

        app.finalize()
        yield app


@contextmanager
def one_by_one() -> Iterator[None]:
    """A receiver of the signal has to be told of every message."""

    def told(**named: Any) -> None: ...

    signals.after_task_publish.connect(told)
    try:
        yield
    finally:
        signals.after_task_publish.disconnect(told)


def sent(canvas: Any, *args: Any, **options: Any) -> list[Any]:
    with canvas.app.publisher.collect() as messages, fixed_ids("this"):
        canvas.apply_async(*args, **options)
    return [(TAG.sub(b"", message.envelope), *fields(message)) for message in messages]


def fields(message: Outgoing) -> tuple[Any, ...]:
    return message.routing_key, message.exchange, message.priority, message.due, message.expires, message.task_id


ARGS = [
    (), (1, 2), ("text", None), ("\u00fc\u2028\"\\", True), (1.5, float("inf")), (10**30, -1), ([1, {"a": [2]}], {}),
    (Decimal("1.5"), datetime(2024, 1, 1, tzinfo=UTC)), ("x" * 2000, "y" * 2000), (b"bytes", "\ud800"),
]  # fmt: skip


@pytest.fixture(
    params=["group", "chord", "chord with body options", "partial", "queue", "times", "root", "quiet", "kwargs"]
)
def case(app: Celery, request: pytest.FixtureRequest) -> Any:
    """A function that sends something, each time the same."""
    add, quiet = app.tasks["add"], app.tasks["quiet"]
    parts = [add.s(*args) for args in ARGS]
    match request.param:
        case "chord":
            return lambda: sent(chord(parts, add.s(1).set(queue="b")))
        case "chord with body options":
            return lambda: sent(chord(parts, add.s("x" * 100)), (0,), queue="other", priority=4)
        case "partial":
            return lambda: sent(group([*parts, add.si(9), add.s(named="x")]), ("first",), {"more": 1})
        case "queue":
            return lambda: sent(group(parts), queue="other", priority=7, ignore_result=True, time_limit=5)
        case "times":
            return lambda: sent(group(parts), countdown=10, expires=60)
        case "root":
            return lambda: sent(group(parts), root_id="root", parent_id="parent", task_id="group")
        case "quiet":
            return lambda: sent(group([quiet.s(1), add.s(2), quiet.s(3)]))
        case "kwargs":
            return lambda: sent(group(add.s(ä=1, b="c"), add.s(x={"y": 1})))
    return lambda: sent(group(parts))


def test_the_same_messages(case: Any) -> None:
    quick = case()
    with one_by_one():
        slow = case()
    assert quick == slow


def test_the_same_messages_inside_a_task(app: Celery, case: Any) -> None:
    task = app.tasks["loose"]
    task.push_request(id="parent", root_id="root", called_directly=False)
    push_current_task(task)
    try:
        quick = case()
        with one_by_one():
            assert quick == case()
    finally:
        pop_current_task()
        task.pop_request()


@pytest.fixture
def couriers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that were made the short way."""
    made: list[Any] = []
    message = batches.Courier.message

    def noted(self: Any, *args: Any) -> Any:
        found = message(self, *args)
        made.append(found)
        return found

    monkeypatch.setattr(batches.Courier, "message", noted)
    return made


def test_plain_tasks_go_the_short_way(app: Celery, couriers: list[Any]) -> None:
    add = app.tasks["add"]
    group(add.s(1), app.tasks["quiet"].s(2), add.si(3)).delay()
    chord([add.s(1), add.s(2)], add.s()).delay()
    assert len(couriers) == 5
    assert None not in couriers


def test_what_it_does_not_cover_goes_the_long_way(app: Celery, couriers: list[Any]) -> None:
    add = app.tasks["add"]

    class Own(Task[Any, Any]):
        name = "own"

        def run(self) -> None: ...

        def apply_async(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            return super().apply_async(*args, shadow="seen", **kwargs)

    own: Any = app.register_task(Own())
    linked = add.s(1).set(link=[add.s(2)])
    for canvas in (group(own.s(), own.s()), group(linked, add.s(1) | add.s(2)), group(app.signature("far"), app=app)):
        assert len(sent(canvas)) == len(canvas.tasks)
    assert couriers == []
    assert b'"shadow":"seen"' in sent(group(own.s()))[0][0]
    app.conf.task_protocol = 1
    assert len(sent(group(add.s(1), add.s(2)))) == 2
    app.conf.task_protocol = 2
    packed = app.task(name="packed", serializer="msgpack", shared=False, lazy=False)(lambda x: x)
    assert len(sent(group(packed.s(1), packed.s(2)))) == 2
    assert couriers == []


def test_wrong_arguments_are_refused_and_nothing_is_sent(app: Celery) -> None:
    @app.task(name="strict", shared=False, lazy=False)
    def strict(x: int) -> int:
        return x

    with pytest.raises(TypeError):
        group(strict.s(1), strict.s(1, 2)).delay()
    with pytest.raises(Exception, match="serializ"):
        group(strict.s(1), strict.s(object())).delay()
    assert app.broker.entries("ready", ["celery"]) == []
