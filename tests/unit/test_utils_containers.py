"""Containers, graphs, values that can be carried, timers, system facts."""

from __future__ import annotations

import datetime as dt
import io
import json
import pickle
import threading
import time
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from celery.utils import abstract, annotations, debug, deprecated, sysinfo, timer2
from celery.utils.collections import (
    AttributeDict,
    BufferMap,
    ChainMap,
    ConfigurationView,
    DictAttribute,
    LimitedSet,
    Messagebuffer,
    force_mapping,
    lpmerge,
)
from celery.utils.graph import CycleError, DependencyGraph
from celery.utils.serialization import (
    UnpickleableExceptionWrapper,
    b64decode,
    b64encode,
    ensure_serializable,
    find_pickleable_exception,
    get_pickleable_etype,
    get_pickleable_exception,
    get_pickled_exception,
    jsonify,
    raise_with_context,
    strtobool,
)

# --- LimitedSet -------------------------------------------------------------------------------------------------------


def test_the_oldest_are_forgotten_first() -> None:
    items = LimitedSet(maxlen=3)
    for moment, item in enumerate("abcd"):
        items.add(item, now=moment)
    assert list(items) == ["b", "c", "d"]
    items.add("b", now=9)
    assert list(items) == ["c", "d", "b"]
    assert (items.pop(), len(items), "c" in items) == ("c", 2, False)
    items.discard("d")
    items.pop_value("unknown")
    assert items.as_dict() == {"b": 9.0}
    assert LimitedSet().pop("nothing") == "nothing"


def test_the_expired_go_but_for_minlen() -> None:
    items = LimitedSet(maxlen=10, expires=5, minlen=1)
    for moment, item in enumerate("abc"):
        items.add(item, now=moment)
    items.purge(now=100)
    assert list(items) == ["c"]
    assert pickle.loads(pickle.dumps(LimitedSet(data={"a": 1.0}))) == LimitedSet(data={"a": 1.0})
    assert repr(LimitedSet(maxlen=3)) == "<LimitedSet(0): maxlen=3, expires=0, minlen=0>"


@pytest.mark.parametrize("limits", [{"maxlen": -1}, {"maxlen": 1, "minlen": 2}, {"expires": -1}])
def test_bad_limits(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|cannot be"):
        LimitedSet(**limits)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50))), st.integers(1, 6))
def test_a_limited_set_is_its_youngest(added: list[tuple[int, int]], maxlen: int) -> None:
    items, model = LimitedSet(maxlen=maxlen), {}
    for item, moment in added:
        items.add(item, now=moment)
        model[item] = float(moment)
        if len(model) > maxlen:
            oldest = min(model.values())
            assert len(items) == maxlen
            model = (
                items.as_dict()
                if oldest == sorted(model.values())[1]
                else {k: v for k, v in model.items() if v > oldest}
            )
    assert items.as_dict() == model
    assert list(items) == sorted(items, key=items.as_dict().get)


# --- Dictionaries -----------------------------------------------------------------------------------------------------


def test_attributes_and_items() -> None:
    made: Any = AttributeDict(a=1)
    made.b = 2
    assert made == {"a": 1, "b": 2}
    assert (made.a, made.b) == (1, 2)
    with pytest.raises(AttributeError, match="'AttributeDict' object has no attribute 'c'"):
        made.c  # noqa: B018 - the look-up is what is tested

    class Module:
        x = 1

    view = DictAttribute(Module())
    view["y"] = 2
    assert (view["x"], view["y"], view.get("z", 3), "x" in view, "z" in view) == (1, 2, 3, True, False)
    with pytest.raises(KeyError):
        view["z"]
    assert view.setdefault("w", 5) == 5
    assert dict(view.items())["w"] == 5
    assert force_mapping({"a": 1}) == {"a": 1}
    assert force_mapping(Module())["x"] == 1
    assert lpmerge({"a": 1, "b": 2}, {"a": None, "b": 3}) == {"a": 1, "b": 3}


def test_stacked_mappings() -> None:
    stack = ChainMap({"a": 1}, {"a": 0, "b": 2})
    heard: list[Any] = []
    stack.bind_to(lambda **given: heard.append(given))
    assert (stack["a"], stack["b"], stack.get("c"), len(stack), sorted(stack)) == (1, 2, None, 2, ["a", "b"])
    stack.update(c=3)
    assert heard == [{"c": 3}]
    assert stack.pop("c") == 3
    with pytest.raises(KeyError, match="first mapping"):
        stack.pop("b")
    with pytest.raises(KeyError, match="first mapping"):
        del stack["b"]
    stack.add_defaults({"n": 1, "b": 9})
    assert (stack["n"], stack["b"]) == (1, 9)
    assert ChainMap({"x_a": 1}, key_t="x_{}".format)["a"] == 1


