"""Processes of a prefork pool that die, hang or are worn out: what becomes of their tasks, and of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.contrib.testing.worker import start_worker
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.result import allow_join_result
from celery.utils.imports import symbol_by_name

pytestmark = pytest.mark.crash
LADDER = Path(__file__).parent / "ladder"


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module of `children_app`, its app on the embedded broker of this test."""
    monkeypatch.syspath_prepend(str(LADDER))
    app = symbol_by_name("children_app:app")
    app.close()
    url = f"sqlite:///{tmp_path}/children.db"
    app.conf.update(broker_url=url, result_backend=url)
    with allow_join_result():
        yield symbol_by_name("children_app")
    app.close()


def worker(tasks: Any, **options: Any) -> Any:
    return start_worker(tasks.app, pool="prefork", perform_ping_check=False, **{"concurrency": 1, **options})


def test_a_task_whose_process_dies_fails_and_the_next_one_runs(tasks: Any) -> None:
    with worker(tasks):
        result = tasks.die.delay()
        with pytest.raises(WorkerLostError, match="signal 9"):
            result.get(timeout=60)
        assert tasks.pid.delay().get(timeout=60) != os.getpid()


def test_it_goes_back_to_its_queue_where_that_is_asked_for(tasks: Any, tmp_path: Path) -> None:
    with worker(tasks):
        assert tasks.die_until.delay(str(tmp_path / "count"), 3).get(timeout=60) == 3


def test_but_not_for_ever(tasks: Any, tmp_path: Path) -> None:
    path = tmp_path / "count"
    with worker(tasks):
        with pytest.raises(WorkerLostError, match="task_max_deliveries"):
            tasks.die_until.delay(str(path), 99).get(timeout=60)
        [entry] = tasks.app.broker.entries("dead")
        assert path.stat().st_size == tasks.app.conf.task_max_deliveries
        assert "task_max_deliveries" in entry.reason


def test_it_is_retried_where_that_is_asked_for(tasks: Any, tmp_path: Path) -> None:
    with worker(tasks):
        assert tasks.die_once.delay(str(tmp_path / "count")).get(timeout=60) == 2


def test_limits(tasks: Any) -> None:
    with worker(tasks, concurrency=2):
        soft, hard = tasks.too_long.delay(False), tasks.too_long.delay(True)
        with pytest.raises(SoftTimeLimitExceeded):
            soft.get(timeout=60)
        with pytest.raises(TimeLimitExceeded, match=r"0\.8"):
            hard.get(timeout=60)


def test_processes_are_replaced_after_so_many_tasks(tasks: Any) -> None:
    with worker(tasks, max_tasks_per_child=2):
        pids = [tasks.pid.delay().get(timeout=60) for _ in range(6)]
    assert len(set(pids)) == 3


def test_children_find_an_app_in_the_program_itself() -> None:
    program = [sys.executable, str(LADDER / "main_app.py")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
