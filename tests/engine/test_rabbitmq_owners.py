"""Whose task it is, over RabbitMQ: a worker that is cut off is not taken for dead, one that is dead is; long tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import WorkerLostError
from engine.notes import noted
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ

LEASE = 3.0
LONG = 60.0
"""The lease of who must not be taken for dead, although its machine may stand still for seconds."""
TIMEOUT = 8
"""Seconds after which the server ends the channel of a consumer that has not acknowledged a message."""
Spawn = Callable[..., subprocess.Popen[bytes]]


def options(**more: Any) -> dict[str, Any]:
    return {"lease": LEASE, "delay_queue_type": "classic", **more}


@pytest.fixture
def app(rabbitmq_url: str, redis_url: str) -> Iterator[Celery]:
    app = Celery("jobs", broker=rabbitmq_url, backend=redis_url, include=["engine.jobs"])
    app.conf.update(worker_hijack_root_logger=False, broker_transport_options=options())
    app.set_default()
    yield app
    app.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Tasks wait for this file."""
    return tmp_path / "gate"


@pytest.fixture
def spawn(app: Celery, tmp_path: Path) -> Iterator[Spawn]:
    """`spawn(url)`: a worker in a process group of its own, which the test may kill."""
    running: list[subprocess.Popen[bytes]] = []
    code = (
        "import json, sys; from celery import Celery\n"
        "broker, backend, options = sys.argv[1:4]\n"
        "app = Celery('jobs', broker=broker, backend=backend, include=['engine.jobs'])\n"
        "app.conf.broker_transport_options = json.loads(options)\n"
        "app.set_default(); app.worker_main(['worker', '-c', '2', '-P', 'threads', '-l', 'WARNING'])\n"
    )

    def spawn(url: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, url, app.conf.result_backend, json.dumps(options(**more))]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "C_FORCE_ROOT": "1"}
        with (tmp_path / "worker.log").open("ab") as output:
            running.append(subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True))
        return running[-1]

    yield spawn
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def work(app: Celery) -> AbstractContextManager[TestWorkController]:
    return start_worker(
        app, pool="threads", concurrency=2, hostname="heir@here", perform_ping_check=False, shutdown_timeout=60.0
    )


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def unacknowledged(server: RabbitMQ, app: Celery) -> int:
    vhost = app.conf.broker_url.rpartition("/")[2]
    rows = server.queues("name", "messages_unacknowledged", vhost=vhost)
    return sum(int(count) for name, count in rows if name == "celery")


def put_off(server: RabbitMQ, app: Celery) -> int:
    """How many messages wait for their time."""
    vhost = app.conf.broker_url.rpartition("/")[2]
    rows = server.queues("name", "messages", vhost=vhost)
    return sum(int(count) for name, count in rows if name.startswith("celery_delayed_"))