def test_configuration_views() -> None:
    view: Any = ConfigurationView({"a": 1}, [{"a": 0, "b": 2}])
    view.c = 3
    assert (view.a, view["b"], view.c, view.first("zz", "b")) == (1, 2, 3, 2)
    assert view.changes == {"a": 1, "c": 3}
    with pytest.raises(AttributeError):
        view.zz  # noqa: B018 - the look-up is what is tested
    prefixed: Any = ConfigurationView({"p_a": 1}, [{"p_b": 2}], prefix="p_")
    assert (prefixed.a, prefixed["b"], "b" in prefixed) == (1, 2, True)
    assert ConfigurationView({"OLD": 1}, keys=[str.upper])["old"] == 1
    copied = view.copy()
    view.clear()
    assert (view.get("c"), copied.c, view.a) == (None, 3, 0)
    view.swap_with(copied)
    assert view.c == 3


def test_buffers_keep_to_their_limits() -> None:
    buffer = Messagebuffer(3, range(2))
    buffer.extend([2, 3, 4])
    assert (list(buffer), buffer.take(), buffer[0], 4 in buffer, len(buffer)) == ([2, 3, 4], 2, 3, True, 2)
    with pytest.raises(Messagebuffer.Empty):
        Messagebuffer(1).take()
    assert Messagebuffer(1).take("default") == "default"
    buffers = BufferMap(4, bufmaxsize=2)
    buffers.extend("a", [1, 2, 3])
    buffers.put("b", 4)
    buffers.extend("c", [5, 6])
    assert buffers.total == 4
    assert [buffers.take(key, None) for key in "abc"] == [3, 4, 5]
    assert (buffers.total, buffers.take("zz", None)) == (1, None)
    with pytest.raises(BufferMap.Empty):
        buffers.take("zz")


# --- Graphs -----------------------------------------------------------------------------------------------------------


def test_graphs() -> None:
    graph = DependencyGraph([("a", ["b"]), ("b", ["c"]), ("c", [])])
    assert graph.topsort() == ["c", "b", "a"]
    assert (graph.valency_of("a"), graph.edges(), len(graph), "a" in graph) == (2, ["a", "b"], 3, True)
    assert repr(DependencyGraph([("x", ["y"]), ("y", [])])) == "x(1)\n     y(0)\ny(0)"
    out = io.StringIO()
    graph.to_dot(out)
    assert out.getvalue().startswith("digraph dependencies {")
    assert '"a" -> "b"' in out.getvalue()
    graph.add_edge("c", "a")
    with pytest.raises(CycleError, match=r"These depend on one another: .* -> "):
        graph.topsort()


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), unique=True, max_size=4)))
def test_everything_comes_after_what_it_needs(edges: dict[int, list[int]]) -> None:
    graph = DependencyGraph([(n, [m for m in edges.get(n, []) if m < n]) for n in range(9)])
    order = {n: index for index, n in enumerate(graph.topsort())}
    assert len(order) == 9
    assert all(order[need] < order[n] for n, needs in graph.items() for need in needs)


# --- Values that can be carried ---------------------------------------------------------------------------------------


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(lambda: text)


class Nearby(ValueError):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)


def test_exceptions_that_pickle_refuses() -> None:
    wrapped = get_pickleable_exception(Unpicklable("x"))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    back = get_pickled_exception(pickle.loads(pickle.dumps(wrapped)))
    assert type(back).__name__ == "Unpicklable"
    assert "Unpicklable" in str(wrapped)
    error = ValueError(1)
    assert get_pickleable_exception(error) is error
    assert get_pickled_exception(error) is error
    assert type(find_pickleable_exception(Nearby(1, 2))) is ValueError
    assert get_pickleable_etype(Unpicklable) is Unpicklable
    assert ensure_serializable([1, object, {1}], json.dumps) == (1, "<class 'object'>", "{1}")


def test_context_is_kept() -> None:
    def handle() -> None:
        try:
            raise ValueError("first")
        except ValueError:
            raise_with_context(KeyError("second"))

    with pytest.raises(KeyError) as caught:
        handle()
    assert isinstance(caught.value.__cause__, ValueError)


