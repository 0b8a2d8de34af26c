"""Text, functions, objects, names, imports, threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid as stdlib_uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import celery.utils
from celery.utils import cached_property, uuid
from celery.utils.functional import (
    LRUCache,
    arity_greater,
    chunks,
    dictfilter,
    first,
    firstmethod,
    fun_accepts_kwargs,
    fun_takes_argument,
    head_from_fun,
    is_numeric_value,
    lazy,
    lookahead,
    mattrgetter,
    maybe_evaluate,
    maybe_list,
    memoize,
    mlazy,
    padlist,
    regen,
    seq_concat_item,
    seq_concat_seq,
    uniq,
)
from celery.utils.imports import (
    NotAPackage,
    find_module,
    gen_task_name,
    import_from_cwd,
    instantiate,
    module_exists,
    qualname,
    symbol_by_name,
)
from celery.utils.nodenames import (
    anon_nodename,
    default_nodename,
    gethostname,
    host_format,
    node_format,
    nodesplit,
    worker_direct,
)
from celery.utils.objects import Bunch, FallbackContext, getitem_property, mro_lookup
from celery.utils.saferepr import _Writer, saferepr
from celery.utils.text import (
    WhateverIO,
    abbr,
    abbrtask,
    ensure_newlines,
    indent,
    pluralize,
    simple_format,
    str_to_list,
    truncate,
)
from celery.utils.threads import Local, LocalStack, bgThread
from celery.utils.uuids import uuid7

# --- Text -------------------------------------------------------------------------------------------------------------


def test_text() -> None:
    assert abbr("hello world", 8) == "hello..."
    assert abbr(None, 3) == "???"
    assert abbrtask("foo.bar.baz.quux", 10) == "foo[.]quux"
    assert abbrtask("foo", 10) == "foo"
    assert ensure_newlines("a\n") == "a\n\n"
    assert indent("a\nb", 2) == "  a\n  b"
    assert (pluralize(1, "task"), pluralize(2, "task")) == ("task", "tasks")
    assert str_to_list("a,b") == str_to_list(["a", "b"]) == ["a", "b"]
    assert truncate("hello world", 8) == "hello..."
    buffer = WhateverIO(b"a")
    buffer.seek(1)
    buffer.write(b"b")
    buffer.write("c")
    assert buffer.getvalue() == "abc"


def test_simple_format() -> None:
    assert simple_format("%n-%h-%%", {"n": "N", "h": lambda: "H"}) == "N-H-%"
    with pytest.raises(ValueError, match="Unknown format %z in string '%z'"):
        simple_format("%z", {})


# --- saferepr ---------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner, max_size=3) | st.tuples(inner),
    max_leaves=8,
)


@given(st.lists(st.none() | st.integers() | st.text(max_size=5) | st.frozensets(st.integers(), max_size=2)))
def test_saferepr_of_shallow_values_is_repr(value: list[Any]) -> None:
    assert saferepr(value) == repr(value)
    assert saferepr(tuple(value)) == repr(tuple(value))


SMALL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    | st.tuples(inner, inner),
    max_leaves=6,
)  # fmt: skip


@given(st.lists(SMALL, max_size=3), st.integers(1, 80), st.integers(0, 5))
def test_saferepr_of_small_values_takes_no_other_way_than_of_all(value: list[Any], limit: int, levels: int) -> None:
    long_way = _Writer(limit, levels, set())
    long_way.write(value, 0)
    assert saferepr(value, limit, levels) == "".join(long_way.parts)


@given(VALUES, st.integers(10, 60))
def test_saferepr_is_never_much_longer_than_asked_for(value: Any, limit: int) -> None:
    assert len(saferepr(value, maxlen=limit)) <= 6 * limit + 80


def test_saferepr_of_what_repr_cannot_do() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise ValueError("no")

    loop: list[Any] = [1]
    loop.append(loop)
    assert saferepr(loop).startswith("[1, <Recursion on list with id=")
    assert saferepr((Bad(),)).startswith("(<Unrepresentable <class")
    assert saferepr([[[[[1]]]]]) == "[[[[[...]]]]]"
    assert len(saferepr(["x" * 10_000_000], 1024)) < 1100
    assert len(saferepr({"k": list(range(100_000))}, 1024)) < 1100
    assert len(saferepr(list(range(100_000)), 1024)) < 1100
    assert "..." in saferepr((10**5000,), 100) or "Unrepresentable" in saferepr((10**5000,), 100)


# --- Functions --------------------------------------------------------------------------------------------------------


NOTHING = object()


def sample(a: Any, b: Any = 1, *c: Any, d: Any, e: Any = NOTHING, **k: Any) -> None: ...


def plain(a: Any, b: Any = None) -> None: ...


class Called:
    def __call__(self, a: Any) -> None: ...

    def method(self, a: Any, /, b: Any = 1) -> None: ...


def refusal(fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the interpreter says of a call it refuses; counts left out, for a head has no `self` to count."""
    try:
        fun(*args, **kwargs)
    except TypeError as exc:
        text = str(exc).partition("(")[2]
        return "too many" if " positional argument" in text and " given" in text else text
    return None


