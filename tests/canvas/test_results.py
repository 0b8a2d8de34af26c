"""The results of groups and of whole workflows, over every kind of store, made by hand."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery import Celery, chord, states
from celery.app.context import Context
from celery.exceptions import ChordError, IncompleteStream, TimeoutError  # noqa: A004 - the public name
from celery.result import AsyncResult, EagerResult, GroupResult, ResultSet, denied_join_result, result_from_tuple
from celery.utils import uuid

PATIENCE = 20.0


@pytest.fixture
def app(place: str) -> Iterator[Celery]:
    with Celery("results", broker=place, backend=place, set_as_current=False) as app:
        yield app


@pytest.fixture
def quick() -> Iterator[Celery]:
    """For what does not depend on the store."""
    place = f"memory://{uuid()}"
    with Celery("results", broker=place, backend=place, set_as_current=False) as app:
        yield app


def done(app: Celery, value: Any, *children: Any, id: str | None = None) -> AsyncResult[Any]:
    result: AsyncResult[Any] = app.AsyncResult(id or uuid())
    request = Context(id=result.id, _children=list(children))
    app.backend.store_result(result.id, value, states.SUCCESS, request=request)
    return result


def failed(app: Celery, exc: BaseException, id: str | None = None) -> AsyncResult[Any]:
    result: AsyncResult[Any] = app.AsyncResult(id or uuid())
    app.backend.mark_as_failure(result.id, exc, "Traceback: there")
    return result


def pending(app: Celery, **options: Any) -> AsyncResult[Any]:
    return app.AsyncResult(uuid(), **options)


@contextmanager
def meanwhile(function: Callable[[], Any]) -> Iterator[None]:
    """Runs *function* in a thread beside the block."""
    thread = threading.Thread(target=function)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_values_come_in_the_order_of_the_members(app: Celery) -> None:
    members = [pending(app) for _ in range(20)]
    group = app.GroupResult(uuid(), members)

    def end() -> None:
        for member in reversed(members):
            app.backend.mark_as_done(member.id, members.index(member))

    with meanwhile(end):
        assert group.get(timeout=PATIENCE) == list(range(20))
    assert group.join(timeout=1) == group.join_native(timeout=1) == list(range(20))


def test_values_come_as_they_are_there(app: Celery) -> None:
    members = [pending(app) for _ in range(3)]
    values = app.GroupResult(uuid(), members).get(timeout=PATIENCE, order="completion")

    for number in (2, 0, 1):
        app.backend.mark_as_done(members[number].id, number)
        assert next(values) == number
    assert list(values) == []


def test_a_group_in_a_group_is_a_list_in_the_list(app: Celery) -> None:
    first, inner, last = done(app, 1), [pending(app), pending(app)], pending(app)
    group = app.GroupResult("outer", [first, app.GroupResult("inner", inner), app.GroupResult("none", []), last])
    values = group.get(timeout=PATIENCE, order="completion")

    assert next(values) == []
    assert next(values) == 1
    app.backend.mark_as_done(inner[1].id, "b")
    app.backend.mark_as_done(last.id, "z")
    assert next(values) == "z"
    assert not group.ready()
    assert (group.waiting(), group.completed_count()) == (True, 3)
    app.backend.mark_as_done(inner[0].id, "a")
    assert next(values) == ["a", "b"]

    assert group.get(timeout=1) == group.join(timeout=1) == [1, ["a", "b"], [], "z"]
    assert (group.ready(), group.successful(), group.failed(), group.waiting()) == (True, True, False, False)
    assert group.completed_count() == 4
    found = dict(group.iter_native(timeout=1))
    assert found["inner"] == inner
    assert found[first.id]["result"] == 1


def test_results_of_tasks_that_ran_here_can_be_members(app: Celery) -> None:
    ended = EagerResult("e", 3, states.SUCCESS)
    group = app.GroupResult(uuid(), [ended, done(app, 4)])
    assert group.get(timeout=1) == group.join(timeout=1) == group.join_native(timeout=1) == [3, 4]
    assert asyncio.run(group.aget(timeout=1)) == [3, 4]
    assert not group.supports_native_join
    group.add(EagerResult("f", ValueError("here"), states.FAILURE))
    with pytest.raises(ValueError, match="here"):
        group.get(timeout=1)
    group.forget()
    assert group.results[0].get() == 3


def test_the_first_failure_that_is_found_is_raised_and_nothing_more_waited_for(app: Celery) -> None:
    members = [pending(app), failed(app, KeyError("k"))]
    group = app.GroupResult(uuid(), members)
    for wait in (group.get, group.join_native, lambda **options: list(group.get(order="completion", **options))):
        with pytest.raises(KeyError, match="k"):
            wait(timeout=PATIENCE)
    with pytest.raises(KeyError, match="k"):
        asyncio.run(group.aget(timeout=PATIENCE))
    with pytest.raises(KeyError, match="k"):
        app.GroupResult(uuid(), [members[0], group]).get(timeout=PATIENCE)
    with pytest.raises(TimeoutError):
        group.join(timeout=0.01)  # strictly in order: the first has not ended

    app.backend.mark_as_done(members[0].id, 1)
    first, second = group.get(timeout=PATIENCE, propagate=False)
    assert (first, repr(second)) == (1, "KeyError('k')")
    assert repr(asyncio.run(group.aget(propagate=False))[1]) == "KeyError('k')"
    assert (group.ready(), group.successful(), group.failed(), group.completed_count()) == (True, False, True, 1)
    with pytest.raises(KeyError):
        group.maybe_throw()


def test_waiting_ends_in_time(app: Celery) -> None:
    group = app.GroupResult(uuid(), [done(app, 1), pending(app)])
    for wait in (group.get, group.join, group.join_native):
        with pytest.raises(TimeoutError):
            wait(timeout=0.01)
    values = group.get(timeout=0.01, order="completion")
    assert next(values) == 1
    with pytest.raises(TimeoutError):
        next(values)
    with pytest.raises(TimeoutError):
        asyncio.run(group.aget(timeout=0.01))


def test_what_is_called_while_waiting(app: Celery) -> None:
    members = [pending(app) for _ in range(3)]
    group = app.GroupResult(uuid(), members)
    values: list[Any] = []
    metas: list[Any] = []

    def step() -> None:
        if (number := 2 - len(metas)) >= 0:  # the next one, once the one before it was told of
            app.backend.mark_as_done(members[number].id, number)

    said = group.get(
        timeout=PATIENCE, interval=0.01, callback=lambda *args: values.append(args), on_message=metas.append,
        on_interval=step,
    )  # fmt: skip
    assert said is None
    assert values == [(members[number].id, number) for number in (2, 1, 0)]
    assert [meta["result"] for meta in metas] == [2, 1, 0]

    heard: list[Any] = []
    assert group.join(callback=lambda *args: heard.append(args)) == []
    assert heard == values[::-1]
    assert group.get(order="completion", callback=lambda *args: heard.append(args)) is None
    assert len(heard) == 6


def test_waiting_is_refused_inside_a_task(quick: Celery) -> None:
    group = quick.GroupResult(uuid(), [done(quick, 1)])
    with denied_join_result():
        for wait in (group.get, group.join, group.join_native, lambda: group.get(order="completion")):
            with pytest.raises(RuntimeError, match="within a task"):
                wait()
        assert group.get(disable_sync_subtasks=False) == [1]


def test_an_order_that_there_is_not(quick: Celery) -> None:
    with pytest.raises(ValueError, match="submission"):
        quick.GroupResult("g", []).get(order="size")  # type: ignore[arg-type]


def test_the_same_task_twice(app: Celery) -> None:
    result = done(app, 1)
    assert ResultSet([result, result, app.AsyncResult(result.id)], app=app).get(timeout=1) == [1, 1, 1]


def test_thousands_are_watched_once_and_read_a_few_times(app: Celery) -> None:
    count = 10_000
    members = [pending(app) for _ in range(count)]
    group = app.GroupResult(
        uuid(), [app.GroupResult(uuid(), members[start : start + 100]) for start in range(0, count, 100)]
    )
    store = app.backend.store
    read, watched = Counter(store.get), Counter(store.watch)
    store.get, store.watch = read, watched

    def end() -> None:
        for start in range(0, count, 500):
            store.put([app.backend.record(member.id, 1, states.SUCCESS) for member in members[start : start + 500]])

    with meanwhile(end):
        assert group.get(timeout=60) == [[1] * 100] * 100
    assert watched.calls == 1
    assert count <= read.keys <= 15 * count
    assert group.successful()
    assert (group.completed_count(), read.keys) == (100, read.keys)


class Counter:
    """Counts calls of a method, and the keys they name, on the way."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.calls = self.keys = 0

    def __call__(self, keys: Any) -> Any:
        self.calls += 1
        self.keys += len(keys)
        return self.method(keys)


