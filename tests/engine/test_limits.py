"""Limits from end to end: what a program says of its tasks, and when workers run them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery import Celery, signals
from celery.contrib.abortable import AbortableTask
from celery.exceptions import TaskRevokedError

NODE = "w@limits"


@pytest.fixture
def pool() -> str:
    return "threads"


def until(holds: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


class Gauge:
    """How many are inside at the same time, and at most were."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.ran: list[Any] = []

    def run(self, key: str, seconds: float = 0.01) -> str:
        with self.lock:
            self.inside[key] = self.inside.get(key, 0) + 1
            self.most[key] = max(self.most.get(key, 0), self.inside[key])
        time.sleep(seconds)
        with self.lock:
            self.inside[key] -= 1
            self.ran.append(key)
        return key


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


def told(app: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
    [answer] = getattr(app.control, name)(*args, reply=True, timeout=30, limit=1, **kwargs)
    return answer[NODE]


# --- so many at a time ------------------------------------------------------------------------------------------------


def test_no_more_of_a_key_run_than_its_limit(app: Celery, start: Any, gauge: Gauge) -> None:
    @app.task(shared=False, name="work", concurrency_limit=2, concurrency_key="customer {customer}")
    def work(customer: int, n: int = 0) -> str:
        return gauge.run(str(customer))

    with start(concurrency=6):
        with app.bulk():
            results = [work.delay(n % 3, n=n) for n in range(36)]
        assert [result.get(timeout=30) for result in results] == [str(n % 3) for n in range(36)]
    assert set(gauge.most.values()) <= {1, 2}
    assert len(gauge.most) == 3
    assert [stats.parked for stats in app.broker.stats(["celery"])] == [0]


def test_others_pass_what_waits(app: Celery, start: Any) -> None:
    began, may_end = threading.Event(), threading.Event()

    @app.task(shared=False, name="one", concurrency_limit=1)
    def one() -> None:
        began.set()
        assert may_end.wait(30)

    @app.task(shared=False, name="other")
    def other(n: int) -> int:
        return n

    with start(concurrency=2):
        limited = [one.delay() for _ in range(50)]
        assert began.wait(30)
        assert other.delay(1).get(timeout=30) == 1
        until(lambda: app.broker.stats(["celery"])[0].parked == 49)
        may_end.set()
        for result in limited:
            result.get(timeout=30)


def test_the_key_is_in_the_message(app: Celery) -> None:
    @app.task(shared=False, name="keyed", concurrency_limit=3, concurrency_key=lambda a, b=0: None if b else f"k{a}")
    def keyed(a: int, b: int = 0) -> None:
        """Never run."""

    @app.task(shared=False, name="plain", concurrency_limit=3)
    def plain(a: int) -> None:
        """Never run."""

    keyed.delay(1)
    keyed.delay(1, b=1)
    plain.delay(1)
    plain.apply_async((1,), concurrency_key="mine", concurrency_limit=7)
    app.send_task("unknown", concurrency_limit=2, concurrency_key="theirs")
    with app.bulk():
        keyed.signature((2,)).apply_async()
    heads = [app.broker.entries("ready", limit=10)[n].envelope for n in range(6)]
    assert [b'"celeriac_limit":["k1",3]' in heads[0], b'["",3]' in heads[1], b'["plain",3]' in heads[2]] == [True] * 3
    assert [b'["mine",7]' in heads[3], b'["theirs",2]' in heads[4], b'["k2",3]' in heads[5]] == [True] * 3


@pytest.mark.parametrize("limit", [0.5, -1, "2", True])
def test_a_limit_that_is_none_is_refused(app: Celery, limit: Any) -> None:
    with pytest.raises(ValueError, match="whole number"):
        app.send_task("any", concurrency_limit=limit)


def test_a_key_without_a_limit_is_refused(app: Celery) -> None:
    with pytest.raises(ValueError, match="concurrency_limit"):
        app.send_task("any", concurrency_key="k")


def test_a_template_that_does_not_fit_says_so(app: Celery) -> None:
    @app.task(shared=False, name="misfit", concurrency_limit=1, concurrency_key="{nothing}")
    def misfit(a: int) -> None:
        """Never sent."""

    with pytest.raises(ValueError, match=r"misfit.*nothing"):
        misfit.delay(1)


def test_a_retry_keeps_its_limit(app: Celery, start: Any) -> None:
    seen: list[Any] = []

    @app.task(shared=False, name="again", bind=True)
    def again(self: Any) -> str:
        seen.append((self.request.get("celeriac_limit"), self.request.headers))
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return "done"

    with start():
        assert again.apply_async(concurrency_limit=2, concurrency_key="k").get(timeout=30) == "done"
    assert seen == [(["k", 2], None)] * 2, "and it is no header of the user"


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["worker", "global"])
def test_a_rate_is_kept_and_stops_nobody(app: Celery, start: Any, scope: str) -> None:
    moments: list[float] = []

    @app.task(shared=False, name="slow", rate_limit="20/s", rate_limit_scope=scope)
    def slow() -> None:
        moments.append(time.monotonic())

    @app.task(shared=False, name="seldom", rate_limit="1/h", rate_limit_scope=scope)
    def seldom() -> None:
        """Nothing."""

    @app.task(shared=False, name="other")
    def other() -> None:
        """Nothing."""

    with start(concurrency=4):
        began = time.monotonic()
        for result in [slow.delay() for _ in range(12)]:
            result.get(timeout=30)
        assert max(moments) - began >= 11 / 20 * 0.9
        until(lambda: app.broker.stats(["celery"])[0].parked == 0)
        rare = [seldom.delay() for _ in range(3)]
        other.delay().get(timeout=30)  # it need not wait for them
        until(lambda: sorted(result.ready() for result in rare) == [False, False, True])
        until(lambda: app.broker.stats(["celery"])[0].parked == 2)


