"""Tasks: calling, sending, steering, and what surrounds an execution."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from kombu.exceptions import EncodeError, OperationalError
from pydantic import BaseModel

from celery import Celery, Task, signals
from celery._state import get_current_task, get_current_worker_task, pop_current_task, push_current_task
from celery.app.task import Context
from celery.exceptions import (
    AlwaysEagerIgnored,
    BrokerError,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    Reject,
    Retry,
)
from celery.result import EagerResult
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, peek, split_body


class Desk:
    """An app on a memory broker of its own, and what lies in its queues."""

    def __init__(self, name: str, **settings: Any) -> None:
        url = f"memory://desk-{name}"
        self.app = Celery("desk", broker=url, backend=url, **settings)

    def sent(self, queue: str | None = None, kind: Any = "ready") -> list[Any]:
        entries = self.app.broker.entries(kind, [queue] if queue else None)
        return [decode_envelope(entry.envelope) for entry in entries]

    def one(self, **where: Any) -> Any:
        (message,) = self.sent(**where)
        return message


@pytest.fixture
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(request.node.name)


@pytest.fixture
def app(desk: Desk) -> Celery:
    return desk.app


class TestCalling:
    def test_it_is_a_function(self, app: Celery) -> None:
        @app.task(bind=True)
        def who(self: Any, x: int) -> Any:
            return get_current_task() is self, self.request.called_directly, self.request.args, x

        assert who(3) == (True, True, (3,), 3)
        assert get_current_task() is None
        assert who.request.id is None

    def test_without_a_run_method_it_says_so(self, app: Celery) -> None:
        class Empty(Task):  # type: ignore[type-arg]
            name = "empty"

        with pytest.raises(ImproperlyConfigured, match="run"):
            app.register_task(Empty())()

    def test_async_tasks_give_a_coroutine(self, app: Celery) -> None:
        @app.task
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        assert asyncio.run(double(4)) == 8
        assert double.apply((4,)).get() == 8


class TestSending:
    def test_arguments_are_checked_before(self, desk: Desk) -> None:
        @desk.app.task
        def add(x: int, y: int = 0, *, scale: int = 1) -> int:
            return (x + y) * scale

        @desk.app.task(bind=True)
        def bound(self: Any, x: int) -> int:
            return x

        @desk.app.task(typing=False)
        def anything(x: int) -> int:
            return x

        with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
            add.delay()  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
            add.delay(1, 2, 3)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            add.delay(1, z=1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="bound"):
            bound.delay(1, 2)
        with pytest.raises(TypeError, match="must be a list or tuple"):
            anything.apply_async({"x": 1})
        assert desk.sent() == []
        bound.delay(1)
        anything.delay()  # type: ignore[call-overload]
        assert len(desk.sent()) == 2

    def test_typing_can_be_off_for_an_app(self) -> None:
        app = Celery("loose", broker="memory://loose", strict_typing=False)

        @app.task
        def one(x: int) -> None: ...

        assert one.delay().id  # type: ignore[call-overload]

    def test_results_know_their_task(self, app: Celery) -> None:
        @app.task(ignore_result=True)
        def quiet() -> None: ...

        result = quiet.apply_async(task_id="my-id")
        assert result.id == "my-id"
        assert result.ignored
        assert quiet.AsyncResult("my-id").app is app

    def test_what_cannot_be_serialised(self, desk: Desk) -> None:
        @desk.app.task
        def job(x: Any) -> None: ...

        with pytest.raises(EncodeError, match="JSON"):
            job.delay(object())
        assert desk.sent() == []

    def test_options_of_the_task_and_of_the_call(self, desk: Desk) -> None:
        @desk.app.task(priority=3, time_limit=9, soft_time_limit=4, queue="slow", compression="zlib")
        def job() -> None: ...

        job.delay()
        job.apply_async(priority=7, time_limit=None, queue="fast", compression=None)
        slow, fast = desk.one(queue="slow"), desk.one(queue="fast")
        assert (slow.properties["priority"], slow.headers["timelimit"]) == (3, [9, 4])
        assert slow.headers["compression"] == "application/x-gzip"
        assert (fast.properties["priority"], fast.headers["timelimit"]) == (7, [None, 4])
        assert "compression" not in fast.headers

    def test_send_task_takes_the_limits_of_a_task_it_knows(self, desk: Desk) -> None:
        @desk.app.task(name="job", priority=3, time_limit=9, expires=60)
        def job() -> None: ...

        desk.app.finalize()
        desk.app.send_task("job", task_id="own")
        desk.app.send_task("job", task_id="none", time_limit=None, expires=None, priority=1)
        desk.app.send_task("unknown", task_id="unknown")
        found = {message.headers["id"]: message for message in desk.sent()}
        assert found["own"].headers["timelimit"] == [9, None]
        assert found["own"].properties["expiration"] == "60000"
        assert found["own"].properties["priority"] == 3
        assert found["none"].headers["timelimit"] == [None, None]
        assert found["none"].headers["expires"] is None
        assert found["none"].properties["priority"] == 1
        assert found["unknown"].headers["ignore_result"] is None

    def test_shadow_names(self, desk: Desk) -> None:
        class Shadowed(Task):  # type: ignore[type-arg]
            def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
                return f"shadow of {args}"

        @desk.app.task(base=Shadowed)
        def job(x: int) -> None: ...

        job.delay(1)
        assert desk.one().headers["shadow"] == "shadow of (1,)"

    def test_links_are_data_in_the_message(self, desk: Desk) -> None:
        @desk.app.task(name="job")
        def job(x: int) -> None: ...

        job.apply_async((1,), link=job.s(2), link_error=[job.si(3)])
        message = desk.one()
        args, kwargs, embed = split_body(message)
        assert (args, kwargs) == ([1], {})
        assert embed["callbacks"] == [
            {"task": "job", "args": [2], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
        ]
        assert embed["errbacks"][0]["immutable"] is True

    def test_signals_may_change_the_headers(self, desk: Desk) -> None:
        seen: dict[str, Any] = {}

        def before(sender: str, headers: dict[str, Any], properties: dict[str, Any], **named: Any) -> None:
            headers["traceparent"] = "00-abc"
            properties["priority"] = 6
            seen["before"] = (sender, sorted(named))

        def after(sender: str, headers: dict[str, Any], **named: Any) -> None:
            seen["after"] = (sender, headers["traceparent"], sorted(named))

        signals.before_task_publish.connect(before)
        signals.after_task_publish.connect(after)
        try:
            desk.app.send_task("job", (1,))
        finally:
            signals.before_task_publish.disconnect(before)
            signals.after_task_publish.disconnect(after)
        message = desk.one()
        assert message.headers["traceparent"] == "00-abc"
        assert message.properties["priority"] == 6
        names = ["body", "declare", "exchange", "retry_policy", "routing_key", "signal"]
        assert seen["before"] == ("job", names)
        assert seen["after"] == ("job", "00-abc", ["body", "exchange", "routing_key", "signal"])

    def test_a_task_that_sends_is_the_parent(self, desk: Desk) -> None:
        @desk.app.task(name="job")
        def job() -> None: ...

        desk.app.conf.task_inherit_parent_priority = True
        job.push_request(id="parent", root_id="root", called_directly=False, delivery_info={"priority": 8})
        push_current_task(job)
        try:
            assert get_current_worker_task() == job
            result = job.delay()
            assert job.request.children == [result]
            job.apply_async(add_to_parent=False, root_id="other", parent_id="else", priority=2)
            assert job.request.children == [result]
        finally:
            pop_current_task()
            job.pop_request()
        inherited, own = sorted(desk.sent(), key=lambda message: message.properties["priority"], reverse=True)
        assert (inherited.headers["root_id"], inherited.headers["parent_id"]) == ("root", "parent")
        assert inherited.properties["priority"] == 8
        assert (own.headers["root_id"], own.headers["parent_id"]) == ("other", "else")
        assert own.properties["priority"] == 2

    def test_a_task_called_as_a_function_is_no_parent(self, desk: Desk) -> None:
        @desk.app.task(name="inner")
        def inner() -> None: ...

        @desk.app.task
        def outer() -> None:
            inner.delay()

        outer()
        assert desk.one().headers["parent_id"] is None


class Refusing:
    """Stands where the broker's `publish` is, and refuses as often as it is told."""

    def __init__(self, publish: Any, times: int) -> None:
        self.publish = publish
        self.times = times
        self.calls = 0

    def __call__(self, messages: Sequence[Outgoing]) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise BrokerError("The broker at memory:// is not there: start it.")
        self.publish(messages)


