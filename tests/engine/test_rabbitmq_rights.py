"""A user of RabbitMQ who may use no more than some queues: what is missing is said, and no task is lost for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celery import Celery
from celery.amqp.rights import advice
from celery.brokers.rabbitmq import RabbitBroker
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import BrokerError
from celery.wire.message import Outgoing
from celery.wire.protocol import encode_envelope, task_message
from engine.notes import noted
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ

LEASE = 3.0
LONG = 60.0
"""The lease of who must not be taken for dead, although its machine may stand still for seconds."""
OWN = r"^(celery|celeriac\..*|amq\.default)$"
DELAYS = r"^(celery|celeriac\..*|amq\.default|celery_delayed_.*)$"
ALL = r"^(celery|celeriac\..*|amq\.default|celery_delayed_.*|.*celery\.pidbox|celeryev.*)$"
Allow = Callable[..., str]


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def work(app: Celery, name: str) -> AbstractContextManager[TestWorkController]:
    options = {"concurrency": 2, "loglevel": "WARNING", "perform_ping_check": False, "shutdown_timeout": 60.0}
    return start_worker(app, pool="threads", hostname=f"{name}@here", **options)


@pytest.fixture
def cut_off(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[Proxy]:
    """Between a worker that may do everything and the node."""
    with Proxy(rabbitmq_server.port) as proxy:
        yield proxy


def test_what_another_worker_runs_waits_where_it_cannot_be_put_off(
    allow: Allow,
    make_app: Callable[..., Celery],
    cut_off: Proxy,
    rabbitmq_server: RabbitMQ,
    rabbitmq_vhost: str,
    redis_url: str,
    tmp_path: Path,
    jobs: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vhost = rabbitmq_vhost
    log, gate = tmp_path / "log", tmp_path / "gate"
    url = f"amqp://guest:guest@127.0.0.1:{cut_off.port}/{rabbitmq_vhost}"
    first = make_app(url, redis_url, broker_transport_options={"lease": LONG})
    narrow = make_app(allow(OWN, OWN, OWN), redis_url, broker_transport_options={"lease": LEASE})
    with work(first, "first"):
        tasks = [jobs.early_at_gate, jobs.late_at_gate]
        results = [task.delay(str(log), task.name, str(gate)) for task in tasks]
        wait_until(lambda: len(noted(log)) == 2)
        with work(narrow, "heir"):
            cut_off.refuse()
            cut_off.reset()
            wait_until(lambda: "cannot be put off" in caplog.text)
            began = time.monotonic()
            for number in range(20):
                assert jobs.add.delay(number, 2).get(timeout=30) == number + 2, "the others are not in its way"
            assert time.monotonic() - began < 10 * LEASE
            wait_until(lambda: time.monotonic() - began > 1.5 * LEASE)  # they were looked at again
            assert noted(log) == {task.name: 1 for task in tasks}, "their owner lives"
            gate.touch()
            assert [result.get(timeout=30) for result in results] == [task.name for task in tasks]
            wait_until(
                lambda: all(count == "0" for _, count in rabbitmq_server.queues("name", "messages", vhost=vhost))
            )
            cut_off.heal()
    assert noted(log) == {task.name: 1 for task in tasks}
    said = [record.getMessage() for record in caplog.records if "celery_delayed_.* too" in record.getMessage()]
    assert len([text for text in said if "cannot be put off" in text]) == 1


def early_bird(task_id: str, seconds: float) -> Outgoing:
    """Sent as the original does it where queues are classic: into the queue, for the worker to wait with."""
    due = datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()
    message = task_message("engine.jobs.add", task_id, (1, 2), headers={"eta": due})
    return Outgoing(encode_envelope(message), "celery", task_id=task_id)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_who_may_not_delay_is_told_what_to_grant_and_loses_nothing(
    allow: Allow,
    make_app: Callable[..., Celery],
    redis_url: str,
    tmp_path: Path,
    jobs: Any,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, log = make_app(allow(OWN, OWN, OWN), redis_url, task_default_queue_type=kind), tmp_path / "log"
    with pytest.raises(OperationalError, match=r"each of the three patterns is to match celery_delayed_\.\* too"):
        jobs.add.apply_async((1, 2), countdown=60)
    work = {"pool": "threads", "concurrency": 2, "perform_ping_check": False, "shutdown_timeout": 60.0}
    with start_worker(app, **work):
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        retried = jobs.flaky.delay(str(log), 1, 3)
        app.broker.publish([early_bird("theirs", seconds=3)])
        wait_until(lambda: app.broker.stats(["celery"])[0].dead == 2)
        entries = app.broker.entries("dead", ["celery"])
        assert ["celery_delayed_.* too" in entry.reason for entry in entries] == [True, True]
        assert app.broker.stats(["celery"])[0].ready == 0
    assert "celery_delayed_.* too" in caplog.text
    allow(ALL, ALL, ALL)
    app.close()
    assert app.broker.replay([entry.tag for entry in entries]) == 2
    with start_worker(app, **work):
        wait_until(lambda: [app.AsyncResult(id).state for id in (retried.id, "theirs")] == ["SUCCESS", "SUCCESS"])
    assert len(log.read_text().splitlines()) == 3


def test_delays_that_somebody_else_has_declared_may_be_used(allow: Allow, rabbitmq_url: str, jobs: Any) -> None:
    """The right to declare them is not needed then."""
    with Celery("admin", broker=rabbitmq_url, set_as_current=False) as admin:
        admin.send_task("anything", countdown=1, queue="other", ignore_result=True)
    with Celery("jobs", broker=allow(OWN, DELAYS, DELAYS), set_as_current=False) as app:
        app.send_task("anything", countdown=1, ignore_result=True)
        [delivery] = app.broker.consumer(["celery"], name="w").claim(1, timeout=30)
        assert delivery.queue == "celery"


def test_who_may_not_send_is_told_what_to_grant(allow: Allow) -> None:
    with Celery("jobs", broker=allow(OWN, "^celery$", OWN), set_as_current=False) as app:
        with pytest.raises(OperationalError, match=r"is to match amq\\\.default too"):
            app.send_task("anything", ignore_result=True)
        assert isinstance(app.broker, RabbitBroker)
        with pytest.raises(BrokerError, match=r"celery\\\.pidbox too"):
            app.control.ping(timeout=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("access to exchange 'celery_delayed_27' in vhost '/' refused for user 'a b'", "-p / 'a b' .* celery_delayed_"),
        ("configure access to queue 'celeriac.dead.x' in vhost 'v' refused for user 'u'", r"-p v u .* celeriac\\\."),
        ("write access to exchange 'a.b' in vhost 'v' refused for user 'u'", r"match a\\\.b too"),
        ("something else", "^$"),
    ],
)
def test_advice(text: str, expected: str) -> None:
    assert re.search(expected, advice(f"ACCESS_REFUSED - {text}", 403))
    assert advice(text, 404) == ""