# -- what comes before -------------------------------------------------------------------------------------------------


def test_get_raises_what_a_task_before_it_raised(app: Celery) -> None:
    first = failed(app, ValueError("before"))
    second = pending(app, parent=first)
    for waiting in (pending(app, parent=second), app.GroupResult("g", [pending(app)], parent=second)):
        with pytest.raises(ValueError, match="before"):
            waiting.get(timeout=PATIENCE)
        with pytest.raises(ValueError, match="before"):
            asyncio.run(waiting.aget(timeout=PATIENCE))
    with pytest.raises(TimeoutError):
        pending(app, parent=first).get(timeout=0.01, follow_parents=False)
    with pytest.raises(TimeoutError):
        pending(app, parent=first).get(timeout=0.01, propagate=False)


def test_a_group_is_not_waited_for_when_the_task_before_it_fails(app: Celery) -> None:
    before = pending(app)
    group = app.GroupResult("g", [pending(app), pending(app)], parent=before)
    started = threading.Event()

    def fail() -> None:
        assert started.wait(PATIENCE)
        app.backend.mark_as_failure(before.id, ValueError("before"))

    with meanwhile(fail), pytest.raises(ValueError, match="before"):
        group.get(timeout=PATIENCE, interval=0.01, on_interval=started.set)

    other = pending(app)
    group = app.GroupResult("g", [pending(app), pending(app)], parent=other)

    async def wait() -> None:
        async def fail() -> None:
            app.backend.mark_as_failure(other.id, ValueError("before"))

        task = asyncio.create_task(group.aget(timeout=PATIENCE))
        await asyncio.gather(task, fail())

    with pytest.raises(ValueError, match="before"):
        asyncio.run(wait())


