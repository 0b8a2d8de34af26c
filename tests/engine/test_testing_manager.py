"""`celery.contrib.testing.manager`: a program waits for what its cluster does."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.manager import Manager, Sentinel
from celery.result import ResultSet


@pytest.fixture
def pool() -> str:
    return "threads"


@pytest.fixture
def kind() -> str:
    return "memory"


@pytest.fixture
def manager(app: Celery) -> Manager:
    return Manager(app, stdout=io.StringIO(), block_timeout=20)


def test_tasks_are_seen_in_a_worker_and_their_results_joined(
    app: Celery, start: Any, patient: None, manager: Manager
) -> None:
    go = threading.Event()

    @app.task(shared=False, name="held", track_started=True)
    def held(number: int) -> int:
        go.wait(30)
        return number

    with start():
        try:
            running = [held.delay(number) for number in range(2)]
            ids = [result.id for result in running]
            manager.assert_accepted(ids, interval=0.3)
            active = lambda: manager.query_task_states(ids).get("active") == set(ids)  # noqa: E731 - as below
            manager.wait_for(lambda: manager.true_or_raise(active), Sentinel)
            manager.assert_result_tasks_in_progress_or_completed(running)
            results = ResultSet([*running, held.delay(2)], app=app)
            manager.assert_received([results[2].id], interval=0.3)
            assert not manager.is_accepted([results[2].id], timeout=0.3)
            assert manager.missing_results(results.results) == [result.id for result in results]
            with pytest.raises(AssertionError, match="not there after 1 looks"):
                manager.join(results, max_retries=1, timeout=0.05)
            assert "3 of 3 results are missing" in manager.stdout.getvalue()
        finally:
            go.set()
        assert manager.join(results) == [0, 1, 2]
        manager.wait_until_idle()


def test_what_fails_for_a_while_is_tried_again(manager: Manager) -> None:
    tries = iter([False, False, True])
    policy = {"interval_start": 0.0, "interval_step": 0.0, "emit_warning": True, "desc": "the third"}
    assert manager.wait_for(lambda: manager.true_or_raise(lambda: next(tries)), Sentinel, **policy) is True
    said = manager.stdout.getvalue().splitlines()
    assert [line.split(";")[0] for line in said] == ["!Not there yet: the third"] * 2
    with pytest.raises(Sentinel):
        manager.wait_for(
            lambda: manager.true_or_raise(bool), Sentinel, max_retries=2, interval_start=0.0, interval_step=0
        )


def test_what_must_not_happen_is_noticed(manager: Manager) -> None:
    never = lambda: manager.true_or_raise(bool)  # noqa: E731 - the shortest function that raises
    manager.ensure_not_for_a_while(never, Sentinel, max_retries=3, interval_start=0.0)
    with pytest.raises(AssertionError, match="Should not have happened: tea"):
        manager.ensure_not_for_a_while(lambda: True, Sentinel, desc="tea")