def test_the_rate_is_changed_by_remote_control(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="held", rate_limit="1/h")
    def held(n: int) -> int:
        return n

    with start(hostname=NODE):
        results = [held.delay(n) for n in range(5)]
        until(lambda: app.broker.stats(["celery"])[0].parked == 4)
        assert told(app, "rate_limit", "nobody", "1/s") == {"error": "unknown task"}
        assert "Invalid rate limit string" in told(app, "rate_limit", "held", "often")["error"]
        assert told(app, "rate_limit", "held", "1000/s") == {"ok": "new rate limit set successfully"}
        assert [result.get(timeout=30) for result in results] == list(range(5))
        assert told(app, "rate_limit", "held", 0) == {"ok": "rate limit disabled successfully"}
        assert held.delay(7).get(timeout=30) == 7


def test_what_is_parked_for_a_rate_that_is_no_more_is_run(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="was", rate_limit="1/h")
    def was(n: int) -> int:
        return n

    with start():
        results = [was.delay(n) for n in range(5)]
        until(lambda: app.broker.stats(["celery"])[0].parked == 4)
    was.rate_limit = None
    with start():
        assert [result.get(timeout=30) for result in results] == list(range(5))


def test_rates_can_be_turned_off(app: Celery, start: Any) -> None:
    app.conf.worker_disable_rate_limits = True

    @app.task(shared=False, name="free", rate_limit="1/h")
    def free(n: int) -> int:
        return n

    with start():
        assert [result.get(timeout=30) for result in [free.delay(n) for n in range(3)]] == [0, 1, 2]


# --- unique tasks -----------------------------------------------------------------------------------------------------


def test_a_unique_task_is_sent_once_until_it_has_ended(app: Celery, start: Any) -> None:
    runs: list[int] = []

    @app.task(shared=False, name="once", unique=True)
    def once(a: int, b: int = 2) -> int:
        runs.append(a)
        return a

    first = once.delay(1)
    assert once.delay(1).id == once.delay(a=1).id == once.delay(1, b=2).id == first.id
    other = once.delay(2)
    assert other.id != first.id
    with start():
        assert (first.get(timeout=30), other.get(timeout=30)) == (1, 2)
        until(lambda: once.delay(1).id != first.id)
    assert runs.count(2) == 1


def test_a_failure_and_a_revocation_free_the_key(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="failing", unique=True)
    def failing() -> None:
        raise ValueError("no")

    with start():
        first = failing.delay()
        with pytest.raises(ValueError, match="no"):
            first.get(timeout=30)
        second = until(lambda: (found := failing.apply_async(countdown=1000)).id != first.id and found)
        assert failing.delay().id == second.id
        second.revoke()
        with pytest.raises(TaskRevokedError):
            second.get(timeout=30)
        until(lambda: failing.delay().id != second.id)


def test_an_idempotency_key_brings_back_its_first_task(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="order", idempotency_key="order {number}")
    def order(number: int, note: str = "") -> str:
        return note

    with start():
        first = order.delay(7, note="first")
        assert first.get(timeout=30) == "first"
        again = order.delay(7, note="second")
        assert (again.id, again.get(timeout=30)) == (first.id, "first")
        assert order.delay(8, note="x").get(timeout=30) == "x"
        explicit = [order.apply_async((9, str(n)), idempotency_key="mine", unique=60) for n in range(2)]
        assert explicit[0].id == explicit[1].id


def test_coroutines_ask_too(app: Celery) -> None:
    @app.task(shared=False, name="once", unique=60)
    def once() -> None:
        """Never run."""

    async def send() -> list[str]:
        return [(await once.adelay()).id for _ in range(3)]

    assert len(set(asyncio.run(send()))) == 1