def settled(app: Celery) -> bool:
    [stats] = app.broker.stats(["celery"])
    return (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


def test_a_worker_that_is_cut_off_keeps_its_tasks_and_one_that_dies_does_not(
    app: Celery, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, spawn: Spawn, log: Path, gate: Path, jobs: Any
) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        first = spawn(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_vhost}", lease=LONG)
        early = jobs.early_at_gate.delay(str(log), "early", str(gate))
        late = jobs.late_at_gate.delay(str(log), "late", str(gate))
        wait_until(lambda: len(noted(log)) == 2)
        with work(app):
            proxy.refuse()
            proxy.reset()
            wait_until(lambda: put_off(rabbitmq_server, app))
            assert jobs.add.delay(1, 2).get(timeout=60) == 3, "the others are not in its way"
            time.sleep(LEASE * 1.5)  # they come by again, and their owner lives still
            gate.touch()
            assert (early.get(timeout=60), late.get(timeout=60)) == ("early", "late")
            proxy.heal()
            wait_until(lambda: not put_off(rabbitmq_server, app) and settled(app))
        assert noted(log) == {"early": 1, "late": 1}
        kill(first)

    gate.unlink()
    second = spawn(app.conf.broker_url)
    early = jobs.early_at_gate.delay(str(log), "early", str(gate))
    late = jobs.late_at_gate.delay(str(log), "late", str(gate))
    wait_until(lambda: noted(log) == {"early": 2, "late": 2})
    kill(second)
    gate.touch()
    with work(app):
        with pytest.raises(WorkerLostError):
            early.get(timeout=60)
        assert late.get(timeout=60) == "late"
        wait_until(lambda: not put_off(rabbitmq_server, app) and settled(app))
    assert noted(log) == {"early": 2, "late": 3}


@pytest.fixture
def impatient(rabbitmq_server: RabbitMQ) -> Iterator[RabbitMQ]:
    """The shared node, for channels that are opened now. It looks every second instead of every minute."""

    def configure(timeout: int, tick: int) -> None:
        rabbitmq_server.control(
            "eval",
            f"application:set_env(rabbit, consumer_timeout, {timeout}),"
            f" application:set_env(rabbit, channel_tick_interval, {tick}).",
        )

    configure(TIMEOUT * 1000, 1000)
    yield rabbitmq_server
    configure(1_800_000, 60_000)


def ended_channels(server: RabbitMQ) -> int:
    """How many channels the node has ended because of the time."""
    return server.log.count("delivery acknowledgement on channel")


def test_a_task_may_run_past_the_timeout_of_consumers(
    app: Celery, impatient: RabbitMQ, spawn: Spawn, log: Path, gate: Path, jobs: Any
) -> None:
    """It is acknowledged before the server loses its patience; a copy goes about in case that its worker dies."""
    before = ended_channels(impatient)
    app.conf.broker_transport_options = options(consumer_timeout=TIMEOUT)
    early = jobs.early_at_gate.delay(str(log), "early", str(gate))
    late = jobs.late_at_gate.delay(str(log), "late", str(gate))
    with work(app):
        wait_until(lambda: noted(log) == {"early": 1, "late": 1})
        began = time.monotonic()
        wait_until(lambda: not unacknowledged(impatient, app) and time.monotonic() - began > 1.5 * TIMEOUT)
        gate.touch()
        assert (early.get(timeout=60), late.get(timeout=60)) == ("early", "late")
        wait_until(lambda: not put_off(impatient, app) and settled(app))
    assert noted(log) == {"early": 1, "late": 1}
    assert ended_channels(impatient) == before

    gate.unlink()
    victim = spawn(app.conf.broker_url, consumer_timeout=TIMEOUT)
    early = jobs.early_at_gate.delay(str(log), "early", str(gate))
    late = jobs.late_at_gate.delay(str(log), "late", str(gate))
    wait_until(lambda: noted(log) == {"early": 2, "late": 2})
    wait_until(lambda: not unacknowledged(impatient, app))
    kill(victim)
    gate.touch()
    with work(app):
        with pytest.raises(WorkerLostError):
            early.get(timeout=60)
        assert late.get(timeout=60) == "late"
        wait_until(lambda: not put_off(impatient, app) and settled(app))
    assert noted(log) == {"early": 2, "late": 3}


def test_a_timeout_that_nobody_has_told_us_of(
    app: Celery, impatient: RabbitMQ, log: Path, gate: Path, jobs: Any
) -> None:
    """The server ends the channel, and its messages come again to those who run them."""
    before = ended_channels(impatient)
    with work(app):
        early = jobs.early_at_gate.delay(str(log), "early", str(gate))
        late = jobs.late_at_gate.delay(str(log), "late", str(gate))
        wait_until(lambda: ended_channels(impatient) > before)
        gate.touch()
        assert (early.get(timeout=60), late.get(timeout=60)) == ("early", "late")
        wait_until(lambda: settled(app))
    assert noted(log) == {"early": 1, "late": 1}
