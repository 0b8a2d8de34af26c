"""Objects that stand in for others."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest

from celery.local import LazyModule, PromiseProxy, Proxy, class_property, maybe_evaluate, try_import


class Thing:
    """A thing."""

    kind = "thing"

    def __init__(self, n: int = 1) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.n == self.n

    def __hash__(self) -> int:
        return hash(self.n)


def test_attributes_are_those_of_the_object() -> None:
    thing = Thing()
    proxy: Any = Proxy(lambda: thing)
    proxy.n = 5
    assert thing.n == 5
    del proxy.n
    assert not hasattr(thing, "n")
    proxy.n = 7
    assert proxy.__dict__ == {"n": 7}
    assert isinstance(proxy, Thing)
    assert proxy.__class__ is Thing
    assert "kind" in dir(proxy)
    assert proxy == Thing(7)
    assert hash(proxy) == hash(7)
    assert proxy._get_current_object() is thing


def test_the_object_is_asked_for_each_time() -> None:
    things = [Thing(1), Thing(2)]
    proxy: Any = Proxy(lambda index: things[index], (1,), name="current", __doc__="The current thing.")
    assert proxy.n == 2
    things[1] = Thing(3)
    assert proxy.n == 3
    assert proxy.__name__ == "current"
    assert proxy.__doc__ == "The current thing."


@pytest.mark.parametrize(
    ("value", "use"),
    [
        ([1, 2], lambda p: (p[0], len(p), list(p), 2 in p, p + [3], [0] + p, list(reversed(p)), bool(p), p * 2)),  # noqa: RUF005 - the operators are what is tested
        ({"a": 1}, lambda p: (p["a"], sorted(p), p | {"b": 2}, str(p), repr(p))),
        (7, lambda p: (p + 1, 1 + p, p - 1, 10 - p, p // 2, 15 // p, p % 4, divmod(p, 2), divmod(15, p), -p, ~p, p**2)),
        (
            7,
            lambda p: (
                2**p,
                p << 1,
                1 << p,
                p & 3,
                3 | p,
                p ^ 1,
                int(p),
                float(p),
                abs(p),
                round(p),
                hex(p),
                p < 8,
                p >= 7,
            ),
        ),
        ("ab", lambda p: (p.upper(), p == "ab", p != "c", f"{p:>5}", hash(p), p < "b")),
    ],
)
def test_operators_are_forwarded(value: Any, use: Any) -> None:
    assert use(Proxy(lambda: value)) == use(value)


def test_calls_contexts_and_items() -> None:
    values: dict[str, int] = {}
    proxy: Any = Proxy(lambda: values)
    proxy["a"] = 1
    del proxy["a"]
    assert not values
    caller: Any = Proxy(lambda: int)
    assert caller("5") == 5
    numbers: Any = Proxy(lambda: [1])
    numbers += [2]
    assert numbers == [1, 2]


def test_copies_and_pickles_are_of_the_object() -> None:
    thing = Thing(4)
    proxy = Proxy(lambda: thing)
    assert type(copy.copy(proxy)) is Thing
    assert pickle.loads(pickle.dumps(proxy)) == thing


def test_a_promise_is_made_once_and_calls_back() -> None:
    made: list[Thing] = []

    def make(n: int) -> Thing:
        made.append(Thing(n))
        return made[-1]

    proxy: Any = PromiseProxy(make, (9,))
    seen: list[Any] = []
    proxy.__then__(seen.append)
    assert not proxy.__evaluated__()
    assert proxy.n == 9
    assert proxy.n == 9
    assert len(made) == 1
    assert seen == made
    assert seen[0] is made[0]
    proxy.__then__(seen.append)
    assert len(seen) == 2
    assert maybe_evaluate(proxy) is made[0]
    assert maybe_evaluate(5) == 5


def test_a_promise_that_fails_can_be_tried_again() -> None:
    tries: list[int] = []

    def make() -> Thing:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not yet")
        return Thing()

    proxy: Any = PromiseProxy(make)
    with pytest.raises(RuntimeError):
        proxy.n  # noqa: B018 - the look-up is what is tested
    assert proxy.n == 1


def test_try_import() -> None:
    assert try_import("json") is sys.modules["json"]
    assert try_import("no_such_module_at_all", 5) == 5


def test_lazy_module() -> None:
    class Lazy(LazyModule):
        _object_origins = {"OrderedDict": "collections"}
        _direct = {"dumb": "json"}

    module: Any = Lazy("lazy")
    assert module.OrderedDict.__name__ == "OrderedDict"
    assert module.dumb is sys.modules["json"]
    assert "dumb" in dir(module)
    with pytest.raises(AttributeError):
        module.nope  # noqa: B018 - the look-up is what is tested


def test_class_property() -> None:
    class Holder:
        values = [1]

        @class_property
        def first(cls) -> int:
            return cls.values[0]

    assert Holder.first == 1
    assert Holder().first == 1
