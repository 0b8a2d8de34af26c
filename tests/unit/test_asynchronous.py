"""`celery.backends.asynchronous`: a result backend of a user's to which results are sent."""

from __future__ import annotations

import builtins
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.backends.asynchronous import AsyncBackendMixin, BaseResultConsumer, greenletDrainer
from celery.backends.base import BaseBackend
from celery.exceptions import TimeoutError  # noqa: A004 - the public name
from celery.result import ResultSet


class Consumer(BaseResultConsumer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.wanted: set[str] = set()

    def drain_events(self, timeout: float | None = None) -> None:
        try:
            meta = self.backend.line.get(timeout=timeout)
        except queue.Empty:
            raise builtins.TimeoutError from None
        if meta is None:
            raise ConnectionError("the line is cut")
        self.on_state_change(meta, None)

    def consume_from(self, task_id: str) -> None:
        self.wanted.add(task_id)

    def cancel_for(self, task_id: str) -> None:
        self.wanted.discard(task_id)


class Sent(AsyncBackendMixin, BaseBackend):  # type: ignore[misc] - both have the methods, and the first is meant
    """Results that come over a line."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.line: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.result_consumer = Consumer(self, app, self.accept, self._pending_results, self._pending_messages)

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        self.line.put({"task_id": task_id, "status": state, "result": result, "children": [], "traceback": None})
        return result

    def _get_task_meta_for(self, task_id: str) -> Any:
        return {"task_id": task_id, "status": "PENDING", "result": None}


class Threaded(greenletDrainer):
    """A thread in the place of the greenlet."""

    def spawn(self, func: Any) -> threading.Thread:
        thread = threading.Thread(target=func, daemon=True)
        thread.start()
        return thread


@pytest.fixture(params=["default", "beside"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    with Celery("sent", broker="memory://sent", backend=Sent) as app:
        if request.param == "beside":
            app.backend.result_consumer.drainer = Threaded(app.backend.result_consumer)
        yield app.backend
        app.backend.result_consumer.drainer.stop()


def test_whoever_waits_is_told(backend: Any) -> None:
    consumer = backend.result_consumer

    def store() -> None:
        while consumer.on_message is None:  # nobody waits yet
            time.sleep(0.001)
        backend.store_result("a", 5, "SUCCESS")

    thread = threading.Thread(target=store, daemon=True)
    thread.start()
    seen: list[Any] = []
    assert backend.app.AsyncResult("a").get(timeout=20, on_message=seen.append) == 5
    thread.join()
    assert [meta["task_id"] for meta in seen] == ["a"]
    assert backend.result_consumer.wanted == set()


def test_a_result_that_came_too_early_is_kept(backend: Any) -> None:
    backend.store_result("early", 1, "SUCCESS")
    backend.store_result("late", 2, "SUCCESS")
    assert backend.app.AsyncResult("late").get(timeout=20) == 2
    assert backend.app.AsyncResult("early").get(timeout=20) == 1


def test_a_result_that_is_taken_in_while_somebody_begins_to_wait(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread that waits, between the look at what is kept and the wait."""
    take = backend._pending_messages.take
    meta = {"task_id": "a", "status": "SUCCESS", "result": 1, "children": [], "traceback": None}
    threads: list[threading.Thread] = []

    def interrupted(task_id: str, default: Any) -> Any:
        kept = take(task_id, default)
        threads.append(threading.Thread(target=backend.result_consumer.on_state_change, args=(meta, None)))
        threads[-1].start()
        threads[-1].join(0.1)
        return kept

    monkeypatch.setattr(backend._pending_messages, "take", interrupted)
    assert backend.app.AsyncResult("a").get(timeout=20) == 1
    results = ResultSet([backend.app.AsyncResult("a")], app=backend.app)
    assert [task_id for task_id, _ in backend.iter_native(results, timeout=20)] == ["a"]
    for thread in threads:
        thread.join()


def test_what_does_not_come_times_out(backend: Any) -> None:
    with pytest.raises(TimeoutError, match="timed out"):
        backend.app.AsyncResult("never").get(timeout=0.05)


def test_a_set_is_gone_through_as_its_results_come(backend: Any) -> None:
    results = ResultSet([backend.app.AsyncResult(name) for name in "abc"], app=backend.app)
    for name in "cab":
        backend.store_result(name, name.upper(), "SUCCESS")
    found = {task_id: meta["result"] for task_id, meta in backend.iter_native(results, timeout=20)}
    assert found == {"a": "A", "b": "B", "c": "C"}


def test_a_consumer_that_fails_tells_those_who_wait(backend: Any) -> None:
    backend.line.put(None)
    beside = isinstance(backend.result_consumer.drainer, Threaded)
    with pytest.raises(RuntimeError if beside else ConnectionError, match="restart" if beside else "cut"):
        backend.app.AsyncResult("a").get(timeout=20)