def test_a_group_that_ended_does_not_wait_for_what_was_before_it(app: Celery) -> None:
    group = app.GroupResult("g", [pending(app)], parent=pending(app))
    with meanwhile(lambda: app.backend.mark_as_done(group[0].id, 1)):
        assert group.get(timeout=PATIENCE) == [1]


def test_the_body_of_a_chord_tells_of_the_failure_of_a_part_itself(app: Celery) -> None:
    header = app.GroupResult("header", [done(app, 1), failed(app, ValueError("part"))])
    body = pending(app, parent=header)
    app.backend.mark_as_failure(body.id, ChordError("Dependency 1 raised ValueError('part')"))
    with pytest.raises(ChordError, match="Dependency 1 raised"):
        body.get(timeout=PATIENCE)


def test_the_tasks_before_the_last_of_a_long_chain_are_not_all_looked_at_each_time(quick: Celery) -> None:
    app, count = quick, 5000
    chain: AsyncResult[Any] | None = None
    for number in range(count):
        chain = app.AsyncResult(f"step-{number}", parent=chain)
    assert chain is not None
    read = app.backend.store.get = Counter(app.backend.store.get)  # type: ignore[method-assign]
    looks = 0

    def step() -> None:
        nonlocal looks
        start = looks * 500
        looks += 1
        for number in range(start, min(start + 500, count)):
            done(app, number, id=f"step-{number}")

    assert chain.get(timeout=60, interval=0.001, on_interval=step) == count - 1
    assert looks == 10
    assert read.keys < 2 * count


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_awaiting_members_as_they_end(app: Celery) -> None:
    members = [pending(app) for _ in range(3)]
    group = app.GroupResult("g", members)

    async def run() -> list[Any]:
        values = await group.aget(timeout=PATIENCE, order="completion")
        seen = []
        for number in (1, 2, 0):
            app.backend.mark_as_done(members[number].id, number)
            seen.append(await anext(values))
        async for value in values:
            seen.append(value)
        return seen

    assert asyncio.run(run()) == [1, 2, 0]
    assert asyncio.run(group.ajoin()) == [0, 1, 2]