CALLS = [(), (1,), (1, 2), (1, 2, 3)]
KEYWORDS: list[dict[str, Any]] = [{}, {"a": 1}, {"b": 1}, {"d": 1}, {"z": 1}, {"d": 1, "z": 2}]


@pytest.mark.parametrize("fun", [sample, plain, Called(), Called().method, lambda: None, lambda *, x=1: x])
@pytest.mark.parametrize("args", CALLS)
@pytest.mark.parametrize("kwargs", KEYWORDS)
def test_a_head_takes_what_the_function_takes(fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert refusal(head_from_fun(fun), args, kwargs) == refusal(fun, args, kwargs)


def test_the_head_of_a_bound_task_leaves_self_out() -> None:
    def task(self: Any, x: int) -> None: ...

    head_from_fun(task, bound=True)(1)
    with pytest.raises(TypeError, match=r"task\(\) missing 1 required positional argument: 'x'"):
        head_from_fun(task, bound=True)()


def test_what_functions_take() -> None:
    assert fun_accepts_kwargs(sample)
    assert not fun_accepts_kwargs(plain)
    assert fun_takes_argument("a", plain)
    assert not fun_takes_argument("z", plain)
    assert fun_takes_argument("z", sample)
    assert fun_takes_argument("z", plain, position=2)
    assert not fun_takes_argument("z", plain, position=3)
    assert arity_greater(plain, 1)
    assert not arity_greater(plain, 2)
    assert arity_greater(sample, 9)


def test_sequences() -> None:
    assert list(chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert padlist(["a"], 3) == ["a", None, None]
    assert padlist(["a", "b"], 1) == ["a"]
    assert first(lambda v: v > 1, [1, 2, 3]) == 2
    assert first(None, [None, 0]) == 0
    assert firstmethod("upper")([mlazy(lambda: "a")]) == "A"
    assert list(uniq([1, 1, 2, 1])) == [1, 2]
    assert list(lookahead([1, 2])) == [(1, 2), (2, None)]
    assert list(lookahead([])) == []
    assert mattrgetter("real", "nope")(3) == {"real": 3, "nope": None}
    assert seq_concat_item((1,), 2) == (1, 2)
    assert seq_concat_seq([1], (2,)) == [1, 2]
    assert [is_numeric_value(v) for v in (1, 1.5, True, "1")] == [True, True, False, False]
    assert [maybe_list(v) for v in ("a", None, [1], {"a": 1})] == [["a"], None, [1], [{"a": 1}]]
    assert dictfilter({"a": None, "b": 1}, c=None, e=0) == {"b": 1, "e": 0}


def test_lazy_values() -> None:
    import kombu.utils.functional

    calls: list[int] = []
    always: lazy[Any] = lazy(lambda n: calls.append(n) or len(calls), 5)
    assert (always(), always.evaluate()) == (1, 2)
    once: mlazy[Any] = mlazy(lambda: calls.append(0) or "v")
    assert (once(), once()) == ("v", "v")
    assert len(calls) == 3
    assert maybe_evaluate(once) == "v"
    assert maybe_evaluate(kombu.utils.functional.lazy(lambda: 7)) == 7
    assert maybe_evaluate(8) == 8


def test_regen_draws_no_further_than_it_is_looked_at() -> None:
    drawn: list[int] = []

    def source() -> Any:
        for n in range(5):
            drawn.append(n)
            yield n

    items = regen(source())
    assert not drawn
    assert bool(items)
    assert items[1] == 1
    assert drawn == [0, 1]
    assert "..." in repr(items)
    assert list(items) == list(items) == [0, 1, 2, 3, 4]
    assert items == [0, 1, 2, 3, 4]
    assert len(items) == 5
    assert items[-1] == 4
    assert regen((1,)) == (1,)
    assert not regen(iter(()))


def test_the_least_recently_used_is_forgotten() -> None:
    cache: LRUCache[str, int] = LRUCache(limit=2)
    cache["a"], cache["b"] = 1, 2
    assert cache["a"] == 1
    cache["c"] = 3
    assert sorted(cache) == ["a", "c"]
    assert cache.get("b") is None
    assert cache.incr("a") == 2
    assert dict(cache.items()) == {"a": 2, "c": 3}


def test_memoize() -> None:
    calls: list[Any] = []

    @memoize(maxsize=2)
    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    assert [double(1), double(1), double(2), double(3), double(1)] == [2, 2, 4, 6, 2]
    assert calls == [1, 2, 3, 1]
    double.clear()  # type: ignore[attr-defined]
    double(1)
    assert calls == [1, 2, 3, 1, 1]


# --- Objects ----------------------------------------------------------------------------------------------------------


def test_cached_property() -> None:
    class Holder:
        made = 0

        @cached_property
        def value(self) -> int:
            """A value."""
            self.made += 1
            return self.made

        @value.setter
        def value(self, value: int) -> int:
            return value * 10

        @value.deleter
        def value(self, value: int) -> None:
            self.deleted = value

    holder = Holder()
    assert (holder.value, holder.value) == (1, 1)
    holder.value = 5
    assert holder.value == 50
    del holder.value
    assert holder.deleted == 50
    assert holder.value == 2
    assert isinstance(Holder.value, cached_property)
    assert Holder.value.__doc__ == "A value."


def test_objects() -> None:
    assert Bunch(a=1).a == 1
    assert mro_lookup(bool, "__add__") is int
    assert mro_lookup(bool, "__add__", stop={int}) is None

    class Options(dict[str, Any]):
        queue = getitem_property("options.queue", "The queue.")

    holder = Options(options={})
    holder.queue = "q"
    assert (holder.queue, holder["options"]) == ("q", {"queue": "q"})
    assert Options.queue.__doc__ == "The queue."


def test_fallback_context() -> None:
    with FallbackContext(None, open, os.devnull) as made:
        assert not made.closed
    assert made.closed
    given = Bunch()
    with FallbackContext(given, open, "/nowhere") as same:
        assert same is given


# --- Names ------------------------------------------------------------------------------------------------------------


def test_nodenames() -> None:
    assert nodesplit("w@h") == ["w", "h"]
    assert nodesplit("h") == (None, "h")
    assert default_nodename("h") == "celery@h"
    assert default_nodename("w@h") == "w@h"
    assert default_nodename(None) == f"celery@{gethostname()}"
    assert host_format("%d %n %h", "a.b.c") == "b.c a a.b.c"
    assert node_format("%n-%h-%d-%i%I.log", "w1@host.example.com") == "w1-host.example.com-example.com-0.log"
    assert node_format("%p", "w1@host") == "w1@host"
    assert anon_nodename("h") == f"gen{os.getpid()}@h"


def test_the_queue_of_one_worker() -> None:
    queue = worker_direct("w@h")
    assert (queue.name, queue.routing_key, queue.exchange.name) == ("w@h.dq2", "w@h", "C.dq2")
    assert worker_direct(queue) is queue


def test_identifiers_are_random_uuids() -> None:
    made = [uuid() for _ in range(2000)]
    assert len(set(made)) == 2000
    for text in made[:300]:
        value = stdlib_uuid.UUID(text)
        assert (value.version, value.variant, str(value)) == (4, stdlib_uuid.RFC_4122, text)
    for place in (*range(14), *range(15, 36)):  # every digit is made of random bits, but for the one of the version
        assert len({text[place] for text in made}) == (1 if made[0][place] == "-" else 4 if place == 19 else 16)


def test_identifiers_that_say_when_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == 2000
    for text in made[:300]:
        value = stdlib_uuid.UUID(text)
        assert (value.version, value.variant, str(value)) == (7, stdlib_uuid.RFC_4122, text)
        assert before <= value.int >> 80 <= after
    moments = [text[:13] for text in made]
    assert moments == sorted(moments)


def test_a_forked_child_makes_other_identifiers() -> None:
    uuid()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, " ".join(uuid() for _ in range(50)).encode())
        os._exit(0)
    os.close(write)
    theirs = set(os.read(read, 4096).decode().split())
    os.close(read)
    os.waitpid(pid, 0)
    assert len(theirs) == 50
    assert not theirs & {uuid() for _ in range(300)}


def test_threads_make_different_identifiers() -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([uuid() for _ in range(500)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for texts in found for text in texts}) == 4000


# --- Imports ----------------------------------------------------------------------------------------------------------


def test_symbols_by_name() -> None:
    assert symbol_by_name("os.path:join") is os.path.join
    assert symbol_by_name("os.path.join") is os.path.join
    assert symbol_by_name("short", aliases={"short": "os.path:join"}) is os.path.join
    assert symbol_by_name(".path:join", package="os") is os.path.join
    assert symbol_by_name("os") is os
    assert symbol_by_name(3) == 3
    assert symbol_by_name("no_such_module:x", default=4) == 4
    assert symbol_by_name("os:no_such_name", default=5) == 5
    with pytest.raises(ModuleNotFoundError):
        symbol_by_name("no_such_module:x")
    with pytest.raises(AttributeError):
        symbol_by_name("os:no_such_name")
    assert instantiate("collections:OrderedDict", a=1) == {"a": 1}
    assert qualname(LRUCache) == qualname(LRUCache()) == "celery.utils.functional.LRUCache"
    assert module_exists("json")
    assert not module_exists("no.such.module")


def test_finding_modules() -> None:
    assert find_module("os.path") is os.path
    with pytest.raises(NotAPackage, match="os"):
        find_module("os.path.nope")
    with pytest.raises(ModuleNotFoundError):
        find_module("no_such_module")


def test_importing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "utils_words_local_module.py").write_text("value = 5")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert import_from_cwd("utils_words_local_module").value == 5
    assert sys.path == before


