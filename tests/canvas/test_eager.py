"""Workflows that run here and now, by `apply()` and with `task_always_eager`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canvas.reference import Failed, Reference, Spec, shown
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError
from celery.result import EagerResult, GroupResult

told: list[Any] = []


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("eager", broker=place, backend=place, set_as_current=False) as app:

        @app.task(name="show")
        def show(*given: Any, number: int) -> str:
            return shown(number, given)

        @app.task(name="fail")
        def fail(*given: Any) -> None:
            raise ValueError("no")

        @app.task(name="add")
        def add(x: int = 0, y: int = 0) -> int:
            return x + y

        @app.task(name="total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="same")
        def same(*given: Any) -> Any:
            return given[0] if len(given) == 1 else list(given)

        @app.task(name="tell")
        def tell(request: Any, exc: Any, traceback: Any) -> None:
            told.append((request.id, exc))

        @app.task(name="tell old")
        def tell_old(task_id: str) -> None:
            told.append(task_id)

        @app.task(name="note")
        def note(value: Any) -> None:
            told.append(value)

        @app.task(name="swap", bind=True)
        def swap(self: Any, x: int, kind: str) -> Any:
            new = {
                "task": add.s(x, 100), "chain": chain(add.s(x, 100), add.s(1)),
                "group": group(add.s(x, 100), add.s(x, 200)), "chord": chord([add.s(x, 100)], total.s()),
            }  # fmt: skip
            return self.replace(new[kind])

        app.finalize()
        yield app


@pytest.fixture(params=["apply", "always_eager"])
def run(app: Celery, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs a workflow in one of the two ways."""
    told.clear()
    app.conf.task_always_eager = request.param == "always_eager"
    yield lambda canvas, *args: canvas.apply(*args) if request.param == "apply" else canvas.apply_async(*args)
    app.conf.task_always_eager = False


def test_a_chain(app: Celery, run: Any) -> None:
    add = app.tasks["add"]
    result = run(chain(add.s(1), add.s(2), add.s(3)), (5,))
    assert isinstance(result, EagerResult)
    assert (result.get(), result.parent.get(), result.parent.parent.get(), result.parent.parent.parent) == (
        11,
        8,
        6,
        None,
    )
    assert run(chain()) is None


def test_a_group(app: Celery, run: Any) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    result = run(group(add.s(1), group(add.s(2), add.s(3)), chain(add.s(1), group(add.s(4), add.s(5)))), (5,))
    assert isinstance(result, GroupResult)
    assert result.get() == [6, 7, 8, [10, 11]]
    assert run(group()).get() == []
    result = run(group(fail.s(), chain(fail.s(), add.s(1)), chord([fail.s(), add.s(1)], add.s()), add.s(1)))
    assert [part.state for part in result] == ["FAILURE", "FAILURE", "FAILURE", "SUCCESS"]
    assert [type(part.result) for part in result] == [ValueError, ValueError, ChordError, int]


def test_a_chord(app: Celery, run: Any) -> None:
    add, total, same = app.tasks["add"], app.tasks["total"], app.tasks["same"]
    assert run(chord([add.s(1), add.s(2)], total.s()), (5,)).get() == 13
    assert run(chord([group(add.s(1), add.s(2)), chain(add.s(1), group(add.s(2), add.s(3)))], same.s())).get() == [
        1,
        2,
        3,
        4,
    ]
    assert run(chord([], same.s())).get() == []
    assert run(chord([add.s(1)], group(total.s(), same.s()))).get() == [1, [1]]
    assert run(chain(add.s(1), chord([add.s(2), add.s(3)], total.s()), add.s(1))).get() == 8
    with pytest.raises(TypeError, match="has no body"):
        run(chord([add.s(1)]))


def test_what_fails_is_raised(app: Celery, run: Any) -> None:
    add, total, fail = app.tasks["add"], app.tasks["total"], app.tasks["fail"]
    for canvas in (
        chain(fail.s(), add.s(1)),
        chord([add.s(1), fail.s()], total.s()),
        chain(add.s(1), chord([add.s(1), fail.s()], total.s()), add.s(1)),
    ):
        with pytest.raises(ValueError, match="no"):
            run(canvas)
    last = run(chain(add.s(1), fail.s()))
    assert last.failed()
    assert last.parent.get() == 1


