"""The tracer through the runner: an envelope in, an outcome out."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery import Celery, Task, signals, states
from celery.app import trace
from celery.app.runner import Runner, make_runner, writer_of
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.utils import uuid
from celery.wire.message import Job, Outcome, Outgoing
from celery.wire.protocol import decode_envelope, encode_envelope, peek, split_body
from celery.wire.serialization import decode_json, dumps

SIGNALS = (
    "task_prerun", "task_postrun", "task_success", "task_retry", "task_failure", "task_internal_error",
)  # fmt: skip


class Alone(Celery):
    """An app that does not share its tasks with the apps of other tests."""

    def task(self, *args: Any, **options: Any) -> Any:
        return super().task(*args, **{**options, "shared": False})


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid()
    app = Alone("traced", broker=f"memory://{name}", backend=f"memory://{name}", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What the signals said, in order."""
    found: list[tuple[str, dict[str, Any]]] = []

    def listen(name: str) -> Callable[..., None]:
        def receiver(**named: Any) -> None:
            del named["signal"]
            found.append((name, named))

        return receiver

    receivers = {name: listen(name) for name in SIGNALS}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    yield found
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def envelope(app: Celery, task: Any, *args: Any, **options: Any) -> Outgoing:
    return app.amqp.outgoing(task if isinstance(task, str) else task.name, args, {}, **options)


def run(app: Celery, task: Any, *args: Any, **options: Any) -> Outcome:
    options.setdefault("task_id", "id-1")
    return make_runner(app, "w@h")(Job(7, envelope(app, task, *args, **options).envelope))


def stored(app: Celery, outcome: Outcome) -> dict[str, Any]:
    """The first result of an outcome, after it was stored."""
    app.backend.store.put(outcome.records)
    meta: dict[str, Any] = app.backend.get_task_meta("id-1")
    return meta


