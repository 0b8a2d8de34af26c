"""Tasks with a `Strategy` or a `Request` class of their own, beside tasks that have neither, on every pool."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery import Celery, signals
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import ImproperlyConfigured, PoolError
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from engine.notes import noted

Start = Callable[..., AbstractContextManager[TestWorkController]]
every_pool = pytest.mark.parametrize("pool", ["solo", "threads", "asyncio", "prefork"])


@pytest.fixture
def pool() -> str:
    return "threads"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    url = f"sqlite:///{tmp_path}/ways.db"
    app = Celery("ways", broker=url, backend=url, include=["engine.ways", "engine.jobs"])
    app.set_default()
    yield app
    app.close()


@pytest.fixture
def ways(app: Celery) -> ModuleType:
    for name in ("engine.ways", "engine.jobs"):
        sys.modules.pop(name, None)
    importlib.import_module("engine.jobs")
    return importlib.import_module("engine.ways")


@pytest.fixture
def start(app: Celery, ways: ModuleType, pool: str) -> Start:
    def start(**options: Any) -> AbstractContextManager[TestWorkController]:
        given = {
            "pool": pool,
            "concurrency": 2,
            "perform_ping_check": False,
            "shutdown_timeout": 60.0,
            "prefetch_multiplier": 0,
            **options,
        }
        return start_worker(app, **given)

    return start


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def counts(app: Celery, *kinds: str) -> list[int]:
    return [len(app.broker.entries(kind)) for kind in kinds]  # type: ignore[arg-type]


@every_pool
def test_messages_are_collected_and_run_as_one(app: Celery, start: Start, ways: Any, log: Path) -> None:
    collected, add = ways.collected, app.tasks["engine.jobs.add"]
    with app.bulk():  # they come together
        results = [collected.delay(str(log), number) for number in range(7)]
    with start():
        others = [add.delay(number, number) for number in range(20)]
        assert [other.get(timeout=30) for other in others] == [2 * number for number in range(20)]
        assert [result.get(timeout=30) for result in results] == [3, 3, 3, 12, 12, 12, 6]
        wait_until(lambda: counts(app, "ready", "leased") == [0, 0])
    assert sorted(line.rpartition(" ")[0] for line in noted(log).elements()) == ["sum 1", "sum 3", "sum 3"]


@every_pool
def test_what_a_strategy_holds_returns_when_the_worker_leaves(app: Celery, start: Start, ways: Any, log: Path) -> None:
    ways.collected.patience = 3600.0
    with start() as worker:
        ways.collected.delay(str(log), 1)
        wait_until(lambda: worker.consumer is not None and worker.consumer.requests())
        assert len(state.reserved_requests) == 1
        assert worker.consumer is not None
        worker.consumer.timer.clear()  # nobody will flush it
    assert counts(app, "ready", "leased", "dead") == [1, 0, 0]
    assert not noted(log)


def test_a_strategy_holds_no_more_than_a_worker_prefetches(app: Celery, start: Start, ways: Any, log: Path) -> None:
    ways.collected.patience = 3600.0
    for number in range(5):
        ways.collected.delay(str(log), number)
    with start(concurrency=1, prefetch_multiplier=2) as worker:
        assert worker.consumer is not None
        lent = worker.consumer.strategies.lent
        wait_until(lambda: len(lent) == 2)
        assert counts(app, "ready", "leased") == [3, 2]
        ways.collected.patience = 0.5
        worker.consumer.call_soon(ways.collected.flush)
        wait_until(lambda: counts(app, "ready", "leased") == [0, 0])
    assert [line.rpartition(" ")[0] for line in noted(log).elements()] == ["sum 2", "sum 2", "sum 1"]


def test_the_default_strategy_can_be_wrapped(app: Celery, start: Start, ways: Any) -> None:
    with start():
        burnt, ignored, raised, plain = (ways.careful.delay(what) for what in ("burn", "ignore", "raise", "run"))
        assert plain.get(timeout=30) == "run"
        wait_until(lambda: counts(app, "ready", "leased") == [0, 0])
    reasons = {entry.task_id: entry.reason for entry in app.broker.entries("dead")}
    assert reasons == {
        burnt.id: "its strategy rejected it",
        raised.id: "its strategy raised LookupError('no strategy for this')",
    }
    assert ignored.state == "PENDING"


@every_pool
def test_a_strategy_runs_its_own_requests_in_the_pool(app: Celery, start: Start, ways: Any) -> None:
    with start(hostname="w@here"):
        fine, bad = ways.free.delay("go"), ways.free.delay("fail")
        assert fine.get(timeout=30) == ["go", fine.id, "w@here"]
        with pytest.raises(ValueError, match="fail"):
            bad.get(timeout=30)
        wait_until(lambda: counts(app, "ready", "leased", "dead") == [0, 0, 0])


@every_pool
def test_a_request_class_is_told_what_becomes_of_its_task(app: Celery, start: Start, ways: Any, log: Path) -> None:
    watched = ways.watched
    with start():
        assert watched.delay(str(log)).get(timeout=30) == ""
        with pytest.raises(ValueError, match="fail"):
            watched.apply_async((str(log), "fail")).get(timeout=30)
        assert watched.apply_async((str(log), "retry"), shadow="again").get(timeout=30) == "retry"
        watched.apply_async((str(log), "reject"), shadow="rejected")
        wait_until(lambda: any("rejected failed" in line for line in noted(log)))
    assert noted(log) == {
        "ways.watched accepted True": 2,
        "ways.watched succeeded '' True": 1,
        "ways.watched failed ValueError('fail')": 1,
        "again accepted True": 2,
        "again failed Retry": 1,
        "again succeeded 'retry' True": 1,
        "rejected accepted True": 1,
        "rejected failed Reject": 1,
    }


@pytest.mark.parametrize("pool", ["prefork"])
def test_and_of_limits_and_lost_processes(app: Celery, start: Start, ways: Any, log: Path) -> None:
    with start():
        hard = ways.watched.apply_async((str(log), "sleep"), time_limit=0.3, shadow="hard")
        soft = ways.watched.apply_async((str(log), "sleep"), soft_time_limit=0.3, shadow="soft")
        for result in (hard, soft):
            assert result.get(timeout=10, propagate=False) is not None
        wait_until(lambda: len(noted(log)) == 5)
    assert set(noted(log)) == {
        "hard accepted True",
        "hard timeout False 0.3",
        "soft accepted True",
        "soft timeout True 0.3",
        "soft failed SoftTimeLimitExceeded()",
    }


def test_a_request_can_send_its_message_back(app: Celery, start: Start, ways: Any, log: Path) -> None:
    with start():
        result = ways.watched.apply_async((str(log), "fail"), headers={"again": True})
        with pytest.raises(ValueError, match="fail"):
            result.get(timeout=30)
        wait_until(lambda: noted(log)["ways.watched failed ValueError('fail')"] == 2)
        wait_until(lambda: counts(app, "ready", "leased", "dead") == [0, 0, 0])


@every_pool
def test_functions_run_in_the_pool(app: Celery, start: Start) -> None:
    heard: list[Any] = []
    with start() as worker:
        assert worker.pool is not None
        apply = worker.pool.apply_async
        fine = apply(divmod, (7, 2), callback=heard.append, accept_callback=lambda pid, at: heard.append("accepted"))
        assert fine.get(timeout=30) == (3, 1)
        assert fine.successful()
        failed = apply(divmod, (7, 0), error_callback=lambda einfo: heard.append(type(einfo.exception)))
        with pytest.raises(ZeroDivisionError):
            failed.get(timeout=30)
        wait_until(lambda: len(heard) == 3)
        many = [apply(pow, (number, 2)) for number in range(500)]
        assert [result.get(timeout=30) for result in many] == [number**2 for number in range(500)]
    assert heard == ["accepted", (3, 1), ZeroDivisionError]


@pytest.mark.parametrize("pool", ["prefork"])
def test_functions_have_limits_and_die_with_their_process(app: Celery, start: Start) -> None:
    heard: list[Any] = []
    with start() as worker:
        assert worker.pool is not None
        apply = worker.pool.apply_async
        late = apply(time.sleep, (30,), timeout=0.2, timeout_callback=lambda *said: heard.append(said))
        with pytest.raises(Exception, match=r"TimeLimitExceeded\(0.2"):
            late.get(timeout=30)
        dead = apply(sys.exit, (3,))
        with pytest.raises(Exception, match="exit"):
            dead.get(timeout=30)
        with pytest.raises((AttributeError, TypeError), match=r"pickle|get local object"):
            apply(lambda: 1)
    assert heard == [(False, 0.2)]


def test_a_pool_without_a_worker_runs_no_functions() -> None:
    from celery.concurrency.solo import SoloPool

    with pytest.raises(PoolError, match="only while a worker drives it"):
        SoloPool(1, lambda: lambda job: None).apply_async(print)  # type: ignore[arg-type, return-value]


def test_receivers_of_task_received_get_a_whole_request(app: Celery, start: Start) -> None:
    seen: list[Any] = []

    def note(request: Any, **kwargs: Any) -> None:
        seen.append((isinstance(request, Request), request.args, request.task.name, str(request), request.eta))

    signals.task_received.connect(note)
    try:
        with start():
            result = app.tasks["engine.jobs.add"].delay(1, 2)
            assert result.get(timeout=30) == 3
    finally:
        signals.task_received.disconnect(note)
    assert seen == [(True, [1, 2], "engine.jobs.add", f"engine.jobs.add[{result.id}]", None)]


class Telling(Consumer):
    """A consumer of the user's."""

    heard: list[Any] = []

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        self.heard.append(("unknown", message.headers["task"], type(exc).__name__))
        raise RuntimeError("harms nothing")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        self.heard.append("undecodable")


def test_the_class_of_the_consumer_is_a_setting(app: Celery, start: Start) -> None:
    app.conf.worker_consumer = f"{__name__}:Telling"
    Telling.heard.clear()
    with start() as worker:
        assert type(worker.consumer) is Telling
        app.send_task("nobody")
        assert app.tasks["engine.jobs.add"].delay(1, 2).get(timeout=30) == 3
    assert Telling.heard == [("unknown", "nobody", "NotRegistered")]


def test_which_is_a_consumer(app: Celery) -> None:
    app.conf.worker_consumer = "builtins:dict"
    with pytest.raises(ImproperlyConfigured, match="worker_consumer names dict, which is no subclass"):
        app.WorkController(pool="solo").start()


def test_queues_are_added_and_left_by_name(app: Celery, start: Start) -> None:
    add = app.tasks["engine.jobs.add"]
    with start() as worker:
        assert worker.consumer is not None
        worker.consumer.add_task_queue("more")
        assert add.apply_async((1, 2), queue="more").get(timeout=30) == 3
        worker.consumer.cancel_task_queue("more")
        add.apply_async((1, 2), queue="more")
        assert add.delay(1, 2).get(timeout=30) == 3
    assert [stats.ready for stats in app.broker.stats(["more"])] == [1]
