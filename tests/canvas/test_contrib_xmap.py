"""`celery.contrib.xmap`: a map that tries failed items again, and reports errors item by item."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, states
from celery.contrib import ItemError, XMapResult, xmap
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, TimeoutError  # noqa: A004 - the public name

PATIENCE = 30.0


@pytest.fixture
def tries() -> Counter[Any]:
    """How often each item was tried."""
    return Counter()


@pytest.fixture
def app(place: str, tries: Counter[Any]) -> Iterator[Celery]:
    with TestApp(broker=place, backend=place) as app:

        @app.task(name="process_item", shared=False, time_limit=20)
        def process_item(item: Any, more: int = 0) -> Any:
            tries[item] += 1
            if isinstance(item, str):
                raise ValueError(item)  # noqa: TRY004 - any exception would do
            if item < 0 and tries[item] < -item:
                raise OSError(f"not yet, {item}")
            return item * 2 + more

        @app.task(name="later", shared=False)
        async def later(item: int) -> int:
            await asyncio.sleep(0)
            return item + 1

        @app.task(name="too_slow", shared=False)
        def too_slow(item: int) -> int:
            tries[item] += 1
            if item == 1 and tries[item] == 1:
                raise SoftTimeLimitExceeded
            return item

        yield app


@pytest.fixture
def worker(app: Celery) -> Iterator[None]:
    with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False, shutdown_timeout=PATIENCE):
        yield


@pytest.fixture(params=[None, 1, 3, 100])
def chunk(request: pytest.FixtureRequest) -> Any:
    return request.param


ITEMS = [1, -1, "bad", 2, -3, "worse", 3]


def test_only_failed_items_are_tried_again(app: Celery, worker: None, tries: Counter[Any], chunk: int | None) -> None:
    result = xmap(app.tasks["process_item"].s(), ITEMS, max_retries=3, countdown=0, chunk=chunk)
    values = result.get(timeout=PATIENCE)

    assert [value for value in values if not isinstance(value, ItemError)] == [2, -2, 4, -6, 6]
    assert tries == {1: 1, -1: 1, "bad": 4, 2: 1, -3: 3, "worse": 4, 3: 1}
    bad, worse = values[2], values[5]
    assert isinstance(bad, ItemError)
    assert (bad.index, bad.item, type(bad.exception), bad.exception.args) == (2, "bad", ValueError, ("bad",))
    assert str(bad) == "Item 2, 'bad', failed: ValueError('bad')"
    assert bad.__cause__ is bad.exception
    assert isinstance(worse, ItemError)
    assert [error.index for error in result.errors()] == [2, 5]
    assert (result.ready(), result.successful(), result.failed()) == (True, False, True)
    with pytest.raises(ItemError, match="Item"):
        result.get(propagate=True)
    assert asyncio.run(result.aget())[:2] == [2, -2]
    with pytest.raises(ItemError):
        asyncio.run(result.aget(propagate=True))


def test_all_that_succeed(app: Celery, worker: None, chunk: int | None) -> None:
    result = xmap(app.tasks["process_item"].s(more=1), range(50), chunk=chunk)
    assert result.get(timeout=PATIENCE) == [item * 2 + 1 for item in range(50)]
    assert result.errors() == []
    assert (result.successful(), result.failed()) == (True, False)
    assert sorted(result.get(order="completion")) == result.join()
    heard: list[Any] = []
    assert result.get(callback=lambda task_id, value: heard.append(value)) is None
    assert sorted(heard) == result.get()

    async def run() -> list[Any]:
        return [value async for value in await result.aget(order="completion")]

    assert sorted(asyncio.run(run())) == result.get()


def test_nothing_to_do(app: Celery) -> None:
    result = xmap(app.tasks["process_item"], [])
    assert (result.get(), result.errors(), result.ready()) == ([], [], True)


def test_coroutines(app: Celery, worker: None, chunk: int | None) -> None:
    assert xmap(app.tasks["later"].s(), [1, 2, 3], chunk=chunk).get(timeout=PATIENCE) == [2, 3, 4]


def test_items_that_there_was_no_time_for_are_tried_again(app: Celery, worker: None, tries: Counter[Any]) -> None:
    result = xmap(app.tasks["too_slow"].s(), [0, 1, 2], countdown=0, chunk=3)
    assert result.get(timeout=PATIENCE) == [0, 1, 2]
    assert tries == {0: 1, 1: 2, 2: 1}


def test_no_retries(app: Celery, worker: None, tries: Counter[Any], chunk: int | None) -> None:
    result = xmap(app.tasks["process_item"].s(), ["bad", 1], max_retries=0, chunk=chunk)
    assert [type(value) for value in result.get(timeout=PATIENCE)] == [ItemError, int]
    assert tries == {"bad": 1, 1: 1}


def test_a_failed_item_is_a_failed_task(app: Celery, worker: None) -> None:
    result = xmap(app.tasks["process_item"].s(), ["bad", 1], max_retries=0)
    result.get(timeout=PATIENCE)
    assert [member.state for member in result] == [states.FAILURE, states.SUCCESS]
    meta = app.backend.get_task_meta(result[0].id)
    assert (meta["group_id"], repr(meta["result"])) == (result.id, "ValueError('bad')")


def test_waiting_ends_in_time(app: Celery) -> None:
    result = xmap(app.tasks["process_item"].s(), [1])
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    assert not result.ready()


def test_where_the_messages_go(app: Celery) -> None:
    """They are routed as the task that they call, and have the options of its signature."""
    app.conf.task_routes = {"process_item": {"queue": "slow"}}
    result = xmap(app.tasks["process_item"].s().set(priority=3), [1, 2, 3], chunk=2)
    assert len(result) == 2
    assert {entry.name: entry.ready for entry in app.broker.stats(["slow", "celery"])} == {"slow": 2, "celery": 0}


def test_what_is_impossible(app: Celery) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        xmap(app.tasks["process_item"].s(), [1], chunk=0)
    with pytest.raises(ValueError, match="submission"):
        xmap(app.tasks["process_item"].s(), []).get(order="size")  # type: ignore[arg-type]


def test_eagerly(app: Celery, tries: Counter[Any], chunk: int | None) -> None:
    app.conf.task_always_eager = True
    values = xmap(app.tasks["process_item"].s(), [1, "bad", -2], chunk=chunk).get()
    assert (values[0], values[2], type(values[1])) == (2, -4, ItemError)
    assert tries == {1: 1, "bad": 4, -2: 2}


def test_errors_and_results_can_be_pickled(app: Celery) -> None:
    error = pickle.loads(pickle.dumps(ItemError(1, "x", ValueError("no"))))
    assert (error.index, error.item, repr(error.exception)) == (1, "x", "ValueError('no')")
    made = XMapResult("g", [], None, [1, 2], 2, app=app)
    again = pickle.loads(pickle.dumps(made))
    assert (again.id, again.items, again.chunk) == ("g", [1, 2], 2)
