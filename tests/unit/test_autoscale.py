"""When a pool grows and shrinks: decisions without a pool."""

from __future__ import annotations

from typing import Any

import pytest

from celery.exceptions import ImproperlyConfigured
from celery.worker.autoscale import Calm, slots_wanted
from celery.worker.options import autoscale_of


@pytest.mark.parametrize(
    ("busy", "waiting", "mean", "wanted"),
    [
        (0, 0, None, 0),
        (2, 0, 5.0, 2),
        (2, 3, 5.0, 5),  # a slot for everyone who waits
        (2, 3, None, 5),  # nothing is known yet
        (2, 1000, 0.001, 3),  # a second's work: one more slot does it
        (2, 100, 0.1, 12),
    ],
)
def test_slots_worth_having(busy: int, waiting: int, mean: float | None, wanted: int) -> None:
    assert slots_wanted(busy, waiting, mean) == wanted


def test_it_grows_at_once() -> None:
    assert Calm(30).decide(0.0, 2, 9) == 9


def test_it_shrinks_after_a_while_to_what_was_needed_at_most() -> None:
    calm = Calm(30)
    assert calm.decide(0.0, 10, 1) == 10
    assert calm.decide(10.0, 10, 4) == 10
    assert calm.decide(29.0, 10, 0) == 10
    assert calm.decide(30.0, 10, 0) == 4
    assert calm.decide(40.0, 4, 0) == 4
    assert calm.decide(60.0, 4, 0) == 0


def test_one_rush_begins_the_while_anew() -> None:
    calm = Calm(30)
    assert calm.decide(0.0, 10, 1) == 10
    assert calm.decide(20.0, 10, 10) == 10
    assert calm.decide(31.0, 10, 1) == 10
    assert calm.decide(61.0, 10, 1) == 1


@pytest.mark.parametrize(
    ("value", "bounds"),
    [("10,3", (10, 3)), ("3,10", (10, 3)), ("10", (10, 1)), (10, (10, 1)), ((10, 3), (10, 3)), ("10,0", (10, 1))],
)
def test_bounds_as_they_are_given(value: Any, bounds: tuple[int, int]) -> None:
    assert autoscale_of(value) == bounds


def test_bounds_of_the_settings() -> None:
    assert autoscale_of(None) is None
    assert autoscale_of(None, 8, 2) == (8, 2)
    assert autoscale_of(None, 8) == (8, 1)
    assert autoscale_of("4,2", 8, 1) == (4, 2)


@pytest.mark.parametrize("value", ["many", "1,2,3", "0", "-1,2", "4,"])
def test_bounds_that_are_none(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="'10,3'"):
        autoscale_of(value)