def test_awaiting_many(quick: Celery) -> None:
    members = [pending(quick) for _ in range(5000)]

    async def run() -> Any:
        waiting = asyncio.create_task(quick.GroupResult("g", members).aget(timeout=60))
        for start in range(0, len(members), 500):
            await asyncio.sleep(0)
            for member in members[start : start + 500]:
                quick.backend.mark_as_done(member.id, start)
        return await waiting

    assert sum(asyncio.run(run())) == sum(start * 500 for start in range(0, 5000, 500))


# -- a set as a collection ---------------------------------------------------------------------------------------------


def test_members(quick: Celery) -> None:
    one, two = done(quick, 1, id="1"), done(quick, 2, id="2")
    group = quick.GroupResult("g", [one, two])
    assert (list(group), len(group), group[0], group[-1:], group.children) == ([one, two], 2, one, [two], [one, two])
    assert (str(group), repr(group)) == ("g", "<GroupResult: g [1, 2]>")
    assert repr(ResultSet([one], app=quick)) == "<ResultSet: [1]>"
    assert group == quick.GroupResult("g", [one, two]) == "g"
    assert group != quick.GroupResult("h", [one, two])
    assert group != quick.GroupResult("g", [one, two], parent=one)
    assert group == ResultSet([one, two], app=quick)
    assert ResultSet([one], app=quick) != "1"
    assert hash(group) == hash(quick.GroupResult("g", []))
    with pytest.raises(TypeError):
        hash(ResultSet([one], app=quick))
    truth = [
        bool(made)
        for made in (quick.GroupResult("g", []), quick.GroupResult(None, []), ResultSet([]), ResultSet([one]))
    ]
    assert truth == [True, False, False, True]

    results = ResultSet([one], app=quick)
    results.update([one, two, two])
    results.add(two)
    assert list(results) == [one, two]
    results.discard("none")
    results.remove("1")
    with pytest.raises(KeyError):
        results.remove(one)
    assert list(results) == [two]
    results.clear()
    assert (results.get(), results.ready(), results.successful(), results.failed()) == ([], True, True, False)
    assert (results.waiting(), results.completed_count(), results.supports_native_join) == (False, 0, False)


def test_then(quick: Celery) -> None:
    heard: list[Any] = []
    members = [pending(quick), pending(quick)]
    group = quick.GroupResult("g", [members[0], quick.GroupResult("h", [members[1]])])
    group.then(heard.append, lambda error: heard.append(repr(error)))
    quick.backend.mark_as_done(members[0].id, 1)
    assert not group.ready()
    quick.backend.mark_as_done(members[1].id, 2)
    assert heard == []
    assert group.get() == [1, [2]]
    assert heard == [group]

    bad = quick.GroupResult("b", [pending(quick), failed(quick, KeyError(1)), failed(quick, KeyError(2))])
    bad.then(heard.append, lambda error: heard.append(repr(error)))
    assert bad.failed()
    assert heard[1:] == ["KeyError(1)"]
    quick.GroupResult("none", []).then(heard.append)
    assert heard[2] == "none"


def test_then_can_hold_what_it_calls_weakly(quick: Celery) -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def hear(self, result: Any) -> None:
            self.heard.append(result)

    result, listener, kept = pending(quick), Listener(), Listener()
    result.then(listener.hear, weak=True)
    result.then(kept.hear, weak=True)
    heard = listener.heard
    del listener
    gc.collect()
    quick.backend.mark_as_done(result.id, 1)
    result.get()
    assert (heard, kept.heard) == ([], [result])