def test_task_names() -> None:
    assert gen_task_name(Bunch(main=None), "add", "proj.tasks") == "proj.tasks.add"
    assert gen_task_name(Bunch(main="proj"), "add", "__main__") == "proj.add"
    assert gen_task_name(Bunch(main=None), "add", None) == "__main__.add"


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_a_stack_belongs_to_its_thread() -> None:
    stack: LocalStack[int] = LocalStack()
    assert stack.push(1) == [1]
    stack.push(2)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append((stack.top, len(stack))))
    thread.start()
    thread.join()
    assert seen == [(None, 0)]
    assert (stack.top, stack.stack, len(stack)) == (2, [1, 2], 2)
    assert (stack.pop(), stack.pop(), stack.pop()) == (2, 1, None)


def test_a_stack_belongs_to_its_coroutine() -> None:
    import asyncio

    stack: LocalStack[str] = LocalStack()

    async def one(name: str, gate: asyncio.Barrier) -> Any:
        stack.push(name)
        await gate.wait()
        return stack.stack

    async def both() -> Any:
        gate = asyncio.Barrier(2)
        return await asyncio.gather(one("a", gate), one("b", gate))

    assert asyncio.run(both()) == [["a"], ["b"]]


def test_local() -> None:
    local = Local()
    local.a = 1
    assert dict(local) == {"a": 1}
    del local.a
    with pytest.raises(AttributeError):
        local.a  # noqa: B018 - the look-up is what is tested


def test_a_background_thread_turns_until_it_is_stopped() -> None:
    turned = threading.Event()

    class Worker(bgThread):
        def body(self) -> None:
            turned.set()
            self._shutdown.wait(0.01)

    worker = Worker()
    worker.start()
    assert turned.wait(10)
    worker.stop()
    assert not worker.is_alive()
    Worker().stop()


def test_the_package_is_light_and_complete() -> None:
    assert all(getattr(celery.utils, name) is not None for name in celery.utils.__all__)
    code = "import sys, celery.utils, celery.signals; sys.exit(any(m.split('.')[0] == 'kombu' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
