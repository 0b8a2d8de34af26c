"""A user of RabbitMQ who may use no more than some queues: what is missing is said, and no task is lost for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celery import Celery
from celery.amqp.rights import advice
from celery.brokers.rabbitmq import RabbitBroker
from celery.contrib.testing.worker import start_worker
from celery.exceptions import BrokerError
from celery.wire.message import Outgoing
from celery.wire.protocol import encode_envelope, task_message
from rig.rabbitmq import RabbitMQ

OWN = r"^(celery|celeriac\..*|amq\.default)$"
DELAYS = r"^(celery|celeriac\..*|amq\.default|celery_delayed_.*)$"
ALL = r"^(celery|celeriac\..*|amq\.default|celery_delayed_.*|.*celery\.pidbox|celeryev.*)$"
Allow = Callable[..., str]


@pytest.fixture
def allow(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[Allow]:
    """`allow(configure, write, read)`: the URL of this vhost for a user who may do that from now on."""
    user = f"narrow-{rabbitmq_vhost}"
    rabbitmq_server.control("add_user", user, "secret")

    def allow(*patterns: str) -> str:
        rabbitmq_server.control("set_permissions", "-p", rabbitmq_vhost, user, *patterns)
        return rabbitmq_server.url(rabbitmq_vhost, user, "secret")

    yield allow
    rabbitmq_server.control("delete_user", user)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


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
        jobs.add.apply_async((1, 2), countdown=1)
    work = {"pool": "threads", "concurrency": 2, "perform_ping_check": False}
    with start_worker(app, **work):
        assert jobs.add.delay(1, 2).get(timeout=30) == 3
        retried = jobs.flaky.delay(str(log), 1, 1)
        app.broker.publish([early_bird("theirs", seconds=1)])
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
