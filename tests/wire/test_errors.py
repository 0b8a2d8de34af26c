"""Exceptions as data, and back without running what a store says."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from celery.exceptions import MaxRetriesExceededError, Retry, SecurityError
from celery.wire.errors import RemoteTraceback, exception_from_data, exception_to_data, with_remote_traceback


class Outer:
    class Inner(Exception):
        pass


class Demanding(Exception):
    def __init__(self, a: int, b: int) -> None:
        self.pair = (a, b)
        super().__init__("one")


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x", 1),
        KeyError(),
        OSError(2, "no"),
        SystemExit(3),
        MaxRetriesExceededError("a"),
        Outer.Inner(1, None),
    ],
)
def test_there_and_back(exc: BaseException) -> None:
    data = exception_to_data(exc)
    back = exception_from_data(data)
    assert type(back) is type(exc)
    assert back.args == exc.args


def test_what_json_cannot_carry_becomes_its_repr() -> None:
    data = exception_to_data(ValueError({1}, object, b"raw"))
    assert data == {
        "exc_type": "ValueError",
        "exc_message": ["{1}", "<class 'object'>", b"raw"],
        "exc_module": "builtins",
    }
    assert exception_to_data(ValueError({1}), "pickle")["exc_message"] == [{1}]


def test_an_init_that_refuses_its_arguments_does_not_cost_the_class() -> None:
    back = exception_from_data(exception_to_data(Demanding(1, 2)))
    assert isinstance(back, Demanding)
    assert back.args == ("one",)


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "int"), ("builtins", "eval"), ("os.path", "join")]
)
def test_nothing_but_exceptions_is_called(module: str, name: str) -> None:
    with pytest.raises(SecurityError, match="Expected an exception class"):
        exception_from_data({"exc_type": name, "exc_message": ["1"], "exc_module": module})


def test_nothing_is_imported() -> None:
    import sys

    sys.modules.pop("this", None)
    back = exception_from_data({"exc_type": "Zen", "exc_message": [], "exc_module": "this"})
    assert "this" not in sys.modules
    assert type(back).__name__ == "Zen"
    assert type(back).__module__ == "this"


@pytest.mark.parametrize(
    "data", [{"exc_type": "Foo", "exc_message": ["a"]}, {"exc_type": "Foo", "exc_message": "a", "exc_module": None}]
)
def test_a_class_that_is_not_here_is_made_up(data: Any) -> None:
    back = exception_from_data(data)
    assert isinstance(back, Exception)
    assert (type(back).__name__, type(back).__module__, back.args) == ("Foo", "celery.backends.base", ("a",))


def test_other_data() -> None:
    assert exception_from_data(None) is None
    exc = ValueError()
    assert exception_from_data(exc) is exc
    assert isinstance(exception_from_data("text"), Exception)
    with pytest.raises(ValueError, match="exception type"):
        exception_from_data({"exc_message": ["a"]})


def test_a_retry_is_carried() -> None:
    data = exception_to_data(Retry("m", ValueError(3), 3))
    assert data["exc_type"] == "Retry"
    assert isinstance(exception_from_data(data), Retry)


def test_the_remote_traceback_is_shown() -> None:
    exc = with_remote_traceback(ValueError("x"), "Traceback of there\n  line 1\n")
    text = "".join(traceback.format_exception(exc))
    assert "Traceback of there" in text
    assert isinstance(exc.__cause__, RemoteTraceback)
    assert with_remote_traceback(ValueError("x"), None).__cause__ is None