def test_revoke_names_every_task(app: Celery) -> None:
    one, two, three = (pending(app) for _ in range(3))
    group = app.GroupResult("g", [one, app.GroupResult("h", [two, three])])
    group.revoke()
    assert {one.id, two.id, three.id} <= set(app.broker.revoked())
    app.GroupResult("none", []).revoke()


def test_forget_deletes_everything_below_and_before(app: Celery) -> None:
    first = done(app, 0)
    part = done(app, 1)
    before = app.GroupResult("header", [part], parent=first)
    last = app.AsyncResult(done(app, 2).id, parent=before)
    other = done(app, 3)
    app.GroupResult("g", [last, app.GroupResult("h", [other])]).forget()
    for result in (first, part, last, other):
        assert not app.AsyncResult(result.id).exists()


# -- stored and as data ------------------------------------------------------------------------------------------------

SAVED_BY_THE_ORIGINAL = (
    '{"result": [["outer", null], [[["a1", null], null], [["inner", null], [[["a2", null], null],'
    ' [["a1", null], null]]]]]}'
)


def test_groups_are_saved_as_the_original_saves_them(app: Celery) -> None:
    one, two = app.AsyncResult("a1"), app.AsyncResult("a2")
    group = app.GroupResult("outer", [one, app.GroupResult("inner", [two, one])])
    assert app.GroupResult.restore("outer") is None
    assert group.save() is group

    stored = app.backend.get("celery-taskset-meta-outer")
    assert json.loads(stored) == json.loads(SAVED_BY_THE_ORIGINAL)
    app.backend.set("celery-taskset-meta-theirs", SAVED_BY_THE_ORIGINAL.replace("outer", "theirs"))
    for id in ("outer", "theirs"):
        restored = GroupResult.restore(id, app=app)
        assert isinstance(restored, app.GroupResult)
        assert isinstance(restored[1], app.GroupResult)
        assert (restored.id, restored.results, restored.app) == (id, group.results, app)
    group.delete()
    assert GroupResult.restore("outer", backend=app.backend, app=app) is None


def test_a_saved_group_keeps_what_was_before_it(app: Celery) -> None:
    group = app.GroupResult("g", [app.AsyncResult("a")], parent=app.AsyncResult("p"))
    group.save()
    restored = app.GroupResult.restore("g")
    assert restored == group
    assert restored is not None
    assert restored.parent == "p"


names = st.text("abcdefgh-", min_size=1, max_size=6)
trees = st.recursive(
    st.tuples(st.just("task"), names, st.none()),
    lambda inner: st.one_of(
        st.tuples(st.just("task"), names, inner),
        st.tuples(st.just("group"), names, st.lists(inner, max_size=3)),
        st.tuples(st.just("group after"), names, st.lists(inner, max_size=3), inner),
    ),
    max_leaves=12,
)
DATA_APP = Celery("data", broker="memory://data", backend="memory://data", set_as_current=False)


def build(tree: Any) -> Any:
    kind, id, *rest = tree
    if kind == "task":
        return DATA_APP.AsyncResult(id, parent=build(rest[0]) if rest[0] else None)
    parent = build(rest[1]) if kind == "group after" else None
    return DATA_APP.GroupResult(id, [build(member) for member in rest[0]], parent=parent)


@given(trees)
def test_every_nesting_survives_as_data(tree: Any) -> None:
    result = build(tree)
    data = result.as_tuple()
    restored = result_from_tuple(json.loads(json.dumps(data)), DATA_APP)
    assert restored.as_tuple() == data
    assert restored.as_list() == result.as_list()
    assert type(restored) is type(result)
    assert restored == result


def test_tuples(quick: Celery) -> None:
    group = quick.GroupResult("g", [quick.AsyncResult("a"), quick.AsyncResult("b")], parent=quick.AsyncResult("p"))
    body = quick.AsyncResult("body", parent=group)
    members = [(("a", None), None), (("b", None), None)]
    assert body.as_tuple() == (("body", (("g", (("p", None), None)), members)), None)
    assert body.as_list() == ["body", "a", "b", "p"]
    assert result_from_tuple(("x", None), quick) == "x"
    assert result_from_tuple(["x", [[["a", None], None]]], quick).results == ["a"]
    assert result_from_tuple(body, quick) is body


