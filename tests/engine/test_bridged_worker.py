"""A worker over transports of kombu, its results in a SQLite file: files, SQLAlchemy, SQS."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, chord
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import TaskRevokedError, WorkerLostError
from engine.notes import noted
from rig.sqs import SQS

NODE = "w1@here"
PATIENCE = 60.0
MANY = 40
"""More tasks of half a second than a worker runs before it hears that it is to stop, however busy the machine."""
OFTEN = {"polling_interval": 0.05}


def over(kind: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of a broker of this kind, which is empty."""
    if kind == "files":
        (folder / "data").mkdir(exist_ok=True)
        options = {f"data_folder_{way}": str(folder / "data") for way in ("in", "out")}
        options["control_folder"] = str(folder / "control")
        return {"broker_url": "filesystem://", "broker_transport_options": {**options, **OFTEN}}
    if kind == "sql":
        return {"broker_url": f"sqla+sqlite:///{folder}/broker.db", "broker_transport_options": OFTEN}
    sqs: SQS = request.getfixturevalue("sqs")
    return {
        "broker_url": sqs.url,
        "broker_transport_options": {**sqs.options, "queue_name_prefix": sqs.prefix(), "visibility_timeout": 3},
        "worker_lease": 3.0,
    }


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """Decided before a test begins, which the server of SQS outlives."""
    kind = str(getattr(request, "param", "files"))
    if kind == "sqs":
        request.getfixturevalue("sqs")
    return kind


@pytest.fixture
def app(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("jobs", include=["engine.jobs"])
    app.conf.update(over(kind, tmp_path, request))
    app.conf.update(
        result_backend=f"sqlite:///{tmp_path}/results.db",
        worker_hijack_root_logger=False,
        broker_publish_timeout=PATIENCE,
    )
    app.set_default()
    yield app
    app.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def work(app: Celery, pool: str = "threads", **options: Any) -> AbstractContextManager[TestWorkController]:
    return start_worker(
        app, pool=pool, concurrency=2, hostname=NODE, perform_ping_check=False, shutdown_timeout=60.0, **options
    )


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def counts(app: Celery, queue: str = "celery") -> tuple[int, int, int, int]:
    [stats] = app.broker.stats([queue])
    return stats.ready, stats.leased, stats.delayed, stats.dead


FILES_AND_SQS = pytest.mark.parametrize("kind", ["files", "sqs"], indirect=True)
SQL_AND_SQS = pytest.mark.parametrize("kind", ["sql", "sqs"], indirect=True)
FILES_AND_SQL = pytest.mark.parametrize("kind", ["files", "sql"], indirect=True)


@pytest.mark.timeout(400)  # the first one over SQS makes an environment
@pytest.mark.parametrize(
    ("kind", "pool"),
    [("files", "prefork"), ("sql", "prefork"), ("sql", "threads"), ("sqs", "threads")],
    indirect=["kind"],
)
def test_results_and_errors_come_back(app: Celery, pool: str, jobs: Any) -> None:
    with work(app, pool):
        assert jobs.add.delay(2, 3).get(timeout=PATIENCE) == 5
        with pytest.raises(ValueError, match="no luck"):
            jobs.fail.delay("no luck").get(timeout=PATIENCE)
        with app.bulk():
            results = [jobs.add.delay(number, 1) for number in range(20)]
        assert [result.get(timeout=PATIENCE) for result in results] == list(range(1, 21))
        joined = chord([jobs.add.s(1, 2), jobs.add.s(3, 4)])(jobs.total.s())
        assert joined.get(timeout=PATIENCE) == 10
        wait_until(lambda: counts(app) == (0, 0, 0, 0))


@FILES_AND_SQS
@pytest.mark.timeout(400)
def test_retries_and_etas_wait(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        assert jobs.flaky.delay(str(log), 2, 1).get(timeout=PATIENCE) == 2
        moments = [float(line) for line in log.read_text().splitlines()]
        assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(moments))
        due = datetime.now(UTC) + timedelta(seconds=1.5)
        result = jobs.add.apply_async((1, 2), eta=due)
        assert result.get(timeout=PATIENCE) == 3
        assert datetime.now(UTC) >= due


@SQL_AND_SQS
@pytest.mark.timeout(400)
def test_what_is_refused_comes_again_and_what_is_no_task_is_dead(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        assert jobs.refuse_once.delay(str(log)).get(timeout=PATIENCE) is True
        app.send_task("nobody.knows.it", (1,), ignore_result=True)
        wait_until(lambda: counts(app) == (0, 0, 0, 1))
        client = Celery(set_as_current=False)  # it has sent nothing, and knows its queues by its settings only
        client.conf.update({name: app.conf[name] for name in ("broker_url", "broker_transport_options")})
        [entry] = client.broker.entries("dead")
        client.close()
        assert "unknown task 'nobody.knows.it'" in entry.reason
        assert app.broker.remove([entry.tag]) == 1
        assert counts(app) == (0, 0, 0, 0)


@FILES_AND_SQL
def test_a_warm_shutdown_gives_back_what_waits(app: Celery, log: Path, jobs: Any) -> None:
    with work(app, "solo"):
        jobs.mark.apply_async((str(log), "late"), countdown=3600)
        wait_until(lambda: counts(app)[2] == 1)  # it is held for its time
        for number in range(MANY):
            jobs.mark.delay(str(log), str(number), 0.5)
        wait_until(lambda: noted(log))
    ran = sum(noted(log).values())
    assert 0 < ran < MANY
    assert counts(app) == (MANY + 1 - ran, 0, 0, 0)


@pytest.fixture
def spawn(app: Celery, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """`spawn()`: a worker in a process group of its own, which the test may kill."""
    running: list[subprocess.Popen[bytes]] = []
    code = (
        "import sys, json; from celery import Celery\n"
        "app = Celery('jobs', include=['engine.jobs'])\n"
        "app.conf.update(json.loads(sys.argv[1]))\n"
        "app.set_default(); app.worker_main(['worker', '-c', '1', '-P', 'solo', '-l', 'WARNING'])\n"
    )
    names = ("broker_url", "broker_transport_options", "result_backend", "worker_lease")

    def spawn() -> subprocess.Popen[bytes]:
        settings = json.dumps({name: app.conf[name] for name in names})
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "C_FORCE_ROOT": "1"}
        with (tmp_path / "worker.log").open("ab") as output:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, settings], env=env, stdout=output, stderr=output,
                    start_new_session=True,
                )
            )  # fmt: skip
        return running[-1]

    yield spawn
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@FILES_AND_SQS
@pytest.mark.crash
@pytest.mark.timeout(400)
def test_a_killed_worker_loses_nothing(
    app: Celery, spawn: Callable[[], subprocess.Popen[bytes]], log: Path, tmp_path: Path, jobs: Any
) -> None:
    """What it ran late comes again, what it ran early is said to be lost, and what it held runs as if nothing was."""
    gate = tmp_path / "gate"
    for task, name in ((jobs.late_at_gate, "late"), (jobs.early_at_gate, "early")):
        gate.unlink(missing_ok=True)
        victim = spawn()
        ran = task.delay(str(log), name, str(gate))
        wait_until(lambda name=name: noted(log)[name])  # type: ignore[misc]
        held = jobs.add.delay(1, 2)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait(30)
        gate.touch()
        with work(app):
            assert held.get(timeout=PATIENCE) == 3
            if name == "late":
                assert ran.get(timeout=PATIENCE) == "late"
            else:
                with pytest.raises(WorkerLostError):
                    ran.get(timeout=PATIENCE)
    assert noted(log) == {"late": 2, "early": 1}
    wait_until(lambda: counts(app) == (0, 0, 0, 0))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["sqs"], indirect=True)