def test_small_conversions() -> None:
    assert b64decode(b64encode("é")) == "é".encode()
    assert [strtobool(v) for v in ("yes", "OFF", "1", 5)] == [True, False, True, 5]
    with pytest.raises(TypeError, match="Cannot coerce 'maybe'"):
        strtobool("maybe")
    value = {"at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "for": dt.timedelta(seconds=5), "t": (1, None), "_x": 1}
    assert jsonify(value, keyfilter=lambda key: key[0] != "_") == {
        "at": "2024-01-01T00:00:00Z",
        "for": "0:00:05",
        "t": [1, None],
    }
    with pytest.raises(ValueError, match="Unsupported type"):
        jsonify({"a": object()})
    assert jsonify({1}, unknown_type_filter=list) == [1]


# --- The machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "group", "quota"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"a/cpu.max": "50000 100000", "cpu.max": "max 100000"}, "0::/a/b", 0.5),
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 100000"}, "0::/a/b", 2.0),
        ({"cpu/g/cpu.cfs_quota_us": "250000", "cpu/g/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/g", 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None),
        ({"cpu.max": "nonsense"}, "0::/", None),
        ({}, "0::/", None),
    ],
)
def test_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], group: str, quota: float | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "self").write_text(f"{group}\n")
    monkeypatch.setattr(sysinfo, "CGROUP_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(sysinfo, "PROC_SELF_CGROUP", str(tmp_path / "self"))
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)
    assert sysinfo.cgroup_cpu_quota() == quota
    expected = 8 if quota is None else -int(-quota // 1)
    assert sysinfo.cpu_budget() == (expected, 8, quota)
    assert sysinfo.cpu_budget(use_cgroup_quota=False).count == 8


def test_system_facts() -> None:
    assert sysinfo.available_cpu_count() >= 1
    assert len(sysinfo.load_average()) == 3
    disk = sysinfo.df("/")
    assert 0 <= disk.capacity <= 100
    assert 0 <= disk.available <= disk.total_blocks
    assert [sysinfo.is_auto_concurrency(v) for v in ("auto", "AUTO", 4, None)] == [True, True, False, False]


def test_debugging_words() -> None:
    assert [debug.humanbytes(n) for n in (5, 2048, 3 * 2**30)] == ["5b", "2KB", "3GB"]
    assert list(debug.sample(range(100), 5)) == [0, 20, 40, 60, 80]
    assert list(debug.sample([1, 2], 5)) == [1, 2]
    text = debug.cry()
    assert text is not None
    assert "MainThread" in text
    assert "LOCAL VARIABLES" in text
    out = io.StringIO()
    debug.memdump(file=out)
    assert "rss" in out.getvalue()
    with debug.blockdetection(30):
        pass
    with pytest.raises(RuntimeError, match="blocking detected"), debug.blockdetection(0.01):
        threading.Event().wait(20)


# --- Timers -----------------------------------------------------------------------------------------------------------


def test_a_timer_calls_in_the_order_of_time() -> None:
    timer = timer2.Timer()
    seen: list[str] = []
    held, done = threading.Event(), threading.Event()
    timer.call_after(0, held.wait)
    now = time.monotonic()
    timer.call_at(now + 0.05, lambda: (seen.append("late"), done.set()))
    timer.call_at(now + 0.01, seen.append, ("early",))
    timer.call_at(now + 0.02, seen.append, ("never",)).cancel()
    held.set()
    assert done.wait(10)
    assert seen == ["early", "late"]
    timer.stop()
    assert not timer.is_alive()


def test_repeated_calls_survive_errors_and_stop_when_cancelled() -> None:
    errors: list[Any] = []
    timer = timer2.Timer(on_error=errors.append)
    turns: list[int] = []
    enough = threading.Event()

    def turn() -> None:
        turns.append(1)
        if len(turns) == 3:
            entry.cancel()
            enough.set()
        raise ValueError("each time")

    entry = timer.call_repeatedly(0.005, turn)
    assert enough.wait(10)
    timer.stop()
    assert len(turns) == 3
    assert len(errors) == 3
    assert timer.empty()


def test_a_schedule_can_be_walked() -> None:
    schedule = timer2.Schedule(max_interval=2)
    walk = iter(schedule)
    assert next(walk) == (2.0, None)
    entry = schedule.call_at(dt.datetime.now(dt.UTC), lambda: 5)
    wait, due = next(walk)
    assert (wait, due) == (0.0, entry)
    assert due() == 5
    schedule.call_after(60, lambda: None)
    assert next(walk) == (2.0, None)
    assert len(schedule.queue) == 1
    schedule.clear()
    assert len(schedule) == 0


# --- Deprecation, annotations, abstract classes -----------------------------------------------------------------------


def test_deprecation() -> None:
    @deprecated.Callable(deprecation="4.0", removal="6.0", alternative="Use new().")
    def old() -> int:
        return 1

    class Holder:
        @deprecated.Property(removal="6.0")
        def value(self) -> int:
            return 2

    with pytest.warns(CPendingDeprecationWarning, match=r"old is scheduled .* v6.0. Use new\(\)."):
        assert old() == 1
    with pytest.warns(CDeprecationWarning, match="value is deprecated"):
        assert Holder().value == 2


def test_annotations() -> None:
    assert annotations.get_optional_arg(typing.Optional[int]) is int  # noqa: UP045 - one of the two spellings
    assert annotations.get_optional_arg(int | None) is int
    assert annotations.get_optional_arg(int | str | None) is None
    assert annotations.get_optional_arg(int) is None
    assert annotations.annotation_is_class(int)
    assert not annotations.annotation_is_class(list[int])
    assert annotations.annotation_issubclass(bool, int)
    assert not annotations.annotation_issubclass("bool", int)  # type: ignore[arg-type]
    assert annotations.is_none_type(type(None))


def test_whatever_has_the_methods_is_a_task() -> None:
    class Looks:
        def __call__(self) -> None: ...
        def delay(self) -> None: ...
        def apply(self) -> None: ...
        def apply_async(self) -> None: ...

    assert isinstance(Looks(), abstract.CallableTask)
    assert not isinstance(Looks(), abstract.CallableSignature)
    assert not isinstance(5, abstract.CallableTask)