def test_parts_of_workflows_are_never_left_out(app: Celery, start: Any) -> None:
    from celery import chord, group

    @app.task(shared=False, name="part", unique=True)
    def part(n: int) -> int:
        return n

    @app.task(shared=False, name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with start():
        assert chord(group(part.s(1), part.s(1), part.s(2)), total.s()).delay().get(timeout=30) == 4


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_paused_queue_is_left_alone(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="work")
    def work(n: int) -> int:
        return n

    app.control.pause("aside")
    with start(hostname=NODE, queues=["celery", "aside"]):
        waiting = work.apply_async((1,), queue="aside")
        assert work.delay(2).get(timeout=30) == 2
        [queues] = app.control.inspect(timeout=30, limit=1).active_queues().values()
        assert [(queue["name"], queue.get("paused")) for queue in queues] == [("celery", None), ("aside", True)]
        assert waiting.state == "PENDING"
        app.control.resume("aside")
        assert waiting.get(timeout=30) == 1


# --- revocation -------------------------------------------------------------------------------------------------------


def test_a_delayed_task_ends_when_it_is_revoked(app: Celery, start: Any) -> None:
    heard: list[Any] = []

    def hear(request: Any = None, **facts: Any) -> None:
        heard.append((request.id, facts["terminated"], facts["expired"]))

    @app.task(shared=False, name="later")
    def later() -> None:
        """Never run."""

    signals.task_revoked.connect(hear)
    try:
        with start():
            results = [later.apply_async(countdown=10_000) for _ in range(3)]
            until(lambda: app.broker.stats(["celery"])[0].delayed == 3)
            app.control.revoke([result.id for result in results[:2]])
            for result in results[:2]:
                with pytest.raises(TaskRevokedError):
                    result.get(timeout=30)
            assert app.broker.stats(["celery"])[0].delayed == 1
    finally:
        signals.task_revoked.disconnect(hear)
    assert sorted(heard) == sorted((result.id, False, False) for result in results[:2])


def test_where_no_worker_is_whoever_revokes_ends_it(app: Celery, kind: str) -> None:
    if kind == "redis":
        # Held back in Redis only where a worker of ours listens: so one comes and goes.
        app.broker.consumer(["celery"], name="guest").close()
    consumer = app.broker.consumer(["celery"], name="guest")

    @app.task(shared=False, name="later")
    def later() -> None:
        """Never run."""

    result = later.apply_async(countdown=10_000)
    consumer.close()
    assert app.broker.stats(["celery"])[0].delayed == 1
    result.revoke()
    assert result.state == "REVOKED"
    stats = app.broker.stats(["celery"])[0]
    assert (stats.ready, stats.delayed) == (0, 0)


def test_a_revocation_that_only_a_worker_is_told_of_is_for_good(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="later")
    def later() -> str:
        return "ran"

    with start(hostname=NODE):
        delayed = later.apply_async(countdown=10_000)
        until(lambda: app.broker.stats(["celery"])[0].delayed == 1)
        # As clients of the original do, which have no broker to record it at.
        arguments = {"task_id": ["sent-later", delayed.id]}
        [answer] = app.control.broadcast("revoke", arguments, reply=True, timeout=30, limit=1)
        assert answer[NODE]["ok"].endswith("flagged as revoked")
        with pytest.raises(TaskRevokedError):
            delayed.get(timeout=30)
    assert set(app.broker.revoked()) >= {"sent-later"}
    with start(hostname=NODE), pytest.raises(TaskRevokedError):
        later.apply_async(task_id="sent-later").get(timeout=30)


def test_stamps_are_revoked_for_good(app: Celery, start: Any) -> None:
    @app.task(shared=False, name="stamped")
    def stamped() -> str:
        return "ran"

    app.control.revoke_by_stamped_headers({"customer": ["7", "8"]})
    signature = stamped.s()
    signature.stamp(customer="7")
    revoked = signature.apply_async()
    free = stamped.delay()
    with start(hostname=NODE):
        assert free.get(timeout=30) == "ran"
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=30)
        answer = told(app, "revoke_by_stamped_headers", {"region": "eu"})
        assert answer == {"ok": "headers {'region': 'eu'} flagged as revoked, but not terminated"}
        signature = stamped.s()
        signature.stamp(region="eu")
        with pytest.raises(TaskRevokedError):
            signature.apply_async().get(timeout=30)


# --- tasks that look whether they are to stop -------------------------------------------------------------------------


def test_an_abortable_task_sees_that_it_is_to_stop(app: Celery, start: Any) -> None:
    began = threading.Event()

    @app.task(shared=False, name="long", bind=True, base=AbortableTask)
    def long(self: Any) -> str:
        began.set()
        until(self.is_aborted, 20)
        return "stopped"

    with start():
        result = long.delay()
        assert began.wait(30)
        assert not result.is_aborted()
        result.abort()
        assert result.get(timeout=30) == "stopped"
    assert not result.is_aborted()
