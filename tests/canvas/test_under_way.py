"""`chord(header)(body)` is under way: its result can be sent again, and be the first step of a chain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, chain, chord, group
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ChordError

PATIENCE = 30


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("underway", broker=place, backend=place, set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="fail")
        def fail(*args: Any) -> None:
            raise ValueError("no")

        app.finalize()
        yield app


def header(app: Celery) -> Any:
    return group(app.tasks["add"].s(i, i) for i in range(5))


def test_it_is_its_own_result(app: Celery) -> None:
    result = chord(header(app))(app.tasks["total"].s())
    assert result.delay() is result
    assert result.apply_async() is result
    assert isinstance(result, app.AsyncResult)
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert result.delay().get(timeout=PATIENCE) == 20


def test_a_chain_goes_on_from_it(app: Celery) -> None:
    step1 = chord(header(app))(app.tasks["total"].s())
    workflow = chain(step1, app.tasks["add"].s(2), app.tasks["add"].s(3))
    result = workflow.delay()
    assert result.parent.parent == step1
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert result.get(timeout=PATIENCE) == 25
        assert step1.get(timeout=PATIENCE) == 20


def test_a_chain_goes_on_from_one_that_has_ended(app: Celery) -> None:
    step1 = chord(header(app))(app.tasks["total"].s())
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert step1.get(timeout=PATIENCE) == 20
        assert chain(step1, app.tasks["add"].s(2)).delay().get(timeout=PATIENCE) == 22


def test_every_chain_goes_on(app: Celery) -> None:
    """Only one of them can be put behind the body: the sender of the other waits for it."""
    step1 = chord(header(app))(app.tasks["total"].s())
    results = [chain(step1, app.tasks["add"].s(1)).delay()]
    sender = threading.Thread(target=lambda: results.append(chain(step1, app.tasks["add"].s(2)).delay()))
    sender.start()
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        sender.join(PATIENCE)
        assert [result.get(timeout=PATIENCE) for result in results] == [21, 22]


def test_what_follows_a_group(app: Celery) -> None:
    step1 = chord(header(app))(group(app.tasks["total"].s(), app.tasks["total"].s()))
    result = chain(step1, app.tasks["total"].s()).delay()
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert result.get(timeout=PATIENCE) == 40


@pytest.mark.parametrize("ended", [False, True])
def test_what_follows_a_failure_has_failed(app: Celery, ended: bool) -> None:
    step1 = chord([app.tasks["fail"].s()])(app.tasks["total"].s())
    results = [] if ended else [chain(step1, app.tasks["add"].s(1), app.tasks["add"].s(1)).delay()]
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        with pytest.raises(ChordError):
            step1.get(timeout=PATIENCE)
        if ended:
            results.append(chain(step1, app.tasks["add"].s(1), app.tasks["add"].s(1)).delay())
        for result in (results[0], results[0].parent):
            with pytest.raises(ChordError):
                result.get(timeout=PATIENCE)


def test_it_begins_a_chain_or_is_no_part_of_a_workflow(app: Celery) -> None:
    step1 = chord(header(app))(app.tasks["total"].s())
    assert chain(step1).delay() == step1
    for workflow in (chain(app.tasks["add"].s(1, 1), step1), group([step1])):
        with pytest.raises(TypeError, match="is under way: it can be the first step of a chain"):
            workflow.delay()
    with pytest.raises(TypeError, match="is none"):
        chain(app.tasks["add"].s(1, 1), 5)  # type: ignore[arg-type]


def test_it_has_ended_where_tasks_run_at_once(app: Celery) -> None:
    app.conf.task_always_eager = True
    step1 = chord(header(app))(app.tasks["total"].s())
    assert step1.delay().get() == 20
    assert chain(step1, app.tasks["add"].s(2)).delay().get() == 22
