"""How much of a fault test runs: a short form with every run of the tests, the full one with `make chaos`."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest


class Form(NamedTuple):
    """How many tasks, under which lease (seconds), and how often the fault strikes.

    `again`: seconds within which workers must consume again when the fault is over. The full form holds the promise;
    the short one runs on machines that do other things as well.
    """

    tasks: int
    lease: float
    rounds: int
    again: float = 20.0


def forms(short: Form, full: Form, *more: Form, minutes: float = 10) -> pytest.MarkDecorator:
    """Parametrises a test with `form`. *more* are as long as the full one."""
    marks = [pytest.mark.chaos, pytest.mark.timeout(minutes * 60)]
    long = [pytest.param(form, id="full" + str(place or ""), marks=marks) for place, form in enumerate((full, *more))]
    return pytest.mark.parametrize("form", [pytest.param(short, id="short"), *long])


def rarely(value: str) -> Any:
    """A parameter that only `make chaos` runs."""
    return pytest.param(value, marks=pytest.mark.chaos)