def loud(app: Celery, calls: list[tuple[Any, ...]]) -> type[Task[..., Any]]:
    """A base class whose handlers say that they were called."""

    class Loud(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def before_start(self, *args: Any) -> None:
            calls.append(("before_start", *args))

        def on_success(self, *args: Any) -> None:
            calls.append(("on_success", *args))

        def on_retry(self, *args: Any) -> None:
            calls.append(("on_retry", *args))

        def on_failure(self, *args: Any) -> None:
            calls.append(("on_failure", *args))

        def after_return(self, *args: Any) -> None:
            calls.append(("after_return", *args))

    return Loud


def unencodable() -> object:
    return object()


# -- success -----------------------------------------------------------------------------------------------------------


def test_a_success_is_an_outcome_with_its_record(app: Celery) -> None:
    add = app.task(lambda x, y: x + y, name="add")

    outcome = run(app, add, 2, 3, group_id="G", parent_id="P")

    assert (outcome.tag, outcome.state, outcome.detail, outcome.internal) == (7, states.SUCCESS, "5", False)
    assert outcome.runtime >= 0
    [record] = outcome.records
    assert (record.key, record.state, record.ttl) == ("celery-task-meta-id-1", states.SUCCESS, 86400)
    assert record.writer
    meta = decode_json(record.value)
    date = meta.pop("date_done")
    assert date.endswith("+00:00")
    assert meta == {
        "status": "SUCCESS", "result": 5, "traceback": None, "children": [], "group_id": "G", "parent_id": "P",
        "task_id": "id-1",
    }  # fmt: skip


def test_handlers_and_signals_come_in_order(app: Celery, heard: list[tuple[str, dict[str, Any]]]) -> None:
    calls: list[tuple[Any, ...]] = []
    task = app.task(lambda x: x, name="t", base=loud(app, calls))
    for name in ("task_prerun", "task_success", "task_postrun"):
        getattr(signals, name).connect(
            lambda **said: calls.append((said["signal"].name,)), weak=False, dispatch_uid=name
        )
    try:
        run(app, task, 1)
    finally:
        for name in ("task_prerun", "task_success", "task_postrun"):
            getattr(signals, name).disconnect(dispatch_uid=name)

    assert [call[0] for call in calls] == [
        "task_prerun", "before_start", "on_success", "task_success", "after_return", "task_postrun",
    ]  # fmt: skip
    assert calls[1][1:] == ("id-1", [1], {})
    assert calls[2][1:] == (1, "id-1", [1], {})
    assert calls[4][1:] == (states.SUCCESS, 1, "id-1", [1], {}, None)
    said = dict(heard)
    assert said["task_prerun"] == {"sender": task, "task_id": "id-1", "task": task, "args": [1], "kwargs": {}}
    assert said["task_success"].keys() == {"sender", "result", "runtime"}
    assert said["task_postrun"]["state"] == states.SUCCESS
    assert said["task_postrun"]["retval"] == 1


def test_nothing_is_stored_of_an_ignored_result(app: Celery) -> None:
    quiet = app.task(lambda: 1, name="quiet", ignore_result=True)
    loud_task = app.task(lambda: 1, name="loud")

    assert run(app, quiet).records == ()
    assert run(app, loud_task, ignore_result=True).records == ()
    assert len(run(app, quiet, ignore_result=False).records) == 1


def test_errors_of_an_ignored_result_are_stored_on_demand(app: Celery) -> None:
    def boom() -> None:
        raise ValueError

    assert run(app, app.task(boom, name="a", ignore_result=True)).records == ()
    kept = app.task(boom, name="b", ignore_result=True, store_errors_even_if_ignored=True)
    assert run(app, kept).records[0].state == states.FAILURE


def test_the_task_sees_its_message(app: Celery) -> None:
    seen: list[Any] = []

    def look(self: Task[..., Any]) -> None:
        seen.append(self.request)
        assert app.current_task is self
        assert app.current_worker_task is self

    run(app, app.task(look, bind=True, name="look"), headers={"mine": 1}, priority=3, retries=2)

    [request] = seen
    assert (request.id, request.mine, request.headers, request.retries) == ("id-1", 1, {"mine": 1}, 2)
    assert (request.hostname, request.called_directly, request.is_eager) == ("w@h", False, False)
    assert request.delivery_info["routing_key"] == "celery"
    assert request.delivery_info["priority"] == 3
    assert app.current_task is None


def test_waiting_for_results_is_refused_in_a_task(app: Celery) -> None:
    def wait() -> None:
        app.AsyncResult("other").get()

    outcome = run(app, app.task(wait, name="wait"))

    assert outcome.state == states.FAILURE
    assert "Never call result.get() within a task!" in outcome.detail


def test_what_the_task_sends_is_in_its_children(app: Celery) -> None:
    child = app.task(lambda: None, name="child")

    def parent() -> None:
        child.apply_async(task_id="child-id")

    outcome = run(app, app.task(parent, name="parent"))

    assert decode_json(outcome.records[0].value)["children"] == [[["child-id", None], None]]
    assert outcome.messages == ()


def test_update_state_is_stored_at_once_and_success_replaces_it(app: Celery) -> None:
    seen: list[Any] = []

    def work(self: Task[..., Any]) -> int:
        self.update_state(state="PROGRESS", meta={"done": 1})
        seen.append(app.AsyncResult("id-1").state)
        self.update_state(state=states.FAILURE, meta=ValueError("interim"))
        return 5

    outcome = run(app, app.task(work, bind=True, name="work"))

    assert seen == ["PROGRESS"]
    assert stored(app, outcome)["result"] == 5


# -- failure -----------------------------------------------------------------------------------------------------------


def test_a_failure_is_an_outcome_with_its_record(
    app: Celery, heard: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[Any, ...]] = []

    def boom() -> None:
        raise ValueError("a", 2)

    outcome = run(app, app.task(boom, name="boom", base=loud(app, calls)))

    assert (outcome.state, outcome.detail, outcome.requeue) == (states.FAILURE, "ValueError('a', 2)", False)
    assert outcome.traceback.startswith("Traceback")
    assert "in boom" in outcome.traceback
    meta = decode_json(outcome.records[0].value)
    assert meta["result"] == {"exc_type": "ValueError", "exc_message": ["a", 2], "exc_module": "builtins"}
    assert meta["traceback"] == outcome.traceback
    assert [call[0] for call in calls] == ["before_start", "on_failure", "after_return"]
    exc, task_id, args, kwargs, einfo = calls[1][1:]
    assert (repr(exc), task_id, args, kwargs, einfo.exception) == ("ValueError('a', 2)", "id-1", [], {}, exc)
    assert calls[2][1:3] == (states.FAILURE, exc)
    assert [name for name, _ in heard] == ["task_prerun", "task_failure", "task_postrun"]
    said = dict(heard)["task_failure"]
    assert said.keys() == {"sender", "task_id", "exception", "args", "kwargs", "traceback", "einfo"}
    assert "Task boom[id-1] raised unexpected: ValueError('a', 2)" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR
    assert caplog.records[-1].exc_info


def test_a_failure_that_was_announced_is_logged_quietly(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    def boom() -> None:
        raise KeyError("k")

    with caplog.at_level(logging.INFO, "celery.app.trace"):
        outcome = run(app, app.task(boom, name="boom", throws=(KeyError,)))

    [record] = [record for record in caplog.records if "raised expected" in record.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert outcome.state == states.FAILURE


def test_a_result_that_cannot_be_encoded_is_a_failure(app: Celery) -> None:
    outcome = run(app, app.task(unencodable, name="unencodable"))

    assert outcome.state == states.FAILURE
    assert len(outcome.records) == 1
    assert "EncodeError" in outcome.detail
    assert stored(app, outcome)["status"] == states.FAILURE


def test_an_exception_that_cannot_be_encoded_is_stored_as_its_repr(app: Celery) -> None:
    def boom() -> None:
        raise ValueError(object())

    meta = stored(app, run(app, app.task(boom, name="boom")))

    assert "object object at" in meta["result"].args[0]


def test_a_soft_time_limit_is_a_failure(app: Celery) -> None:
    def slow() -> None:
        raise SoftTimeLimitExceeded(3)

    outcome = run(app, app.task(slow, name="slow"))

    assert (outcome.state, outcome.detail) == (states.FAILURE, "SoftTimeLimitExceeded(3)")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_is_raised(
    app: Celery, kind: type[BaseException], heard: list[tuple[str, dict[str, Any]]]
) -> None:
    def leave() -> None:
        raise kind

    with pytest.raises(kind):
        run(app, app.task(leave, name="leave"))

    assert dict(heard)["task_postrun"]["state"] is None
    assert app.current_task is None


def test_the_success_line(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "celery.app.trace"):
        run(app, app.task(lambda: "x" * 3000, name="t", resultrepr_maxsize=10), shadow="nick")

    [record] = caplog.records
    assert record.getMessage().startswith("Task nick[id-1] succeeded in ")
    assert record.getMessage().endswith("s: 'xxxxxxxxxx...'")
    assert record.data["id"] == "id-1"  # type: ignore[attr-defined]


# -- retry, ignore, reject ---------------------------------------------------------------------------------------------


def test_a_retry_sends_its_message_with_the_settlement(
    app: Celery, heard: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[Any, ...]] = []

    def again(self: Task[..., Any]) -> None:
        raise self.retry(exc=ValueError("q"), countdown=3)

    with caplog.at_level(logging.INFO, "celery.app.trace"):
        outcome = run(app, app.task(again, bind=True, name="again", base=loud(app, calls)))

    assert outcome.state == states.RETRY
    [message] = outcome.messages
    head = peek(message.envelope)
    assert (head.id, head.retries, head.task) == ("id-1", 1, "again")
    assert message.due is not None
    meta = decode_json(outcome.records[0].value)
    assert (meta["status"], meta["date_done"]) == (states.RETRY, None)
    assert meta["result"]["exc_type"] == "ValueError"
    assert [call[0] for call in calls] == ["before_start", "on_retry"]
    assert repr(calls[1][1]) == "ValueError('q')"
    assert dict(heard)["task_retry"].keys() == {"sender", "request", "reason", "einfo"}
    assert "Task again[id-1] retry: Retry in 3s: ValueError('q')" in caplog.text
    assert app.broker.stats() == [] or app.broker.stats()[0].ready == 0


def test_retries_end(app: Celery) -> None:
    def again(self: Task[..., Any]) -> None:
        self.retry(exc=ValueError("q"))

    outcome = run(app, app.task(again, bind=True, name="again", max_retries=2), retries=2)

    assert (outcome.state, outcome.messages, outcome.detail) == (states.FAILURE, (), "ValueError('q')")


def test_an_ignored_task_stores_nothing(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    def ignored() -> None:
        raise Ignore

    with caplog.at_level(logging.INFO, "celery.app.trace"):
        outcome = run(app, app.task(ignored, name="i"))

    assert (outcome.state, outcome.records) == (states.IGNORED, ())
    assert "Task i[id-1] ignored" in caplog.text


@pytest.mark.parametrize("requeue", [True, False])
def test_a_rejected_task(app: Celery, requeue: bool, caplog: pytest.LogCaptureFixture) -> None:
    def rejected() -> None:
        raise Reject("why", requeue=requeue)

    outcome = run(app, app.task(rejected, name="r"))

    assert (outcome.state, outcome.requeue, outcome.records, outcome.internal) == (states.REJECTED, requeue, (), False)
    assert f"Task r[id-1] reject requeue={requeue}: why" in caplog.text


# -- follow-ups --------------------------------------------------------------------------------------------------------


def test_callbacks_travel_in_the_outcome_with_ids_that_do_not_change(app: Celery) -> None:
    task = app.task(lambda: 5, name="t")
    after = app.task(lambda x: x, name="after")

    sent = envelope(app, task, link=[after.s(), after.si(1)], task_id="id-1", root_id="R")
    runner = make_runner(app, "w@h")
    outcome, again = runner(Job(1, sent.envelope)), runner(Job(2, sent.envelope))

    heads = [peek(message.envelope) for message in outcome.messages]
    assert [head.task for head in heads] == ["after", "after"]
    assert {(head.parent_id, head.root_id) for head in heads} == {("id-1", "R")}
    assert [split_body(decode_envelope(message.envelope))[0] for message in outcome.messages] == [[5], [1]]
    assert [message.task_id for message in outcome.messages] == [message.task_id for message in again.messages]
    assert len({message.task_id for message in outcome.messages}) == 2
    children = decode_json(outcome.records[0].value)["children"]
    [[[group_id, _], members]] = children
    assert [member[0][0] for member in members] == [message.task_id for message in outcome.messages]
    assert {head.group for head in heads} == {group_id}


def test_the_next_task_of_a_chain_gets_the_rest_of_it(app: Celery) -> None:
    task = app.task(lambda: 5, name="t")
    after = app.task(lambda x: x, name="after")
    chain = [after.s().set(task_id="third"), after.s().set(task_id="second")]

    outcome = run(app, task, chain=chain)

    [message] = outcome.messages
    assert message.task_id == "second"
    args, _, embed = split_body(decode_envelope(message.envelope))
    assert args == [5]
    assert [element["options"]["task_id"] for element in embed["chain"]] == ["third"]


def test_a_failure_fails_the_rest_of_its_chain(app: Celery) -> None:
    def boom() -> None:
        raise ValueError("x")

    after = app.task(lambda x: x, name="after")
    chain = [after.s().set(task_id="third"), after.s().set(task_id="second")]

    outcome = run(app, app.task(boom, name="boom"), chain=chain)

    assert outcome.messages == ()
    assert [record.key.rpartition("-")[2] for record in outcome.records] == ["1", "second", "third"]
    assert {record.state for record in outcome.records} == {states.FAILURE}


def test_error_callbacks_by_arity(app: Celery) -> None:
    called: list[Any] = []
    old = app.task(lambda task_id: None, name="old")
    new = app.task(lambda request, exc, traceback: called.append((request.id, exc, traceback)), name="new")

    def boom() -> None:
        raise ValueError("x")

    outcome = run(app, app.task(boom, name="boom"), link_error=[old.s(), new.s()])

    [message] = outcome.messages
    assert peek(message.envelope).task == "old"
    assert split_body(decode_envelope(message.envelope))[0] == ["id-1"]
    [(task_id, exc, traceback)] = called
    assert (task_id, repr(exc)) == ("id-1", "ValueError('x')")
    assert traceback == outcome.traceback


def test_an_error_callback_that_fails_changes_nothing(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    def boom(*args: Any) -> None:
        raise ValueError("x")

    bad = app.task(lambda request, exc, traceback: 1 / 0, name="bad")

    outcome = run(app, app.task(boom, name="boom"), link_error=bad.s())

    assert (outcome.state, outcome.internal, len(outcome.records)) == (states.FAILURE, False, 1)
    assert "so did its error callback bad" in caplog.text


def test_what_cannot_be_sent_on_is_a_failure_that_sends_nothing(app: Celery) -> None:
    task = app.task(unencodable, name="t", ignore_result=True)
    after = app.task(lambda x: x, name="after")

    outcome = run(app, task, link=[after.si(1), after.s()])

    assert (outcome.state, outcome.messages) == (states.FAILURE, ())


# -- what the tracer itself does wrong ---------------------------------------------------------------------------------


def test_a_handler_that_raises_is_an_internal_error(
    app: Celery, heard: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def on_failure(self, *args: Any) -> None:
            raise LookupError("handler")

    outcome = run(app, app.task(lambda: 1 / 0, name="t", base=Bad))

    assert (outcome.internal, outcome.state) == (True, states.FAILURE)
    assert [record.state for record in outcome.records] == [states.FAILURE]
    said = dict(heard)["task_internal_error"]
    assert said.keys() == {"sender", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"}
    assert "INTERNAL ERROR" in caplog.text


@pytest.mark.parametrize("handler", ["on_success", "after_return"])
def test_a_handler_that_raises_when_the_task_has_ended_is_logged(
    app: Celery, handler: str, heard: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any, *args: Any) -> None:
        raise LookupError("handler")

    bad = type("Bad", (app.Task,), {"abstract": True, handler: fail})

    outcome = run(app, app.task(lambda: 1, name="t", base=bad))

    assert (outcome.internal, outcome.state, outcome.detail) == (False, states.SUCCESS, "1")
    assert [said["state"] for name, said in heard if name == "task_postrun"] == [states.SUCCESS]
    assert f"Task t[id-1] {handler} handler raised: LookupError('handler')" in caplog.text


def test_before_start_that_raises_fails_the_task(app: Celery) -> None:
    class Bad(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def before_start(self, *args: Any) -> None:
            raise LookupError("no")

    assert run(app, app.task(lambda: 1, name="t", base=Bad)).detail == "LookupError('no')"


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_a_coroutine_function_is_a_task(app: Celery) -> None:
    loops: list[Any] = []

    async def work(self: Task[..., Any], x: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        assert app.current_task is self
        return x + 1

    task = app.task(work, bind=True, name="work")
    assert [run(app, task, number).detail for number in range(2)] == ["1", "2"]
    assert loops[0] is loops[1]


def test_a_coroutine_that_raises(app: Celery) -> None:
    async def boom() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    outcome = run(app, app.task(boom, name="boom"))

    assert (outcome.state, outcome.detail) == (states.FAILURE, "ValueError('x')")
    assert "in boom" in outcome.traceback


@pytest.mark.parametrize("where", ["in a callback of the loop", "while the loop waits"])
def test_a_soft_time_limit_strikes_inside_a_waiting_coroutine(app: Celery, where: str) -> None:
    """As the signal handler of a pool does it: the exception is raised in whatever this thread does."""
    caught: list[BaseException] = []
    waiting = threading.Event()
    here = threading.get_ident()

    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded(1)

    def strike_from_outside() -> None:
        assert waiting.wait(30)
        signal.pthread_kill(here, signal.SIGUSR2)

    async def wait_for_ever() -> str:
        loop = asyncio.get_running_loop()
        if where == "in a callback of the loop":
            loop.call_soon(signal.raise_signal, signal.SIGUSR2)
        else:
            loop.call_soon(waiting.set)
        try:
            await loop.create_future()
        except SoftTimeLimitExceeded as exc:
            caught.append(exc)
            await asyncio.sleep(0)
            return "cleaned up"
        return "never"

    before = signal.signal(signal.SIGUSR2, strike)
    outside = threading.Thread(target=strike_from_outside)
    outside.start()
    try:
        outcome = run(app, app.task(wait_for_ever, name="wait"))
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # first: who is let go now sends one that is too late
        waiting.set()
        outside.join()
        signal.signal(signal.SIGUSR2, before)

    assert (outcome.state, outcome.detail, len(caught)) == (states.SUCCESS, "'cleaned up'", 1)


def test_a_coroutine_that_ends_the_process_is_cancelled(app: Celery) -> None:
    cancelled: list[str] = []

    async def leave() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(sys.exit)
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise

    with pytest.raises(SystemExit):
        run(app, app.task(leave, name="leave"))
    assert cancelled == ["yes"]

    async def fine() -> int:
        return 1

    assert run(app, app.task(fine, name="fine")).detail == "1"


def test_the_async_driver_runs_many_at_once(app: Celery) -> None:
    together = asyncio.Event()
    running: list[int] = []

    async def work(number: int) -> int:
        running.append(number)
        if len(running) == 3:
            together.set()
        await together.wait()
        return number

    task = app.task(work, name="work")
    tracer = trace.build_tracer(task.name, task, app.loader, "w@h", app=app)

    async def main() -> list[Any]:
        return await asyncio.gather(*(tracer.run_async(f"id-{n}", [n], {}, {"id": f"id-{n}"}) for n in range(3)))

    assert [traced.retval for traced in asyncio.run(main())] == [0, 1, 2]
    assert [app.AsyncResult(f"id-{n}").get() for n in range(3)] == [0, 1, 2]


def test_an_eager_coroutine_inside_a_running_loop(app: Celery) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    task = app.task(work, name="work")

    async def main() -> Any:
        return task.apply().get()

    assert asyncio.run(main()) == 3


# -- monitoring packages -----------------------------------------------------------------------------------------------


def test_build_tracer_is_looked_up_on_the_module_and_may_change_the_task(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    original = trace.build_tracer

    def build(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
        run_before = task.run
        task.run = lambda *a, **k: run_before(*a, **k) + 1
        tracer = original(name, task, *args, **kwargs)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append((args[0], args[1], args[2], args[3].get("headers")))
            return tracer(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(trace, "build_tracer", build)
    outcome = run(app, app.task(lambda: 1, name="t"), headers={"sentry": 1})

    assert outcome.detail == "2"
    assert seen == [("id-1", [], {}, {"sentry": 1})]


def test_a_custom_call_is_used(app: Celery) -> None:
    class Wrapped(app.Task):  # type: ignore[misc, name-defined]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ("called", self.request.id, self.run(*args, **kwargs))

    task = app.task(lambda: 1, name="t", base=Wrapped)
    assert trace.task_has_custom(task, "__call__")
    assert not trace.task_has_custom(task, "on_failure")
    assert decode_json(run(app, task).records[0].value)["result"] == ["called", "id-1", 1]


def test_the_tracer_takes_a_mapping_and_stores_at_once(app: Celery) -> None:
    task = app.task(lambda x: x, name="t")
    tracer = trace.build_tracer(task.name, task, app=app)

    traced = tracer("id-9", (3,), {}, {"id": "id-9", "delivery_info": {}})

    assert (traced.retval, traced.info, traced.retstr) == (3, None, "3")
    assert app.AsyncResult("id-9").get() == 3
    assert trace.trace_task(task, "id-8", (4,), {}, {"id": "id-8"}, app=app).retval == 4


# -- eager -------------------------------------------------------------------------------------------------------------


def test_apply_runs_the_handlers_and_stores_nothing(app: Celery) -> None:
    calls: list[tuple[Any, ...]] = []
    task = app.task(lambda x: x, name="t", base=loud(app, calls))

    result = task.apply((2,), task_id="eager")

    assert (result.get(), result.state) == (2, states.SUCCESS)
    assert [call[0] for call in calls] == ["before_start", "on_success", "after_return"]
    assert app.AsyncResult("eager").state == states.PENDING


def test_eager_results_are_stored_on_demand(app: Celery) -> None:
    task = app.task(lambda x: 1 / x, name="t", store_eager_result=True)

    task.apply((1,), task_id="good")
    task.apply((0,), task_id="bad")

    assert app.AsyncResult("good").get() == 1.0
    assert app.AsyncResult("bad").state == states.FAILURE


def test_apply_can_raise(app: Celery) -> None:
    task = app.task(lambda: 1 / 0, name="t")
    with pytest.raises(ZeroDivisionError):
        task.apply(throw=True)
    result = task.apply()
    assert (result.state, "ZeroDivisionError" in (result.traceback or "")) == (states.FAILURE, True)


# -- messages that nobody can run --------------------------------------------------------------------------------------


def test_an_unknown_task_is_refused_and_its_result_says_why(app: Celery) -> None:
    outcome = run(app, "no.such.task")

    assert (outcome.state, outcome.internal) == (states.REJECTED, True)
    assert "no.such.task" in outcome.detail
    assert stored(app, outcome)["result"].__class__.__name__ == "NotRegistered"


def test_bytes_that_are_no_message_are_refused(app: Celery) -> None:
    outcome = make_runner(app, "w@h")(Job(3, b"nonsense"))

    assert (outcome.tag, outcome.state, outcome.internal, outcome.records) == (3, states.REJECTED, True, ())
    assert outcome.detail


def test_a_content_type_that_is_not_accepted_is_refused(app: Celery) -> None:
    task = app.task(lambda: 1, name="t")
    outcome = run(app, task, serializer="pickle")

    assert (outcome.state, outcome.internal) == (states.REJECTED, True)
    assert "pickle" in outcome.detail or "python-serialize" in outcome.detail


def test_a_message_of_protocol_1_runs(app: Celery) -> None:
    seen: list[Any] = []

    def old(self: Task[..., Any], x: int) -> int:
        seen.append((self.request.id, self.request.retries, self.request.root_id))
        return x

    app.task(old, bind=True, name="old")
    app.conf.task_protocol = 1

    outcome = run(app, "old", 3, retries=1)

    assert (outcome.state, outcome.detail, seen) == (states.SUCCESS, "3", [("id-1", 1, "id-1")])


def test_a_message_that_somebody_else_received(app: Celery) -> None:
    task = app.task(lambda x: 6 / x, name="t")

    def received(x: int) -> tuple[int, Any, Any]:
        body = dumps([[x], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        return trace.trace_task_ret(task.name, "id-1", {"id": "id-1"}, body[2], body[0], body[1], app=app)

    assert received(2)[:2] == (0, "3.0")
    assert app.AsyncResult("id-1").get() == 3.0
    failed, einfo, _ = received(0)
    assert (failed, repr(einfo)) == (1, "<ExceptionInfo: ZeroDivisionError('division by zero')>")


def test_arguments_that_no_result_can_hold_do_not_cost_the_result(app: Celery) -> None:
    app.conf.update(result_extended=True, accept_content=["pickle", "json"])
    task = app.task(lambda x: 1, name="t")

    outcome = run(app, task, {1, 2}, serializer="pickle")

    assert (outcome.state, stored(app, outcome)["args"]) == (states.SUCCESS, "({1, 2},)")


def test_arguments_that_do_not_fit_are_a_failure(app: Celery) -> None:
    task = app.task(lambda x: x, name="t", typing=False)

    outcome = run(app, task)

    assert outcome.state == states.FAILURE
    assert "TypeError" in outcome.detail


def test_the_writer_names_the_message(app: Celery) -> None:
    task = app.task(lambda: 1, name="t")
    sent = envelope(app, task, task_id="id-1")
    head = peek(sent.envelope)

    [record] = make_runner(app, "w@h")(Job(1, sent.envelope)).records

    assert record.writer == writer_of(head) == head.delivery_tag
    message = decode_envelope(sent.envelope)
    message.headers["replays"] = 1
    replayed = peek(encode_envelope(message))
    assert writer_of(replayed) != writer_of(head)


def test_a_runner_is_made_for_an_app(app: Celery) -> None:
    assert isinstance(make_runner(app, "w@h"), Runner)
