"""A worker over Redis, on every pool: the life of a task, both ledgers, revocations, remote control, the end."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import TaskRevokedError, WorkerLostError
from celery.worker import WorkController
from engine.notes import note, noted
from rig.redis import RedisServer

NODE = "w1@here"
MANY = 40
"""More tasks of half a second than a worker runs before it hears that it is to stop, however busy the machine."""
Start = Callable[..., AbstractContextManager[TestWorkController]]


every_pool = pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])


@pytest.fixture
def pool() -> str:
    """Where nothing else is said: the other pools run the tests of all brokers, `test_life_of_a_task` and so on."""
    return "prefork"


@pytest.fixture
def app(make_app: Callable[..., Celery], redis_server: RedisServer, redis_url: str) -> Celery:
    """Messages in database 0, results in database 1."""
    return make_app(redis_url, redis_server.url(1))


@pytest.fixture
def start(app: Celery, pool: str) -> Start:
    def start(**options: Any) -> AbstractContextManager[TestWorkController]:
        given = {
            "app": app,
            "pool": pool,
            "concurrency": 2,
            "perform_ping_check": False,
            "shutdown_timeout": 60.0,
            "hostname": NODE,
            **options,
        }
        return start_worker(**given)

    return start


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def counts(app: Celery, queue: str = "celery") -> tuple[int, int, int, int]:
    [stats] = app.broker.stats([queue])
    return stats.ready, stats.leased, stats.delayed, stats.dead


# -- life of a task ----------------------------------------------------------------------------------------------------


@every_pool
def test_results_and_errors_come_back(app: Celery, start: Start, jobs: Any) -> None:
    with start() as worker:
        assert worker.consumer is not None
        assert worker.consumer.ledger.fused
        assert jobs.add.delay(2, 3).get(timeout=30) == 5
        with pytest.raises(ValueError, match="no luck"):
            jobs.fail.delay("no luck").get(timeout=30)
        with app.bulk():
            results = [jobs.add.delay(number, 1) for number in range(300)]
        assert [result.get(timeout=30) for result in results] == list(range(1, 301))
    assert counts(app) == (0, 0, 0, 0)


def test_nothing_is_stored_for_ignored_results(
    app: Celery, start: Start, log: Path, redis_server: RedisServer, jobs: Any
) -> None:
    with start():
        jobs.mark_only.delay(str(log), "ran")
        wait_until(lambda: noted(log)["ran"] == 1)
        wait_until(lambda: counts(app) == (0, 0, 0, 0))
    assert redis_server.keys(db=1) == set()


def test_retries_wait_in_redis_for_their_time(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start():
        assert jobs.flaky.delay(str(log), 2, 0.3).get(timeout=30) == 2
    moments = [float(line) for line in log.read_text().splitlines()]
    assert [later - earlier >= 0.3 for earlier, later in itertools.pairwise(moments)] == [True, True]


@every_pool
def test_what_is_due_soon_and_what_is_due_next_year(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start() as worker:
        far = jobs.mark.apply_async((str(log), "far"), eta=datetime.now(UTC) + timedelta(days=365))
        due = time.time() + 0.5
        soon = jobs.mark.apply_async((str(log), "soon"), countdown=0.5)
        assert soon.get(timeout=30) == "soon"
        assert 0 <= time.time() - due < 25.0
        assert worker.consumer is not None
        wait_until(lambda: worker.consumer is not None and worker.consumer.requests() == [])
        assert counts(app) == (0, 0, 1, 0)
        assert far.state == "PENDING"
    [entry] = app.broker.entries("delayed")
    assert entry.task_id == far.id
    assert noted(log) == {"soon": 1}


def test_what_was_sent_for_later_before_there_was_a_worker_is_put_aside(
    app: Celery, start: Start, log: Path, jobs: Any
) -> None:
    """As original producers send it: into the ready list, with its time in a header."""
    result = jobs.mark.apply_async((str(log), "later"), countdown=0.6)
    assert counts(app) == (1, 0, 0, 0)
    with start():
        wait_until(lambda: counts(app)[2] == 1 or noted(log))
        assert result.get(timeout=30) == "later"
    assert noted(log) == {"later": 1}


def test_what_has_expired_is_not_run(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    stale = jobs.mark.apply_async((str(log), "stale"), expires=datetime.now(UTC) - timedelta(seconds=1))
    with start():
        with pytest.raises(TaskRevokedError, match="expired"):
            stale.get(timeout=30)
        waiting = jobs.mark.apply_async((str(log), "waiting"), countdown=0.4, expires=0.1)
        with pytest.raises(TaskRevokedError, match="expired"):
            waiting.get(timeout=30)
    assert noted(log) == {}


def test_urgent_ones_come_first(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with app.bulk():
        results = [jobs.mark.apply_async((str(log), f"{place}"), priority=place) for place in (9, 6, 3, 0)]
    with start(concurrency=1):
        for result in results:
            result.get(timeout=30)
    assert log.read_text().split() == ["0", "3", "6", "9"]


def test_links_are_followed(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start():
        link = jobs.mark.si(str(log), "linked").set(task_id="linked")
        jobs.add.apply_async((1, 2), link=link)
        assert app.AsyncResult("linked").get(timeout=30) == "linked"
        jobs.fail.apply_async(("on purpose",), link_error=jobs.mark.si(str(log), "failed"))
        wait_until(lambda: noted(log)["failed"])


@every_pool
def test_tasks_that_send_tasks_and_say_how_far_they_are(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start():
        sent = [jobs.relay.delay(number, 1) for number in range(10)]
        ids = [result.get(timeout=30) for result in sent]
        assert [app.AsyncResult(id).get(timeout=30) for id in ids] == list(range(1, 11))
        result = jobs.progress.delay(str(log))
        wait_until(lambda: result.state == "PROGRESS")
        assert result.info == {"half": True}
        note(str(log), "seen")
        assert result.get(timeout=30) == "whole"


def test_a_refused_one_comes_again_and_says_so(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start():
        assert jobs.refuse_once.delay(str(log)).get(timeout=30) is True
    assert noted(log) == {"tried": 2}
    assert counts(app) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["mark", "late"])
def test_both_kinds_of_acks_leave_nothing(
    app: Celery, start: Start, log: Path, redis_server: RedisServer, jobs: Any, name: str
) -> None:
    task = getattr(jobs, name)
    with start():
        assert [task.delay(str(log), str(n)).get(timeout=30) for n in range(5)] == ["0", "1", "2", "3", "4"]
        wait_until(lambda: counts(app) == (0, 0, 0, 0))
    assert set(noted(log).values()) == {1}
    left = {key.split(".")[1] for key in redis_server.keys("celeriac.*")}
    assert left <= {"queues", "bindings", "sent", "consumers"}


# -- revocation --------------------------------------------------------------------------------------------------------


def test_revoked_before_it_is_claimed(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    result = jobs.mark.delay(str(log), "unwanted")
    app.control.revoke(result.id)
    with start(), pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert noted(log) == {}


def test_revoked_while_it_waits_for_its_time(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start():
        result = jobs.mark.apply_async((str(log), "unwanted"), countdown=3600)
        wait_until(lambda: counts(app)[2] == 1)
        app.control.revoke(result.id)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
    assert noted(log) == {}


def test_terminated_while_it_runs(app: Celery, log: Path, start: Start, jobs: Any) -> None:
    with start():
        result = jobs.mark.delay(str(log), "running", 60)
        wait_until(lambda: noted(log)["running"])
        app.control.revoke(result.id, terminate=True, signal="SIGKILL")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert jobs.add.delay(1, 1).get(timeout=30) == 2
    assert counts(app) == (0, 0, 0, 0)


# -- ledgers -----------------------------------------------------------------------------------------------------------


@every_pool
@pytest.mark.parametrize("results", ["another server", "sqlite"])
def test_a_split_ledger(
    make_app: Callable[..., Celery],
    redis_url: str,
    pool: str,
    results: str,
    server: Callable[[str], Path],
    tmp_path: Path,
    log: Path,
    jobs: Any,
) -> None:
    other = RedisServer(server("redis"), tmp_path / "other") if results == "another server" else None
    try:
        app = make_app(redis_url, other.url() if other else f"sqlite:///{tmp_path}/results.db")
        with start_worker(app, pool=pool, concurrency=2, perform_ping_check=False, shutdown_timeout=60.0) as worker:
            assert worker.consumer is not None
            assert not worker.consumer.ledger.fused
            assert jobs.flaky.delay(str(log), 2, 0.05).get(timeout=30) == 2
            link = jobs.add.s(10).set(task_id="linked")
            jobs.add.apply_async((1, 2), link=link)
            assert app.AsyncResult("linked").get(timeout=30) == 13
            wait_until(lambda: counts(app) == (0, 0, 0, 0))
        app.close()
    finally:
        if other is not None:
            assert len(other.keys("celery-task-meta-*")) == 3
            other.stop()


# -- the end of a worker -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(app: Celery, pool: str) -> Iterator[Callable[..., tuple[WorkController, threading.Thread]]]:
    """`run()`: a worker that the test stops itself, and its thread."""
    running: list[tuple[WorkController, threading.Thread]] = []

    def run(**options: Any) -> tuple[WorkController, threading.Thread]:
        worker = WorkController(app, pool=pool, hostname=NODE, **{"concurrency": 1, **options})
        thread = threading.Thread(target=worker.start)
        thread.start()
        assert worker.ready.wait(30)
        running.append((worker, thread))
        return running[-1]

    yield run
    for worker, thread in running:
        worker.terminate()
        thread.join(30)


@every_pool
def test_a_warm_shutdown_gives_back_what_has_not_begun(app: Celery, run: Any, log: Path, jobs: Any) -> None:
    worker, thread = run()
    results = [jobs.mark.delay(str(log), str(number), 0.5) for number in range(MANY)]
    wait_until(lambda: noted(log))
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert worker.exitcode == 0
    ran = sum(noted(log).values())
    assert [result.state for result in results] == ["SUCCESS"] * ran + ["PENDING"] * (MANY - ran)
    assert ran < MANY
    assert counts(app) == (MANY - ran, 0, 0, 0)
    assert app.broker.stats(["celery"])[0].consumers == 0


def test_a_cold_shutdown_kills_and_late_tasks_come_again(app: Celery, run: Any, log: Path, jobs: Any) -> None:
    app.conf.task_acks_late = True
    worker, thread = run(concurrency=2)
    running = jobs.mark.delay(str(log), "running", 60)
    wait_until(lambda: noted(log)["running"])
    worker.terminate()
    thread.join(30)
    assert not thread.is_alive()
    assert counts(app)[:2] == (1, 0)
    assert running.state == "PENDING"


@every_pool
def test_remote_control_reaches_every_pool(
    app: Celery, start: Start, pool: str, log: Path, tmp_path: Path, jobs: Any
) -> None:
    with start():
        inspect = app.control.inspect(timeout=30, limit=1)
        assert inspect.ping() == {NODE: {"ok": "pong"}}
        assert "engine.jobs.add" in inspect.registered()[NODE]
        assert [queue["name"] for queue in inspect.active_queues()[NODE]] == ["celery"]
        stats = inspect.stats()[NODE]
        assert stats["pool"]["max-concurrency"] == (1 if pool == "solo" else 2)
        assert stats["broker"]["transport"] == "redis"
        assert app.control.add_consumer("extra", reply=True, timeout=30, limit=1)
        assert jobs.add.apply_async((1, 1), queue="extra").get(timeout=30) == 2
        assert app.control.cancel_consumer("extra", reply=True, timeout=30, limit=1)
        wait_until(lambda: len(inspect.active_queues()[NODE]) == 1)  # a loop that is busy does it a little later
        jobs.add.apply_async((1, 1), queue="extra")
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        assert counts(app, "extra") == (1, 0, 0, 0)
        if pool != "solo":
            gate = tmp_path / "gate"
            jobs.early_at_gate.delay(str(log), "held", str(gate))
            wait_until(lambda: noted(log)["held"])
            [active] = inspect.active()[NODE]
            gate.touch()
            assert (active["name"], active["args"]) == ("engine.jobs.early_at_gate", [str(log), "held", str(gate)])


def test_a_worker_keeps_secrets_to_itself(make_app: Callable[..., Celery], redis_url: str) -> None:
    options = {"sentinel_kwargs": {"password": "hush"}, "master_name": "m"}
    broker = redis_url.replace("//", "//default:hush@")
    app = make_app(f"{broker};redis://default:hush@localhost:1/0", redis_url, broker_transport_options=options)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60.0, hostname=NODE):
        inspect = app.control.inspect(timeout=30, limit=1)
        stats, conf, report = inspect.stats()[NODE], inspect.conf()[NODE], inspect.report()[NODE]
    assert stats["broker"]["alternates"] == ["redis://default:**@localhost:1/0"]
    assert "hush" not in repr((stats, conf, report))


@every_pool
def test_a_worker_can_be_told_to_stop(app: Celery, run: Any) -> None:
    worker, thread = run()
    app.control.shutdown(destination=[NODE])
    thread.join(30)
    assert not thread.is_alive()
    assert worker.exitcode == 0
    worker.stop()  # once more: it has ended, and takes no harm
    worker.terminate()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_pools_grow_and_shrink(app: Celery, start: Start, jobs: Any) -> None:
    with start():
        inspect = app.control.inspect(timeout=30, limit=1)
        app.control.pool_grow(2, reply=True, timeout=30, limit=1)
        wait_until(lambda: inspect.stats()[NODE]["pool"]["max-concurrency"] == 4)
        app.control.pool_shrink(3, reply=True, timeout=30, limit=1)
        wait_until(lambda: inspect.stats()[NODE]["pool"]["max-concurrency"] == 1)
        assert jobs.add.delay(1, 2).get(timeout=30) == 3


def test_a_child_that_dies_with_its_task(app: Celery, start: Start, log: Path, jobs: Any) -> None:
    with start(concurrency=1):
        with pytest.raises(WorkerLostError):
            jobs.die.delay(str(log)).get(timeout=30)
        assert jobs.die_once.delay(str(log)).get(timeout=30) == "alive"
    assert noted(log) == {"began": 1, "began again": 2}
    assert counts(app) == (0, 0, 0, 0)


def test_fair_workers_hold_nothing_back(app: Celery, start: Start, log: Path, tmp_path: Path, jobs: Any) -> None:
    """A worker whose slots are busy claims nothing: what comes is another's."""
    with start(concurrency=1, optimization="fair"):
        gate = tmp_path / "gate"
        long = jobs.early_at_gate.delay(str(log), "long", str(gate))
        wait_until(lambda: noted(log)["long"])
        with app.bulk():
            rest = [jobs.add.delay(number, 1) for number in range(5)]
        assert counts(app) == (5, 1, 0, 0)
        with start(concurrency=1, optimization="fair", hostname="w2@here"):
            assert [result.get(timeout=30) for result in rest] == [1, 2, 3, 4, 5]
            assert not long.ready()
            gate.touch()


def test_a_child_that_is_killed_is_replaced(app: Celery, start: Start, jobs: Any) -> None:
    with start(concurrency=1):
        pid = jobs.whoami.delay().get(timeout=30)
        os.kill(pid, signal.SIGKILL)
        assert jobs.whoami.delay().get(timeout=30) != pid
