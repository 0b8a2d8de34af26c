"""Tasks are moved between queues, and between brokers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.contrib import migrate
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils import uuid


@pytest.fixture
def other() -> Iterator[Celery]:
    app = TestApp(broker=f"memory://{uuid()}", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def sent(app: Celery) -> list[str]:
    """Ids of tasks that wait: a, b, c in their order."""
    return [app.send_task(f"task.{name}", (name,), task_id=name).id for name in "abc"]


def waiting(app: Celery, queue: str = "celery") -> list[str]:
    return [entry.task_id for entry in app.broker.entries("ready", [queue])]


def test_one_task_is_moved_and_the_others_keep_their_places(app: Celery, sent: list[str]) -> None:
    state = migrate.move_task_by_id("b", "images", app=app)
    assert (state.count, state.filtered) == (2, 1)
    assert waiting(app) == ["a", "c"]
    assert waiting(app, "images") == ["b"]


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (migrate.move_by_taskmap, {"map": {"task.a": "images", "task.c": "images"}}),
        (migrate.move_by_idmap, {"map": {"a": "images", "c": "images"}}),
        (migrate.move, {"predicate": lambda body, message: message.headers["id"] != "b", "routing_key": "images"}),
        (migrate.move, {"predicate": lambda body, message: body[0][0] in "ac" and "images"}),
        (migrate.move, {"predicate": lambda body, message: body[0][0] in "ac" and ("", "images")}),
        (migrate.move, {"predicate": lambda *args: "x", "transform": lambda to: "images", "tasks": "task.a,task.c"}),
    ],
)  # fmt: skip
def test_tasks_are_moved(app: Celery, sent: list[str], call: Any, options: dict[str, Any]) -> None:
    seen: list[str] = []
    call(**options, app=app, callback=lambda state, body, message: seen.append(body["id"]))
    assert seen == ["a", "c"]
    assert waiting(app) == ["b"]
    assert waiting(app, "images") == ["a", "c"]


def test_moving_stops_when_it_is_to(app: Celery, sent: list[str]) -> None:
    def enough(state: Any, body: Any, message: Any) -> None:
        raise migrate.StopFiltering

    assert migrate.move(lambda *args: True, routing_key="images", app=app, limit=2).filtered == 2
    assert waiting(app) == ["c"]
    migrate.move(lambda *args: True, routing_key="images", app=app, source=["celery"], callback=enough)
    assert sorted(waiting(app, "images")) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="routing_key"):
        migrate.move(lambda *args: True, app=app, source=["images"])
    assert sorted(waiting(app, "images")) == ["a", "b", "c"]


def test_moved_tasks_are_run_where_they_are_now(app: Celery) -> None:
    @app.task(name="task.double")
    def double(x: int) -> int:
        return 2 * x

    result = double.delay(21)
    migrate.move_by_taskmap({"task.double": "images"}, app=app)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0, queues=["images"]):
        assert result.get(timeout=30) == 42


def test_everything_is_sent_to_another_broker(app: Celery, other: Celery, sent: list[str]) -> None:
    app.send_task("task.later", task_id="later", countdown=600, queue="slow")
    app.send_task("task.urgent", task_id="urgent", queue="fast")
    state = migrate.migrate_tasks(app.broker, other.broker, app=app, ack_messages=True, queues="celery,slow,fast:quick")
    assert state.filtered == 5
    assert waiting(other) == ["a", "b", "c"]
    assert waiting(other, "quick") == ["urgent"]
    [delayed] = other.broker.entries("delayed", ["slow"])
    assert delayed.task_id == "later"
    assert delayed.due is not None
    left = app.broker.stats(["celery", "slow", "fast"])
    assert [(stats.ready, stats.delayed) for stats in left] == [(0, 0)] * 3


def test_without_leave_they_stay_as_well(app: Celery, other: Celery, sent: list[str]) -> None:
    migrate.migrate_tasks(app.broker, other.broker, app=app, tasks=["task.b"])
    assert waiting(other) == ["b"]
    assert waiting(app) == sent


def test_small_words(app: Celery) -> None:
    assert migrate.prepare_queues("a,b:c") == {"a": "a", "b": "c"}
    assert migrate.prepare_queues(None) == {}
    assert migrate.expand_dest(True, "x", "y") == ("x", "y")
    assert migrate.State().strtotal == "?"
