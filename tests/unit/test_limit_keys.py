"""Keys of limits: what a template over the arguments of a task says, whichever way they are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.app.limits import Template, arguments, derive


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("keys", broker="memory://keys", set_as_current=False) as made:
        yield made


class Account:
    number = 7


def rest(a: Any, *rest: Any, b: Any = 2, **more: Any) -> None: ...


def plain(a: Any, b: Any = 2, *, c: Any = "c") -> None: ...


CALLS = [
    (plain, "{a}", (1,), {}, "1"),
    (plain, "of {a} and {b}", (1,), {}, "of 1 and 2"),
    (plain, "{b}{a}!", (), {"b": 5, "a": None}, "5None!"),
    (plain, "{c}", (1,), {"c": "d"}, "d"),
    (plain, "{c}", (1, 2), {}, "c"),
    (plain, "{0}-{1}-{2}", (1,), {"c": 3}, "1-2-3"),
    (plain, "{{{a}}} 100%", (1,), {}, "{1} 100%"),
    (plain, "no argument", (1,), {}, "no argument"),
    (plain, "{a.number}", (Account(),), {}, "7"),
    (plain, "{a[0]}", ("xyz",), {}, "x"),
    (plain, "{a:03d} {b!r}", (1, "x"), {}, "001 'x'"),
    (rest, "{a} {b} {x}", (1,), {"x": 9}, "1 2 9"),
    (rest, "{0} {1}", (1, 5), {}, "1 5"),
    (rest, "{0} {1}", (1,), {"b": 3}, "1 3"),
]


@pytest.mark.parametrize(("function", "template", "args", "kwargs", "key"), CALLS)
def test_templates(app: Celery, function: Any, template: str, args: Any, kwargs: Any, key: str) -> None:
    task = app.task(function, shared=False)
    for _ in range(2):
        assert derive(task, template, "concurrency_key", args, kwargs) == key


@pytest.mark.parametrize(("function", "template", "args", "kwargs", "key"), CALLS)
def test_a_template_that_was_read_says_what_binding_says(
    app: Celery, function: Any, template: str, args: Any, kwargs: Any, key: str
) -> None:
    task = app.task(function, shared=False)
    positional, named = arguments(task, args, kwargs)
    assert template.format(*positional, **named) == key
    assert Template(task, template).fill(args, kwargs) in {None, key}


def test_simple_templates_need_no_binding(app: Celery) -> None:
    task = app.task(plain, shared=False)
    found = [Template(task, text).fill(args, kwargs) for _, text, args, kwargs, _ in CALLS[:8]]
    assert found == [key for *_, key in CALLS[:8]]


@pytest.mark.parametrize("template", ["{missing}", "{a", "{5}", "{a.nothing}"])
def test_templates_that_do_not_fit(app: Celery, template: str) -> None:
    task = app.task(plain, shared=False)
    with pytest.raises(ValueError, match="does not fit its arguments"):
        derive(task, template, "concurrency_key", (1,), {})


def test_an_argument_that_is_not_there_yet(app: Celery) -> None:
    with pytest.raises(ValueError, match="does not fit its arguments"):
        derive(app.task(plain, shared=False), "{a}", "concurrency_key", (), {})
