"""`broadcast`: a task on every worker that is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import celery
from celery import Celery, states
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.result import AsyncResult

PATIENCE = 30.0
"""Seconds within which workers that are up answer, and a task has run."""
NODES = ("one@here", "two@here", "three@here")


def make_app(place: str) -> Celery:
    app = TestApp(broker=place, backend=place)

    @app.task(name="tasks.notify_all", bind=True, shared=False)
    def notify_all(self: Any, message: str, *, loud: bool = False) -> list[Any]:
        return [message.upper() if loud else message, self.request.hostname]

    return app


@pytest.fixture
def app(place: str) -> Iterator[Celery]:
    with make_app(place) as app:
        yield app


@pytest.fixture
def workers(place: str) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        for node in NODES:
            other = stack.enter_context(make_app(place))
            stack.enter_context(
                start_worker(other, hostname=node, pool="threads", perform_ping_check=False, shutdown_timeout=PATIENCE)
            )
        yield NODES


def test_every_worker_runs_it_once(app: Celery, workers: tuple[str, ...]) -> None:
    result = app.broadcast(
        "tasks.notify_all", args=["update"], kwargs={"loud": True}, limit=len(workers), timeout=PATIENCE
    )

    assert sorted(result.nodes) == sorted(workers)
    assert sorted(result.get(timeout=PATIENCE)) == sorted(["UPDATE", node] for node in workers)
    assert result.by_node() == {node: ["UPDATE", node] for node in workers}
    assert all(isinstance(member, AsyncResult) and member.state == states.SUCCESS for member in result)
    assert app.backend.get_task_meta(result[0].id)["group_id"] == result.id


def test_again_and_for_some(app: Celery, workers: tuple[str, ...]) -> None:
    for message in ("a", "b"):
        result = app.broadcast(app.tasks["tasks.notify_all"], [message], limit=len(workers), timeout=PATIENCE)
        assert result.by_node(timeout=PATIENCE) == {node: [message, node] for node in workers}
    result = app.broadcast("tasks.notify_all", ["c"], destination="two@here", timeout=PATIENCE)
    assert result.by_node(timeout=PATIENCE) == {"two@here": ["c", "two@here"]}
    # Ordinary messages still go to all of them, and nothing of a broadcast is left.
    assert app.send_task("tasks.notify_all", ["d"]).get(timeout=PATIENCE)[0] == "d"
    assert [entry.ready for entry in app.broker.stats([f"{node}.dq2" for node in workers])] == [0, 0, 0]


def test_the_function_is_for_the_current_app(app: Celery, workers: tuple[str, ...]) -> None:
    app.set_current()
    result = celery.broadcast("tasks.notify_all", args=["update"], limit=len(workers), timeout=PATIENCE)
    assert len(result.get(timeout=PATIENCE)) == len(workers)


def test_nobody_is_up(app: Celery) -> None:
    result = app.broadcast("tasks.notify_all", args=["update"], timeout=0.05)
    assert (list(result), result.get(), result.nodes) == ([], [], {})


def test_what_a_worker_has_accepted_outlives_it(app: Celery, place: str) -> None:
    """A worker that does not get to run it before it stops finds it when it comes back."""
    node = "one@here"
    with start_worker(
        make_app(place), hostname=node, pool="threads", perform_ping_check=False, shutdown_timeout=PATIENCE
    ):
        app.broadcast("tasks.notify_all", ["first"], limit=1, timeout=PATIENCE).get(timeout=PATIENCE)
    waiting = app.send_task("tasks.notify_all", ["second"], exchange="C.dq2", routing_key=node)
    assert [entry.ready for entry in app.broker.stats([f"{node}.dq2"])] == [1]

    with start_worker(
        make_app(place), hostname=node, pool="threads", perform_ping_check=False, shutdown_timeout=PATIENCE
    ):
        app.broadcast("tasks.notify_all", ["third"], limit=1, timeout=PATIENCE).get(timeout=PATIENCE)
        assert waiting.get(timeout=PATIENCE) == ["second", node]


def test_a_worker_with_a_direct_queue_of_its_own(app: Celery, place: str) -> None:
    other = make_app(place)
    other.conf.worker_direct = True
    with start_worker(other, hostname="one@here", pool="threads", perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert app.broadcast("tasks.notify_all", ["x"], limit=1, timeout=PATIENCE).get(timeout=PATIENCE) == [
            ["x", "one@here"]
        ]


def test_eagerly(app: Celery) -> None:
    app.conf.task_always_eager = True
    result = app.broadcast("tasks.notify_all", ["x"])
    assert result.get()[0][0] == "x"
    assert len(result) == 1


def test_failures(app: Celery, workers: tuple[str, ...]) -> None:
    result = app.broadcast("tasks.notify_all", [1], kwargs={"loud": True}, limit=len(workers), timeout=PATIENCE)
    with pytest.raises(AttributeError):
        result.get(timeout=PATIENCE)
    assert [type(value) for value in result.get(propagate=False)] == [AttributeError] * len(workers)
