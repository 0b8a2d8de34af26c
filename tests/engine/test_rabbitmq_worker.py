"""A worker over RabbitMQ, its results in Redis or nowhere: the life of a task, early and late, the end."""

from __future__ import annotations

import itertools
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
from kombu import Exchange, Queue, binding

from celery import Celery
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import TaskRevokedError, WorkerLostError
from engine.notes import noted
from rig.rabbitmq import RabbitMQ

NODE = "w1@here"
MANY = 40
"""More tasks of half a second than a worker runs before it hears that it is to stop, however busy the machine."""
Start = Callable[..., AbstractContextManager[TestWorkController]]


@pytest.fixture
def app(make_app: Callable[..., Celery], rabbitmq_url: str, redis_url: str) -> Celery:
    return make_app(rabbitmq_url, redis_url)


@pytest.fixture
def alone(make_app: Callable[..., Celery], rabbitmq_url: str) -> Celery:
    """Without results."""
    return make_app(rabbitmq_url)


def work(app: Celery, pool: str = "threads", **options: Any) -> AbstractContextManager[TestWorkController]:
    return start_worker(
        app, pool=pool, concurrency=2, hostname=NODE, perform_ping_check=False, shutdown_timeout=60.0, **options
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def counts(app: Celery, queue: str = "celery") -> tuple[int, int, int]:
    [stats] = app.broker.stats([queue])
    return stats.ready, stats.leased, stats.dead


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_results_and_errors_come_back(app: Celery, pool: str, jobs: Any) -> None:
    with work(app, pool):
        assert jobs.add.delay(2, 3).get(timeout=30) == 5
        with pytest.raises(ValueError, match="no luck"):
            jobs.fail.delay("no luck").get(timeout=30)
        with app.bulk():
            results = [jobs.add.delay(number, 1) for number in range(300)]
        assert [result.get(timeout=30) for result in results] == list(range(1, 301))
        wait_until(lambda: counts(app) == (0, 0, 0))
    assert counts(app) == (0, 0, 0)


def test_retries_and_etas_wait_at_the_broker(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        assert jobs.flaky.delay(str(log), 2, 1).get(timeout=30) == 2
        moments = [float(line) for line in log.read_text().splitlines()]
        assert [later - earlier >= 1 for earlier, later in itertools.pairwise(moments)] == [True, True]
        jobs.add.apply_async((1, 2), countdown=3600)
        due = datetime.now(UTC) + timedelta(seconds=2)
        result = jobs.add.apply_async((1, 2), eta=due)
        assert result.get(timeout=30) == 3
        assert datetime.now(UTC) >= due
        wait_until(lambda: counts(app) == (0, 0, 0))  # a message is acknowledged after its result is there


def test_a_rejected_late_task_comes_again(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        assert jobs.refuse_once.delay(str(log)).get(timeout=30) is True
    assert noted(log)["tried"] == 2


def test_a_message_that_is_no_task_is_dead_and_can_be_replayed(app: Celery, jobs: Any) -> None:
    with work(app):
        app.send_task("nobody.knows.it", (1,), ignore_result=True)
        wait_until(lambda: counts(app) == (0, 0, 1))
        [entry] = app.broker.entries("dead", ["celery"])
        assert "unknown task 'nobody.knows.it'" in entry.reason
        assert app.broker.remove([entry.tag]) == 1
        wait_until(lambda: counts(app) == (0, 0, 0))


def test_without_results_early_messages_are_acknowledged_at_their_start(alone: Celery, log: Path, jobs: Any) -> None:
    with work(alone):
        jobs.mark_only.delay(str(log), "ran")
        jobs.mark.apply_async((str(log), "slow", 2.0), ignore_result=True)
        wait_until(lambda: noted(log)["slow"])
        kept = alone.broker.link.connection()  # type: ignore[attr-defined]
        assert kept.state == "open"
        wait_until(lambda: counts(alone) == (0, 0, 0))
    assert noted(log) == {"ran": 1, "slow": 1}


def test_a_warm_shutdown_gives_back_what_has_not_begun(app: Celery, log: Path, jobs: Any) -> None:
    with work(app, "solo"):
        with app.bulk():
            for number in range(MANY):
                jobs.mark.delay(str(log), str(number), 0.5)
        wait_until(lambda: noted(log))
    ran = sum(noted(log).values())
    assert ran < MANY
    wait_until(lambda: counts(app) == (MANY - ran, 0, 0))


@pytest.fixture
def spawn(app: Celery, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """`spawn()`: a worker in a process group of its own, which the test may kill."""
    running: list[subprocess.Popen[bytes]] = []
    code = (
        "import sys; from celery import Celery\n"
        "broker, backend = sys.argv[1:3]\n"
        "app = Celery('jobs', broker=broker, backend=backend, include=['engine.jobs'])\n"
        "app.conf.broker_transport_options = {'lease': 3}\n"
        "app.set_default(); app.worker_main(['worker', '-c', '1', '-P', 'solo', '-l', 'WARNING'])\n"
    )

    def spawn() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, app.conf.broker_url, app.conf.result_backend]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "C_FORCE_ROOT": "1"}
        with (tmp_path / "worker.log").open("ab") as output:
            running.append(subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True))
        return running[-1]

    yield spawn
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_a_killed_worker_loses_nothing(
    app: Celery, spawn: Callable[[], subprocess.Popen[bytes]], log: Path, tmp_path: Path, jobs: Any
) -> None:
    """What it ran late comes again; what it ran early is said to be lost; what it only held runs as if nothing was."""
    gate = tmp_path / "gate"
    victim = spawn()
    late = jobs.late_at_gate.delay(str(log), "late", str(gate))
    wait_until(lambda: noted(log)["late"], 40)
    held = jobs.add.delay(1, 2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait(30)
    gate.touch()
    with work(app):
        assert late.get(timeout=30) == "late"
        assert held.get(timeout=30) == 3
    assert noted(log)["late"] == 2

    gate.unlink()
    victim = spawn()
    early = jobs.early_at_gate.delay(str(log), "early", str(gate))
    wait_until(lambda: noted(log)["early"], 40)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait(30)
    with work(app), pytest.raises(WorkerLostError):
        early.get(timeout=30)
    assert noted(log)["early"] == 1
    wait_until(lambda: counts(app) == (0, 0, 0))


def test_a_connection_that_is_cut_ends_no_task(app: Celery, rabbitmq_server: RabbitMQ, log: Path, jobs: Any) -> None:
    """The worker still runs what comes again to it: once is enough."""
    with work(app, "threads"):
        running = jobs.late.delay(str(log), "running", 2.0)
        wait_until(lambda: noted(log)["running"])
        rabbitmq_server.control("close_all_connections", "-p", app.conf.broker_url.rpartition("/")[2], "test")
        assert running.get(timeout=30) == "running"
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        wait_until(lambda: counts(app) == (0, 0, 0))
    assert noted(log)["running"] == 1


def test_remote_control(app: Celery, log: Path, jobs: Any) -> None:
    with work(app):
        inspect = app.control.inspect(timeout=30, limit=1)
        assert inspect.ping() == {NODE: {"ok": "pong"}}
        assert [queue["name"] for queue in inspect.active_queues()[NODE]] == ["celery"]
        [said] = app.control.revoke("unwanted", reply=True, timeout=30, limit=1)
        assert "flagged as revoked" in said[NODE]["ok"]
        result = jobs.mark.apply_async((str(log), "ran"), countdown=1, task_id="unwanted")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
    assert not noted(log)


def test_revocations_are_known_to_whoever_starts_later(
    app: Celery, make_app: Callable[..., Celery], log: Path, jobs: Any
) -> None:
    """No worker was there to be told; the result store knows."""
    revoked = jobs.mark.delay(str(log), "revoked")
    with make_app(app.conf.broker_url, app.conf.result_backend) as client:
        client.control.revoke(revoked.id)
    app.set_current()
    kept = jobs.mark.delay(str(log), "kept")
    with work(app):
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=40)
        assert kept.get(timeout=40) == "kept"
        assert app.control.inspect(timeout=30, limit=1).revoked() == {NODE: [revoked.id]}
    assert noted(log) == {"kept": 1}


@pytest.mark.parametrize("results", [True, False])
def test_what_is_revoked_while_it_waits_for_a_slot_does_not_run(
    app: Celery, alone: Celery, log: Path, tmp_path: Path, jobs: Any, patient: None, *, results: bool
) -> None:
    used = app if results else alone
    used.set_current()
    gate = tmp_path / "gate"
    with work(used):
        for name in ("first", "second"):
            used.send_task("engine.jobs.early_at_gate", (str(log), name, str(gate)), ignore_result=True)
        wait_until(lambda: len(noted(log)) == 2)
        waiting = used.send_task("engine.jobs.mark", (str(log), "revoked"), ignore_result=not results)
        inspect = used.control.inspect(timeout=30, limit=1)
        wait_until(lambda: [one["id"] for one in (inspect.reserved() or {NODE: []})[NODE]] == [waiting.id], 40)
        used.control.revoke(waiting.id, reply=True, timeout=30, limit=1)
        gate.touch()
        wait_until(lambda: counts(used) == (0, 0, 0), 40)
    assert noted(log) == {"first": 1, "second": 1}


def test_a_rejected_task_goes_round_through_a_dead_letter_exchange(app: Celery, log: Path, jobs: Any) -> None:
    """As people let things be tried again later with nothing but queues."""
    wait = {"x-message-ttl": 300, "x-dead-letter-exchange": "work", "x-dead-letter-routing-key": "work"}
    app.conf.task_queues = [
        Queue("work", Exchange("work"), "work", queue_arguments={"x-dead-letter-exchange": "later"}),
        Queue("wait", Exchange("later", "fanout"), queue_arguments=wait),
    ]
    app.amqp.queues.select("work")
    app.broker.declare(app.amqp.queues.apart(["wait"]))
    with work(app):
        result = jobs.reject_once.apply_async((str(log),), queue="work", exchange="work", routing_key="work")
        assert result.get(timeout=40) == "done"
        wait_until(lambda: counts(app, "work") == (0, 0, 0))
    assert noted(log) == {"tried": 2}


def test_bindings_are_listed(app: Celery, capsys: pytest.CaptureFixture[str], rabbitmq_server: RabbitMQ) -> None:
    topics = Exchange("topics", "topic")
    app.conf.task_queues = [
        Queue("plain"),
        Queue("many", [binding(topics, "a.*"), binding(topics, "b.#")]),
    ]
    app.broker.declare(app.amqp.queues.apart())
    app.start(["list", "bindings"])
    listed = [tuple(line.split()) for line in capsys.readouterr().out.splitlines()[2:]]
    vhost = app.conf.broker_url.rpartition("/")[2]
    said = rabbitmq_server.control(
        "list_bindings", "-p", vhost, "--no-table-headers", "source_name", "destination_name", "routing_key"
    )
    there = {tuple(line.split("\t")) for line in said.splitlines()}
    assert sorted(listed) == sorted(
        (queue, exchange, key) for exchange, queue, key in there if exchange in {"celery", "topics"}
    )
    assert len(listed) == 4
