"""Results as a program sees them, over the memory store."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, states
from celery.app.context import Context
from celery.exceptions import IncompleteStream, TimeoutError  # noqa: A004 - the public name
from celery.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)
from celery.utils import uuid
from celery.wire.errors import RemoteTraceback


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid()
    app = Celery("results", broker=f"memory://{name}", backend=f"memory://{name}", set_as_current=False)
    yield app
    app.close()


def succeed(app: Celery, value: Any, **fields: Any) -> AsyncResult[Any]:
    result: AsyncResult[Any] = app.AsyncResult(uuid())
    app.backend.mark_as_done(result.id, value)
    return result


def fail(app: Celery, exc: BaseException, traceback: str = "TB") -> AsyncResult[Any]:
    result: AsyncResult[Any] = app.AsyncResult(uuid())
    app.backend.mark_as_failure(result.id, exc, traceback)
    return result


def test_nothing_is_known_of_an_unknown_id(app: Celery) -> None:
    result = app.AsyncResult("unknown")

    assert (result.state, result.result, result.children, result.date_done) == (states.PENDING, None, None, None)
    assert not result.ready()
    assert not result.exists()


def test_a_success_is_returned(app: Celery) -> None:
    result = succeed(app, {"x": [1, 2]})

    assert result.get() == {"x": [1, 2]}
    assert (result.state, result.successful(), result.failed(), result.exists()) == (states.SUCCESS, True, False, True)
    assert result.date_done is not None
    assert result.date_done.utcoffset() is not None


def test_a_failure_is_raised_with_its_type_and_its_remote_traceback(app: Celery) -> None:
    result = fail(app, KeyError("k", 2), "Traceback: there")

    with pytest.raises(KeyError) as raised:
        result.get()

    assert raised.value.args == ("k", 2)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "Traceback: there" in str(raised.value.__cause__)
    assert isinstance(result.get(propagate=False), KeyError)
    assert result.traceback == "Traceback: there"


def test_get_times_out(app: Celery) -> None:
    with pytest.raises(TimeoutError):
        app.AsyncResult("never").get(timeout=0.01)


def test_get_is_woken_by_the_store_long_before_it_would_look_again(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    reached = threading.Event()

    def write() -> None:
        assert reached.wait(30)
        app.backend.mark_as_done(result.id, 7)

    writer = threading.Thread(target=write)
    writer.start()
    reached.set()
    assert result.get(timeout=60, interval=1000) == 7
    writer.join()


def test_callbacks_of_get(app: Celery) -> None:
    heard: list[Any] = []
    result = succeed(app, 1)

    assert result.get(callback=lambda task_id, value: heard.append((task_id, value)), on_message=heard.append) == 1

    assert heard[0]["status"] == states.SUCCESS
    assert heard[1] == (result.id, 1)


def test_get_raises_what_a_parent_raised(app: Celery) -> None:
    child = app.AsyncResult(uuid(), parent=fail(app, ValueError("before")))

    with pytest.raises(ValueError, match="before"):
        child.get(timeout=5)


def test_get_is_refused_inside_a_task(app: Celery) -> None:
    result = succeed(app, 1)
    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!"):
            result.get()
        assert result.get(disable_sync_subtasks=False) == 1
        with allow_join_result():
            assert result.get() == 1
        with pytest.raises(RuntimeError):
            assert_will_not_block()
    assert_will_not_block()


def test_the_first_success_stays(app: Celery) -> None:
    result = succeed(app, 1)
    app.backend.mark_as_failure(result.id, ValueError("late"))
    app.backend.mark_as_retry(result.id, ValueError("late"))

    assert result.get() == 1


def test_a_failure_that_a_program_stored_can_be_replaced(app: Celery) -> None:
    result = fail(app, ValueError("x"))
    app.backend.mark_as_done(result.id, 5)

    assert app.AsyncResult(result.id).get() == 5


def test_forget_deletes(app: Celery) -> None:
    result = succeed(app, 1)
    assert result.get() == 1
    result.forget()
    assert result.state == states.PENDING


def test_then_is_called_when_a_final_state_is_read(app: Celery) -> None:
    heard: list[Any] = []
    result = app.AsyncResult(uuid())
    result.then(heard.append)
    assert not heard
    app.backend.mark_as_done(result.id, 1)
    result.get()
    assert heard == [result]
    result.then(heard.append)
    assert heard == [result, result]
    failed = fail(app, ValueError())
    failed.get(propagate=False)
    failed.then(heard.append, on_error=heard.append)
    assert heard[2:] == [failed.result]


def test_children_graph_and_collect(app: Celery) -> None:
    leaf = succeed(app, "leaf")
    root = app.AsyncResult(uuid())
    app.backend.store_result(root.id, "root", states.SUCCESS, request=Context(id=root.id, _children=[leaf]))

    assert root.children == [leaf]
    assert list(root.collect()) == [(root, "root"), (leaf, "leaf")]
    assert root.get_leaf() == "leaf"
    assert list(root.iterdeps()) == [(None, root), (root, leaf)]
    assert list(root.graph) == list(root.build_graph())
    assert leaf in root.graph[root]


def test_iterdeps_needs_tasks_that_have_ended(app: Celery) -> None:
    result = app.AsyncResult(uuid())
    with pytest.raises(IncompleteStream):
        list(result.iterdeps())
    assert list(result.iterdeps(intermediate=True)) == [(None, result)]


def test_tuples_lists_and_equality(app: Celery) -> None:
    parent = app.AsyncResult("p0")
    result = app.AsyncResult("p1", parent=parent)

    assert result.as_tuple() == (("p1", (("p0", None), None)), None)
    assert result.as_list() == ["p1", "p0"]
    restored = result_from_tuple(result.as_tuple(), app)
    assert restored == result
    assert restored.parent == parent
    assert result == "p1"
    assert hash(result) == hash("p1")
    assert (str(result), repr(result)) == ("p1", "<AsyncResult: p1>")
    group = result_from_tuple((("G", None), [(("a", None), None)]), app)
    assert isinstance(group, GroupResult)
    assert group.as_tuple() == (("G", None), [(("a", None), None)])
    assert result_from_tuple(result, app) is result


def test_an_id_is_needed(app: Celery) -> None:
    with pytest.raises(ValueError, match="needs the id"):
        app.AsyncResult(None)  # type: ignore[arg-type]


def test_extended_fields(app: Celery) -> None:
    app.conf.result_extended = True
    request = Context(
        id="e", args=[1], kwargs={"k": 2}, task="name", hostname="w@h", retries=2, parent_id="P", group="G",
        delivery_info={"routing_key": "q"}, stamped_headers=["s"], stamps={"s": 1},
    )  # fmt: skip
    app.backend.store_result("e", 1, states.SUCCESS, request=request)

    result = app.AsyncResult("e")
    assert (result.name, result.args, result.kwargs, result.worker, result.retries, result.queue) == (
        "name", [1], {"k": 2}, "w@h", 2, "q",
    )  # fmt: skip
    meta = app.backend.get_task_meta("e")
    assert (meta["parent_id"], meta["group_id"], meta["stamped_headers"], meta["s"]) == ("P", "G", ["s"], 1)


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_aget_waits_without_blocking_the_loop(app: Celery) -> None:
    results = [app.AsyncResult(uuid()) for _ in range(50)]

    async def main() -> list[Any]:
        waiting = [asyncio.ensure_future(result.aget(timeout=30)) for result in results]
        await asyncio.sleep(0)
        for number, result in enumerate(results):
            await asyncio.to_thread(app.backend.mark_as_done, result.id, number)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == list(range(50))


def test_aget_raises_failures_and_times_out(app: Celery) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await fail(app, ZeroDivisionError()).aget(timeout=30)
        with pytest.raises(TimeoutError):
            await app.AsyncResult("never").aget(timeout=0.01)
        assert await succeed(app, 3).aget(timeout=30) == 3

    asyncio.run(main())


def test_the_watching_thread_ends_when_nobody_waits(app: Celery) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await app.AsyncResult("never").aget(timeout=0.01)

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "celery-results":
            thread.join(10)
            assert not thread.is_alive()


# -- eager -------------------------------------------------------------------------------------------------------------


def test_eager_results() -> None:
    result: EagerResult[int] = EagerResult("i", 3, states.SUCCESS, name="n")
    assert (result.get(), result.state, result.name, result.ready(), repr(result)) == (
        3, states.SUCCESS, "n", True, "<EagerResult: i>",
    )  # fmt: skip
    assert result.as_tuple() == (("i", None), None)
    assert asyncio.run(result.aget()) == 3
    assert pickle.loads(pickle.dumps(result)).get() == 3
    failed: EagerResult[int] = EagerResult("i", ValueError("x"), states.FAILURE, traceback="TB")
    assert (failed.traceback, failed.failed()) == ("TB", True)
    assert isinstance(failed.get(propagate=False), ValueError)
    with pytest.raises(ValueError, match="x"):
        failed.get()
    result.revoke()
    assert result.state == states.REVOKED
    result.forget()


# -- sets and groups ---------------------------------------------------------------------------------------------------


def test_a_set_is_read_in_one_step(app: Celery) -> None:
    results = ResultSet([succeed(app, number) for number in range(3)], app=app)

    assert results.supports_native_join
    assert results.get() == results.join() == results.join_native() == [0, 1, 2]
    assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (True, True, False, False)
    assert results.completed_count() == len(results) == 3
    assert sorted(meta["result"] for _, meta in results.iter_native()) == [0, 1, 2]


def test_join_of_a_set_waits_and_raises(app: Celery) -> None:
    pending = app.AsyncResult(uuid())
    results = ResultSet([succeed(app, 1), pending], app=app)
    with pytest.raises(TimeoutError):
        results.get(timeout=0.01)
    app.backend.mark_as_failure(pending.id, LookupError("x"))
    with pytest.raises(LookupError):
        results.get(timeout=5)
    assert repr(results.get(propagate=False)) == "[1, LookupError('x')]"
    with pytest.raises(LookupError):
        results.maybe_throw()


def test_a_set_joined_with_a_callback_returns_nothing(app: Celery) -> None:
    heard: list[Any] = []
    results = ResultSet([succeed(app, 1)], app=app)
    assert results.get(callback=lambda task_id, value: heard.append(value)) is None
    assert heard == [1]


def test_members_of_a_set(app: Celery) -> None:
    a, b = app.AsyncResult("a"), app.AsyncResult("b")
    results = ResultSet([a], app=app)
    results.add(a)
    results.update([a, b])
    assert list(results) == [a, b]
    results.remove("a")
    with pytest.raises(KeyError):
        results.remove("a")
    results.discard("a")
    assert results[0] == b
    results.clear()
    assert len(results) == 0


def test_aget_of_a_set(app: Celery) -> None:
    results = ResultSet([succeed(app, number) for number in range(3)], app=app)
    assert asyncio.run(results.aget(timeout=30)) == [0, 1, 2]


def test_then_of_a_set(app: Celery) -> None:
    heard: list[Any] = []
    members = [app.AsyncResult(uuid()) for _ in range(2)]
    results = ResultSet(members, app=app)
    results.then(heard.append)
    for member in members:
        app.backend.mark_as_done(member.id, 1)
    members[0].get()
    assert not heard
    members[1].get()
    assert heard == [results]


def test_groups_are_saved_restored_and_deleted(app: Celery) -> None:
    group = app.GroupResult("G1", [succeed(app, 1), succeed(app, 2)])
    group.save()

    restored = app.GroupResult.restore("G1")
    assert restored is not None
    assert restored == group
    assert restored.get() == [1, 2]
    assert restored.children == group.results
    group.delete()
    assert app.GroupResult.restore("G1") is None
    assert (str(group), bool(group), bool(app.GroupResult())) == ("G1", True, False)
    assert repr(app.GroupResult("x", [app.AsyncResult("a"), app.AsyncResult("b")])) == "<GroupResult: x [a, b]>"


def test_results_can_be_pickled(app: Celery) -> None:
    assert pickle.loads(pickle.dumps(app.AsyncResult("a"))).id == "a"
    group = app.GroupResult("g", [app.AsyncResult("a")])
    assert pickle.loads(pickle.dumps(group)) == group


# -- no backend --------------------------------------------------------------------------------------------------------


def test_without_a_backend_asking_for_results_says_what_to_set() -> None:
    app = Celery("none", broker="memory://none", set_as_current=False)
    result = app.AsyncResult("x")
    for ask in (result.get, result.ready, result.forget, lambda: result.state):
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            ask()
    app.backend.mark_as_done("x", 1)
    app.close()
