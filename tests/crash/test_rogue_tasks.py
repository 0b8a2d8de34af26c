"""Tasks that do to their process, or to the worker's, what no task should."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.result import allow_join_result
from celery.utils.imports import symbol_by_name
from crash.fleet import Fleet, killing

LADDER = Path(__file__).parent / "ladder"
pytestmark = pytest.mark.crash
TIGHT = int(os.environ.get("CRASH_TASKS", "20000")) // 40


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module of `rogue_app`, with a worker of one process on the embedded broker of this test."""
    monkeypatch.syspath_prepend(str(LADDER))
    app = symbol_by_name("rogue_app:app")
    app.close()
    url = f"sqlite:///{tmp_path}/rogue.db"
    app.conf.update(broker_url=url, result_backend=url)
    with allow_join_result(), start_worker(app, pool="prefork", concurrency=1, perform_ping_check=False):
        yield symbol_by_name("rogue_app")
    app.close()


@pytest.mark.parametrize("how", ["return", "exit", "raise"])
def test_a_task_that_forks_is_answered_once(tasks: Any, how: str) -> None:
    assert tasks.fork.delay(how).get(timeout=60) == "parent"
    assert tasks.add.delay(1, 2).get(timeout=60) == 3


def test_a_process_it_leaves_behind_hides_no_death(tasks: Any) -> None:
    with pytest.raises(WorkerLostError):
        tasks.leave_process_and_die.delay().get(timeout=60)
    assert tasks.add.delay(1, 2).get(timeout=60) == 3


@pytest.mark.parametrize("what", ["SystemExit", "KeyboardInterrupt", "closed descriptors"])
def test_what_ends_the_process_fails_the_task_alone(tasks: Any, what: str) -> None:
    with pytest.raises(WorkerLostError):
        tasks.break_process.delay(what).get(timeout=60)
    assert tasks.add.delay(1, 2).get(timeout=60) == 3


def test_handlers_that_it_leaves_behind_disarm_no_limit(tasks: Any) -> None:
    tasks.take_signals.delay().get(timeout=60)
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.spin.apply_async((5.0,), soft_time_limit=0.1).get(timeout=60)


def test_a_soft_limit_that_strikes_beside_the_task_is_a_failure_like_any_other(tasks: Any) -> None:
    """Tasks that last about as long as they may: some are struck before they begin, or while they are packed up."""
    with tasks.app.bulk():
        results = [tasks.spin.apply_async((0.002,), soft_time_limit=0.002 + n % 9 * 1e-5) for n in range(TIGHT)]
    for result in results:
        value = result.get(timeout=60, propagate=False)
        assert value is None or isinstance(value, SoftTimeLimitExceeded), value
    assert tasks.app.broker.entries("dead") == []


def test_a_task_that_kills_its_worker_takes_no_other_to_the_dead_set(tmp_path: Path) -> None:
    """Whoever stands beside it is counted too, but has its last run without it."""
    with killing(Fleet(tmp_path, task_max_deliveries=3)) as fleet:
        ids = fleet.client("print(kill_worker.delay(0).id, *(late.delay(n, 0.2).id for n in range(1, 9)))").split()
        for _ in range(3):
            doomed = fleet.start()
            assert doomed.wait(60) == -signal.SIGKILL
            fleet.massacre()
        survivor = fleet.start()
        fleet.wait(fleet.idle)
        killer, *others = fleet.states(ids).values()
        assert killer == "FAILURE WorkerLostError"
        assert others == ["SUCCESS"] * 8
        assert fleet.lines()["kill 0"] == 3
        assert survivor.poll() is None
