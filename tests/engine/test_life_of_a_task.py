"""A task from `delay` to `get`, through a real worker."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery import Celery, signals, states
from celery.brokers.base import Broker
from celery.exceptions import Ignore, NotRegistered, Reject, TaskRevokedError
from celery.wire.message import Outgoing


def dead_reasons(broker: Broker) -> list[str]:
    return [entry.reason for entry in broker.entries("dead")]


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_a_result_comes_back(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    with start():
        assert add.delay(2, 3).get(timeout=30) == 5


def test_many_results_come_back(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def double(x: int) -> int:
        return 2 * x

    with start():
        with app.bulk():
            results = [double.delay(number) for number in range(500)]
        assert [result.get(timeout=30) for result in results] == [2 * number for number in range(500)]


def test_an_exception_comes_back(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def fail() -> None:
        raise KeyError("missing")

    with start():
        result = fail.delay()
        with pytest.raises(KeyError, match="missing"):
            result.get(timeout=30)
        assert result.state == states.FAILURE
        assert "KeyError" in str(result.traceback)


def test_retries_until_it_succeeds(app: Celery, start: Any) -> None:
    @app.task(bind=True, shared=False, max_retries=3)
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return int(self.request.retries)

    with start():
        assert flaky.delay().get(timeout=30) == 2


def test_a_countdown_is_never_early(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def now() -> float:
        return time.time()

    with start():
        due = time.time() + 0.4
        assert now.apply_async(eta=datetime.fromtimestamp(due, UTC)).get(timeout=30) >= due


def test_an_expired_task_is_revoked(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def stale() -> None:
        pytest.fail("it ran")

    result = stale.apply_async(expires=datetime.now(UTC) - timedelta(seconds=1))
    with start(), pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=30)


def test_a_revoked_task_does_not_run(app: Celery, start: Any) -> None:
    seen = []

    @signals.task_revoked.connect
    def on_revoked(**said: Any) -> None:
        seen.append((said["request"].id, said["terminated"], said["expired"]))

    @app.task(shared=False)
    def unwanted() -> None:
        pytest.fail("it ran")

    result = unwanted.delay()
    app.control.revoke(result.id)
    with start(), pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=30)
    assert seen == [(result.id, False, False)]


def test_an_unknown_task_fails_and_is_in_the_dead_set(app: Celery, start: Any) -> None:
    seen = []

    @signals.task_unknown.connect
    def on_unknown(**said: Any) -> None:
        seen.append((said["name"], said["id"], said["message"].headers["task"]))

    with start():
        result = app.send_task("no.such.task", (1,))
        with pytest.raises(NotRegistered):
            result.get(timeout=30)
    assert seen == [("no.such.task", result.id, "no.such.task")]
    [reason] = dead_reasons(app.broker)
    assert "'no.such.task'" in reason


def test_rubbish_is_in_the_dead_set_and_the_worker_lives_on(app: Celery, start: Any) -> None:
    rejected = threading.Event()

    @signals.task_rejected.connect
    def on_rejected(**said: Any) -> None:
        assert isinstance(said["exc"], Exception)
        rejected.set()

    @app.task(shared=False)
    def fine() -> str:
        return "fine"

    with start():
        app.broker.publish(
            [Outgoing(b"rubbish", "celery"), Outgoing(b'{"body": 1}', "celery"), Outgoing(b"", "celery")]
        )
        assert rejected.wait(30)
        assert fine.delay().get(timeout=30) == "fine"
        wait_until(lambda: len(dead_reasons(app.broker)) == 3)
    assert all(reason.startswith("undecodable") for reason in dead_reasons(app.broker))


def test_a_body_that_cannot_be_read_fails_its_task(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def fine() -> str:
        return "fine"

    outgoing = app.amqp.outgoing(fine.name, (), {}, task_id="odd", serializer="json")
    spoiled = outgoing.envelope.replace(b"application/json", b"application/odd!")
    assert spoiled != outgoing.envelope
    with start():
        app.broker.publish([Outgoing(spoiled, "celery", task_id="odd")])
        with pytest.raises(Exception, match="odd"):
            app.AsyncResult("odd").get(timeout=30)
        assert fine.delay().get(timeout=30) == "fine"
    assert len(dead_reasons(app.broker)) == 1


def test_wrong_arguments_fail_the_task(app: Celery, start: Any) -> None:
    @app.task(shared=False)
    def one(x: int) -> int:
        return x

    with start(), pytest.raises(TypeError):
        app.send_task(one.name, (1, 2, 3)).get(timeout=30)


def test_reject_and_ignore(app: Celery, start: Any) -> None:
    tries = []

    @app.task(shared=False, acks_late=True)
    def again() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise Reject("not yet", requeue=True)
        return "now"

    @app.task(shared=False, acks_late=True)
    def never() -> None:
        raise Reject("no")

    @app.task(shared=False)
    def ignored() -> None:
        raise Ignore

    with start():
        assert again.delay().get(timeout=30) == "now"
        result = ignored.delay()
        never.delay()
        wait_until(lambda: dead_reasons(app.broker))
        wait_until(lambda: app.broker.stats(["celery"])[0].leased == 0)
        assert result.state == states.PENDING
    [reason] = dead_reasons(app.broker)
    assert "no" in reason


def test_started_is_tracked_where_it_is_asked_for(app: Celery, start: Any) -> None:
    @app.task(shared=False, track_started=True)
    def held() -> None:
        assert running.wait(30)

    running = threading.Event()
    with start():
        result = held.delay()
        wait_until(lambda: result.state == states.STARTED)
        assert "@" in result.info["hostname"]
        running.set()
        result.get(timeout=30)


def test_callbacks_and_error_callbacks_follow(app: Celery, start: Any) -> None:
    seen = []
    called = threading.Event()

    @app.task(shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(shared=False)
    def note(task_id: str) -> None:
        seen.append(task_id)
        called.set()

    with start():
        callback = add.s(10)
        callback.set(task_id="callback")
        add.apply_async((1, 2), link=callback)
        assert app.AsyncResult("callback").get(timeout=30) == 13
        result = app.send_task("no.such.task", link_error=note.s())
        assert called.wait(30)
    assert seen == [result.id]


def test_received_is_signalled(app: Celery, start: Any) -> None:
    seen = []

    @signals.task_received.connect
    def on_received(**said: Any) -> None:
        seen.append((said["request"].name, said["request"].id))

    @app.task(shared=False, name="received")
    def nothing() -> None:
        """Nothing."""

    with start():
        result = nothing.delay()
        result.get(timeout=30)
    assert seen == [("received", result.id)]


def test_a_split_ledger_works_too(start: Any, app: Celery) -> None:
    app.conf.result_backend = "memory://in-another-place"

    @app.task(bind=True, shared=False, max_retries=1)
    def flaky(self: Any) -> str:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return "done"

    with start() as worker:
        assert worker.consumer is not None
        assert not worker.consumer.ledger.fused
        assert flaky.delay().get(timeout=30) == "done"


def test_results_can_be_switched_off(start: Any, app: Celery) -> None:
    app.conf.result_backend = "disabled"
    ran = threading.Event()

    @app.task(shared=False)
    def run() -> None:
        ran.set()

    with start():
        run.delay()
        assert ran.wait(30)
        wait_until(lambda: app.broker.stats(["celery"])[0].leased == 0)