@pytest.mark.parametrize("name", ["tell", "tell old"])
def test_error_callbacks(app: Celery, run: Any, name: str) -> None:
    add, total, fail = app.tasks["add"], app.tasks["total"], app.tasks["fail"]
    canvases: list[Any] = [chain(add.s(1), fail.s(), add.s(1)), chord([add.s(1), fail.s()], total.s())]
    for canvas in canvases:
        canvas.link_error(app.tasks[name].s())
        with pytest.raises(ValueError, match="no"):
            run(canvas)
    assert len(told) == 2
    if name == "tell":
        assert [type(exc) for _, exc in told] == [ValueError, ChordError]


def test_callbacks(app: Celery, run: Any) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    canvases: list[Any] = [chain(add.s(1), add.s(2)), chord([add.s(1), add.s(4)], total.s())]
    for canvas in canvases:
        canvas.link(app.tasks["note"].s())
        run(canvas)
    # `apply` runs a task here, but not what it is linked to: that is sent.
    assert told == ([3, 5] if app.conf.task_always_eager else [])


def test_maps(app: Celery, run: Any) -> None:
    add, same = app.tasks["add"], app.tasks["same"]
    assert run(same.map([1, 2])).get() == [1, 2]
    assert run(add.starmap([(1, 1), (2, 2)])).get() == [2, 4]
    assert run(add.chunks([(1, 1), (2, 2), (3, 3)], 2)).get() == [[2, 4], [6]]


@pytest.mark.parametrize(("kind", "value"), [("task", 106), ("chain", 107), ("group", [106, 206]), ("chord", 106)])
def test_a_task_that_is_replaced(app: Celery, run: Any, kind: str, value: Any) -> None:
    swap, same = app.tasks["swap"], app.tasks["same"]
    assert run(swap.s(6, kind)).get() == value
    result = run(chain(swap.s(6, kind), same.s(1)))
    assert result.get() == [value, 1]
    assert result.parent.get() == value
    assert run(chord([swap.s(6, kind), swap.s(6, kind)], same.s())).get() == [value, value]


def test_errors_propagate_where_a_setting_says_so(app: Celery, run: Any) -> None:
    app.conf.task_eager_propagates = True
    try:
        for canvas in (group(app.tasks["fail"].s()), chain(app.tasks["fail"].s(), app.tasks["add"].s())):
            with pytest.raises(ValueError, match="no"):
                run(canvas)
    finally:
        app.conf.task_eager_propagates = False


tasks = st.builds(
    lambda number, kind, immutable: ("task", number, kind, immutable),
    st.integers(0, 99), st.sampled_from(["ok"] * 9 + ["fail"]), st.sampled_from([False] * 5 + [True]),
)  # fmt: skip


def _nest(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    parts = st.lists(inner, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.tuples(st.just("group"), parts),
        st.tuples(st.just("chord"), st.lists(inner, max_size=4).map(tuple), inner),
    )


def build(app: Celery, spec: Spec) -> Any:
    what = spec[0]
    if what == "task":
        _, number, kind, immutable = spec
        task = app.tasks["show" if kind == "ok" else "fail"]
        return task.signature((), {"number": number} if kind == "ok" else {}, immutable=immutable)
    if what == "chord":
        return chord([build(app, part) for part in spec[1]], build(app, spec[2]), app=app)
    parts = [build(app, part) for part in spec[1]]
    return (chain if what == "chain" else group)(parts, app=app)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(tasks, _nest, max_leaves=12))
def test_a_random_workflow_gives_what_the_reference_says(app: Celery, spec: Spec) -> None:
    expected = Reference().run(spec)
    try:
        result = build(app, spec).apply()
    except (ValueError, ChordError):
        assert isinstance(expected, Failed)
        return
    if result is None:
        assert expected is None
        return
    found = [Failed(type(part.result).__name__) if part.failed() else part.result for part in leaves_of(result)]
    if not isinstance(expected, list):
        expected = [expected]
        if not hasattr(result, "results") and isinstance(found[0], list):
            found = found[0]
    assert found == expected


def leaves_of(result: Any) -> Iterator[Any]:
    if hasattr(result, "results"):
        for part in result.results:
            yield from leaves_of(part)
    else:
        yield result