def test_a_chain_of_thousands_has_a_tuple(quick: Celery) -> None:
    chain: Any = None
    for number in range(5000):
        chain = quick.AsyncResult(str(number), parent=chain)
    assert len(chain.as_list()) == 5000
    assert result_from_tuple(chain.as_tuple(), quick).as_list() == chain.as_list()
    chain.forget()


# -- trees -------------------------------------------------------------------------------------------------------------


def workflow(app: Celery) -> tuple[Any, dict[str, Any]]:
    """A task that sent another, which sent a group; and one that both have sent."""
    made: dict[str, Any] = {"leaf": done(app, "L", id="leaf"), "leaf2": done(app, "L2", id="leaf2")}
    made["grp"] = app.GroupResult("grp", [made["leaf"], made["leaf2"]])
    made["mid"] = done(app, "M", made["grp"], id="mid")
    return done(app, "R", made["mid"], made["leaf2"], id="root"), made


def test_a_workflow_as_a_tree(app: Celery) -> None:
    root, made = workflow(app)
    assert root.children == [made["mid"], made["leaf2"]]
    found = [(root, "R"), (made["mid"], "M"), (made["leaf2"], "L2"), (made["grp"], ["L", "L2"]),
             (made["leaf"], "L"), (made["leaf2"], "L2")]  # fmt: skip
    assert list(root.collect()) == list(app.AsyncResult("root").collect(intermediate=True)) == found
    pairs = [(None, "root"), ("root", "mid"), ("root", "leaf2"), ("mid", "grp"), ("grp", "leaf"), ("grp", "leaf2")]
    assert [(str(a) if a else None, str(b)) for a, b in app.AsyncResult("root").iterdeps()] == pairs
    assert root.get_leaf() == "L2"
    assert list(made["grp"].collect()) == found[3:]
    assert made["grp"].graph[made["grp"]] == [made["leaf"], made["leaf2"]]


def test_collect_waits_for_what_is_not_there_and_iterdeps_does_not(app: Celery) -> None:
    child = pending(app)
    root = done(app, 1, child)
    with pytest.raises(IncompleteStream):
        list(root.iterdeps())
    with pytest.raises(IncompleteStream):
        root.build_graph()
    assert list(root.iterdeps(intermediate=True)) == [(None, root), (root, child)]
    assert list(root.build_graph(intermediate=True)) == [root, child]
    with meanwhile(lambda: app.backend.mark_as_done(child.id, 2)):
        assert [value for _, value in root.collect(timeout=PATIENCE)] == [1, 2]


def test_a_tree_is_read_level_by_level(quick: Celery) -> None:
    level = [done(quick, number) for number in range(300)]
    for _ in range(3):
        level = [done(quick, "x", *level[start : start + 3]) for start in range(0, len(level), 3)]
    root = quick.AsyncResult(done(quick, "root", *level).id)
    read = quick.backend.store.get = Counter(quick.backend.store.get)  # type: ignore[method-assign]
    assert len(list(root.iterdeps())) > 400
    assert read.calls <= 5


def test_eager_results_have_the_same_doors(quick: Celery) -> None:
    ended = EagerResult("e", 3, states.SUCCESS)
    heard: list[Any] = []
    assert (ended.as_list(), ended.as_tuple(), ended.children) == (["e"], (("e", None), None), None)
    assert list(ended.collect()) == [(ended, 3)]
    assert list(ended.graph) == [ended]
    ended.then(heard.append)
    assert heard == [ended]
    assert asyncio.run(ended.aget()) == 3


def test_results_can_be_pickled(quick: Celery) -> None:
    quick.set_current()
    add = quick.task(lambda x, y: x + y, name="add", shared=False)
    result = chord([add.s(1, 2)])(add.s(1))
    for made in (result, result.parent, quick.GroupResult("g", [result], parent=result)):
        again = pickle.loads(pickle.dumps(made))
        assert again == made
        assert type(again).__module__.startswith("celery.")
        assert again.as_tuple() == made.as_tuple()