def test_a_task_may_run_for_longer_than_messages_are_invisible(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        assert jobs.late.delay(str(log), "long", 8.0).get(timeout=PATIENCE) == "long"
    assert noted(log) == {"long": 1}
    assert counts(app) == (0, 0, 0, 0)


def test_remote_control_over_files(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        inspect = app.control.inspect(timeout=30, limit=1)
        assert inspect.ping() == {NODE: {"ok": "pong"}}
        assert [queue["name"] for queue in inspect.active_queues()[NODE]] == ["celery"]
        [said] = app.control.revoke("unwanted", reply=True, timeout=30, limit=1)
        assert "flagged as revoked" in said[NODE]["ok"]
        result = jobs.mark.apply_async((str(log), "ran"), countdown=1, task_id="unwanted")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=PATIENCE)
    assert not noted(log)


@pytest.mark.parametrize("kind", ["sql"], indirect=True)
def test_without_fan_out_remote_control_says_so_and_revocations_are_recorded(app: Celery, log: Path, jobs: Any) -> None:
    with pytest.raises(Exception, match=r"sqla:// carries no remote control"):
        app.control.ping(timeout=0.1)
    early = jobs.mark.delay(str(log), "early")
    app.control.revoke(early.id)
    app.conf.worker_lease = 1.5
    with work(app):
        with pytest.raises(TaskRevokedError):
            early.get(timeout=PATIENCE)
        later = jobs.mark.apply_async((str(log), "later"), countdown=8)
        app.control.revoke(later.id)  # which the worker reads in the meantime
        with pytest.raises(TaskRevokedError):
            later.get(timeout=PATIENCE)
    assert noted(log) == {}
