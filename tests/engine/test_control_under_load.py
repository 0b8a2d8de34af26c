"""A worker that has its hands full answers all the same: while the work goes on, not after it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery import Celery
from celery.exceptions import TaskRevokedError

NODE = "w@here"
ENOUGH = 30.0
"""Seconds for one answer on the slowest machine; docs/remote-control.md says how long it takes on others."""


def ask(app: Celery, command: str, **arguments: Any) -> Any:
    [answer] = app.control.broadcast(command, arguments, destination=[NODE], reply=True, timeout=ENOUGH)
    return answer[NODE]


@pytest.mark.parametrize("kind", ["redis", "sqlite"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_while_thousands_of_tiny_tasks_run(app: Celery, start: Any, jobs: ModuleType) -> None:
    enough = threading.Event()
    app.conf.imports = ("engine.jobs",)

    def feed() -> None:
        while not enough.is_set():
            with app.bulk():
                for number in range(500):
                    jobs.add.apply_async((number, 1), ignore_result=True)

    feeder = threading.Thread(target=feed)
    with start(hostname=NODE):
        feeder.start()
        try:
            done = [ask(app, "stats")["total"].get("engine.jobs.add", 0)]
            while len(done) < 4 or done[-1] == done[0]:
                assert ask(app, "ping") == {"ok": "pong"}
                assert isinstance(ask(app, "active"), list)
                done.append(ask(app, "stats")["total"].get("engine.jobs.add", 0))
        finally:
            enough.set()
            feeder.join()
        app.control.purge()
    assert done[-1] > done[0], "it did nothing else meanwhile"


@pytest.mark.parametrize("kind", ["memory"])
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_while_a_task_holds_every_slot(app: Celery, start: Any, pool: str) -> None:
    began, may_end = threading.Event(), threading.Event()

    @app.task(shared=False, name="held")
    def held() -> None:
        began.set()
        assert may_end.wait(60)

    with start(hostname=NODE, concurrency=1):
        result = held.delay()
        assert began.wait(ENOUGH)
        try:
            assert ask(app, "ping") == {"ok": "pong"}
            [active] = ask(app, "active")
            assert active["id"] == result.id
            assert active["time_start"] == pytest.approx(time.time(), abs=60)
            assert ask(app, "query_task", ids=[result.id])[result.id][0] == "active"
            assert ask(app, "reserved") == []
            assert ask(app, "stats")["total"] == {"held": 1}
            assert ask(app, "add_consumer", queue="more") == {"ok": "add consumer more"}
            assert ask(app, "time_limit", task_name="held", soft=5) == {"ok": "time limits set successfully"}
            assert not may_end.is_set()
        finally:
            may_end.set()
        result.get(timeout=ENOUGH)
        held.apply_async(queue="more").get(timeout=ENOUGH)


@contextmanager
def waiting(worker: Any, log: Path) -> Iterator[None]:
    """Once a task has written to *log*, the loop of *worker* waits until the block ends, and not for less."""
    waits, may_go_on, goes_on = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        assert may_go_on.wait(3 * ENOUGH)
        goes_on.set()

    deadline = time.monotonic() + ENOUGH
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.consumer.call_soon(wait)
    assert waits.wait(ENOUGH)
    try:
        yield
        assert not goes_on.is_set()
    finally:
        may_go_on.set()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_while_the_loop_waits_for_the_broker(
    app: Celery, start: Any, jobs: ModuleType, tmp_path: Path, pool: str
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    app.conf.imports = ("engine.jobs",)
    with start(hostname=NODE, concurrency=1) as worker:
        result = jobs.early_at_gate.delay(str(log), "began", str(gate))
        try:
            with waiting(worker, log):
                [active] = ask(app, "active")
                assert active["id"] == result.id
                # The pool itself has said it: whoever cannot ask it knows of no other process.
                assert (active["worker_pid"] == os.getpid()) is (pool == "threads")
                assert ask(app, "reserved") == []
        finally:
            gate.touch()
        result.get(timeout=ENOUGH)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork"])
def test_what_is_terminated_while_the_loop_waits_for_the_broker(
    app: Celery, start: Any, jobs: ModuleType, tmp_path: Path
) -> None:
    """The loop ends it when it turns; the answer does not say that there was nothing to end."""
    log = tmp_path / "log"
    app.conf.imports = ("engine.jobs",)
    with start(hostname=NODE, concurrency=1) as worker:
        result = jobs.mark.delay(str(log), "began", 600)
        with waiting(worker, log):
            assert ask(app, "revoke", task_id=[result.id], terminate=True) == {"ok": f"terminate: {result.id}"}
        with pytest.raises(TaskRevokedError):
            result.get(timeout=ENOUGH)