class TestBrokersThatFail:
    def test_it_is_tried_again(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        refusing = Refusing(desk.app.broker.publish, times=2)
        monkeypatch.setattr(desk.app.broker, "publish", refusing)
        policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        desk.app.send_task("job", retry_policy=policy)
        assert refusing.calls == 3
        assert len(desk.sent()) == 1

    def test_then_it_raises_what_kombu_raises(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        refusing = Refusing(desk.app.broker.publish, times=99)
        monkeypatch.setattr(desk.app.broker, "publish", refusing)
        with pytest.raises(OperationalError, match="start it") as caught:
            desk.app.send_task("job", retry=False)
        assert isinstance(caught.value.__cause__, BrokerError)
        assert refusing.calls == 1
        with pytest.raises(Task.OperationalError):
            desk.app.send_task("job", retry_policy={"max_retries": 1, "interval_start": 0})
        assert refusing.calls == 3

    def test_its_deadline_holds(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(desk.app.broker, "publish", Refusing(None, times=99))
        desk.app.conf.broker_publish_timeout = 0.05
        with pytest.raises(OperationalError):
            desk.app.send_task("job", retry_policy={"max_retries": None, "interval_start": 0.02, "interval_max": 0.02})

    def test_a_retry_that_cannot_be_sent_rejects_the_message(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        @desk.app.task(bind=True)
        def job(self: Any) -> None: ...

        monkeypatch.setattr(desk.app.broker, "publish", Refusing(None, times=99))
        job.push_request(id="i", called_directly=False, args=(), kwargs={})
        try:
            desk.app.conf.task_publish_retry = False
            with pytest.raises(Reject) as caught:
                job.retry()
        finally:
            job.pop_request()
        assert caught.value.requeue is False


class TestBulkAndCoroutines:
    def test_a_bulk_reaches_the_broker_at_its_end(self, desk: Desk) -> None:
        with desk.app.bulk():
            results = [desk.app.send_task("job", (n,)) for n in range(1200)]
            assert desk.sent() == []
        stats = desk.app.broker.stats()
        assert [queue.ready for queue in stats] == [1200]
        assert len({result.id for result in results}) == 1200

    def test_a_bulk_that_raises_sends_nothing(self, desk: Desk) -> None:
        def send_and_fail() -> None:
            with desk.app.bulk():
                desk.app.send_task("job")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            send_and_fail()
        assert desk.sent() == []

    def test_bulks_nest(self, desk: Desk) -> None:
        with desk.app.bulk():
            with desk.app.bulk():
                desk.app.send_task("inner")
            assert desk.sent() == []
        assert len(desk.sent()) == 1

    def test_another_thread_is_not_in_the_bulk(self, desk: Desk) -> None:
        with desk.app.bulk():
            thread = threading.Thread(target=desk.app.send_task, args=("other",))
            thread.start()
            thread.join()
            assert len(desk.sent()) == 1

    def test_coroutines(self, desk: Desk, tmp_path: Any) -> None:
        for app in (desk.app, Celery("file", broker=f"sqlite:///{tmp_path}/async.db")):

            @app.task(shared=False)
            def job(x: int) -> int:
                return x

            async def send(task: Any = job) -> list[Any]:
                return list(await asyncio.gather(*(task.adelay(n) for n in range(20)), task.aapply_async((99,))))

            results = asyncio.run(send())
            assert len({result.id for result in results}) == 21
            assert [queue.ready for queue in app.broker.stats()] == [21]
            app.close()

    def test_a_coroutine_is_told_of_an_error(self, tmp_path: Any) -> None:
        app = Celery("file", broker=f"sqlite:///{tmp_path}/there/is/no/such/folder/x.db", task_publish_retry=False)

        @app.task(shared=False)
        def job() -> None: ...

        with pytest.raises(OperationalError):
            asyncio.run(job.adelay())
        app.close()


class TestEager:
    def test_apply_runs_it_here(self, app: Celery) -> None:
        @app.task(bind=True)
        def job(self: Any, x: int) -> Any:
            return self.request.is_eager, self.request.id, self.request.retries, x

        result = job.apply((5,), task_id="abc", retries=2)
        assert isinstance(result, EagerResult)
        assert result.get() == (True, "abc", 2, 5)
        assert result.state == "SUCCESS"

    def test_errors_are_results_unless_they_are_to_be_raised(self, app: Celery) -> None:
        @app.task
        def fail() -> None:
            raise KeyError("no")

        result = fail.apply()
        assert result.state == "FAILURE"
        assert isinstance(result.result, KeyError)
        assert "fail" in (result.traceback or "")
        with pytest.raises(KeyError):
            fail.apply(throw=True)
        app.conf.task_eager_propagates = True
        with pytest.raises(KeyError):
            fail.apply()

    def test_always_eager_sends_nothing_and_serialises_all_the_same(self, desk: Desk) -> None:
        desk.app.conf.task_always_eager = True

        @desk.app.task
        def kind(x: Any) -> str:
            return type(x).__name__

        assert kind.delay((1, 2)).get() == "list"
        assert kind.apply(((1, 2),)).get() == "tuple"
        with pytest.raises(EncodeError):
            kind.delay(object())
        with pytest.warns(AlwaysEagerIgnored):
            desk.app.send_task("elsewhere")
        assert [message.headers["task"] for message in desk.sent()] == ["elsewhere"]

    def test_handlers(self, app: Celery) -> None:
        seen: list[Any] = []

        class Handled(Task):  # type: ignore[type-arg]
            def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
                seen.append("before_start")

            def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
                seen.append(("on_success", retval))

            def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
                seen.append(("on_failure", repr(exc)))

            def after_return(self, status: str, *rest: Any) -> None:
                seen.append(("after_return", status))

        @app.task(base=Handled)
        def job(fail: bool) -> int:
            if fail:
                raise ValueError("x")
            return 1

        job.apply((False,))
        job.apply((True,))
        assert seen == [
            "before_start", ("on_success", 1), ("after_return", "SUCCESS"),
            "before_start", ("on_failure", "ValueError('x')"), ("after_return", "FAILURE"),
        ]  # fmt: skip


class TestRetry:
    def test_eager_retries_run_until_they_may_no_more(self, app: Celery) -> None:
        tries = []

        @app.task(bind=True, max_retries=2, default_retry_delay=100)
        def job(self: Any) -> None:
            tries.append(self.request.retries)
            raise self.retry(exc=ValueError("again"))

        result = job.apply()
        assert tries == [0, 1, 2]
        assert isinstance(result.result, ValueError)

    def test_called_as_a_function_it_raises_the_error(self, app: Celery) -> None:
        @app.task(bind=True)
        def job(self: Any) -> None:
            raise self.retry(exc=ValueError("again"))

        with pytest.raises(ValueError, match="again"):
            job()

    def test_the_message_of_the_next_try(self, desk: Desk) -> None:
        @desk.app.task(bind=True, name="job")
        def job(self: Any, x: int) -> None: ...

        job.push_request(
            id="abc", args=(1,), kwargs={}, root_id="root", called_directly=False, retries=1, reply_to="me",
            delivery_info={"exchange": "", "routing_key": "celery", "priority": 5}, timelimit=(5, 3), shadow="dark",
            callbacks=[{"task": "next", "args": [], "kwargs": {}, "options": {}, "immutable": False}], traceparent="t",
        )  # fmt: skip
        push_current_task(job)
        try:
            with pytest.raises(Retry) as caught:
                job.retry(countdown=30, exc=KeyError("k"))
            returned = job.retry(throw=False, countdown=0, args=(2,), queue="other")
        finally:
            pop_current_task()
            job.pop_request()
        assert (caught.value.when, str(caught.value.exc)) == (30, "'k'")
        assert isinstance(returned, Retry)
        message = desk.one(kind="delayed")
        head, properties = message.headers, message.properties
        assert (head["id"], head["retries"], head["root_id"], head["parent_id"]) == ("abc", 2, "root", None)
        assert (head["timelimit"], head["shadow"], head["traceparent"]) == ([5, 3], "dark", "t")
        assert (properties["priority"], properties["reply_to"], properties["correlation_id"]) == (5, "me", "abc")
        assert split_body(message)[2]["callbacks"][0]["task"] == "next"
        assert split_body(desk.one(queue="other"))[0] == [2]

    def test_in_a_worker_it_waits_in_the_outbox(self, desk: Desk) -> None:
        @desk.app.task(bind=True, name="job")
        def job(self: Any) -> None: ...

        outbox: list[Outgoing] = []
        job.push_request(id="abc", args=(), kwargs={}, called_directly=False, outbox=outbox)
        try:
            with pytest.raises(Retry):
                job.retry(countdown=5)
        finally:
            job.pop_request()
        assert desk.sent() == []
        assert desk.sent(kind="delayed") == []
        (message,) = outbox
        assert message.task_id == "abc"
        assert message.due is not None
        assert peek(message.envelope).retries == 1

    def test_the_last_try(self, app: Celery) -> None:
        @app.task(bind=True, max_retries=1, name="job")
        def job(self: Any, x: int) -> None: ...

        job.push_request(id="abc", args=(1,), kwargs={}, called_directly=False, retries=1)
        try:
            with pytest.raises(
                MaxRetriesExceededError, match=r"Can't retry job\[abc\] args:\(1,\) kwargs:{}"
            ) as caught:
                job.retry()
            assert caught.value.task_args == (1,)
            with pytest.raises(KeyError):
                job.retry(exc=KeyError("k"))
            with pytest.raises(Retry):
                job.retry(max_retries=5)
        finally:
            job.pop_request()


class TestRequests:
    def test_one_for_every_execution(self, app: Celery) -> None:
        @app.task
        def job() -> None: ...

        job.push_request(id="outer")
        job.push_request(id="inner")
        assert job.request.id == "inner"
        assert isinstance(job.pop_request(), Context)
        assert job.request.id == "outer"
        job.pop_request()
        assert job.request.id is None

    def test_update_state(self, app: Celery) -> None:
        @app.task(bind=True)
        def job(self: Any) -> None: ...

        job.push_request(id="with-state")
        job.update_state(state="PROGRESS", meta={"done": 3})
        job.pop_request()
        result = job.AsyncResult("with-state")
        assert (result.state, result.info) == ("PROGRESS", {"done": 3})


class Order(BaseModel):
    number: int
    note: str | None = None


class TestPydantic:
    def test_models_in_and_out(self, desk: Desk) -> None:
        @desk.app.task(pydantic=True, name="job")
        def job(order: Order, extra: Order | None = None, *, times: int = 1) -> Order:
            assert isinstance(order, Order)
            return Order(number=order.number * times, note=extra.note if extra else None)

        assert job.apply(({"number": 2},), {"times": 3}).get() == {"number": 6, "note": None}
        assert job.apply(({"number": 2}, {"number": 1, "note": "n"})).get() == {"number": 2, "note": "n"}
        assert job.apply(({"number": "many"},)).state == "FAILURE"
        job.delay(Order(number=5), times=2)
        assert split_body(desk.one())[:2] == ([{"number": 5, "note": None}], {"times": 2})

    def test_strictness_context_and_bound_tasks(self, app: Celery) -> None:
        @app.task(pydantic=True, pydantic_strict=True, bind=True)
        def strict(self: Any, order: Order) -> Order:
            return order

        assert strict.apply(({"number": "7"},)).state == "FAILURE"
        assert strict.apply(({"number": 7},)).get()["number"] == 7  # type: ignore[index]
