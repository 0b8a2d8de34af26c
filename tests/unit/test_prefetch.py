"""How much a worker holds, by what it has measured."""

from __future__ import annotations

import pytest

from celery.worker.prefetch import MOST, Prefetch


def measured(mean: float, *, multiplier: int = 4) -> Prefetch:
    prefetch = Prefetch(multiplier)
    prefetch.record(mean * 10, 10)
    return prefetch


def test_it_begins_with_the_multiplier() -> None:
    assert Prefetch(4).target(2) == 8


def test_without_a_multiplier_it_begins_with_all() -> None:
    assert Prefetch(0).target(2) == MOST


@pytest.mark.parametrize(
    ("mean", "held"), [(0.0, MOST), (0.00001, MOST), (0.001, 200), (0.01, 20), (0.1, 8), (0.5, 6), (1.0, 4), (60.0, 2)]
)
def test_it_holds_what_starts_soon(mean: float, held: int) -> None:
    assert measured(mean).target(2) == held


@pytest.mark.parametrize(
    ("size", "mean", "held"), [(1_000, 0.0, MOST), (1 << 20, 0.0, 32), (1 << 20, 0.01, 20), (1 << 26, 0.001, 8)]
)
def test_it_holds_fewer_where_messages_are_large(size: int, mean: float, held: int) -> None:
    prefetch = measured(mean)
    prefetch.weigh([size] * 10)
    assert prefetch.target(2) == held


def test_without_a_multiplier_large_messages_are_held_as_far_as_they_can_run() -> None:
    prefetch = measured(0.001, multiplier=0)
    prefetch.weigh([1 << 26])
    assert prefetch.target(2) == 2


def test_one_large_message_does_not_make_all_large() -> None:
    prefetch = measured(0.0)
    prefetch.weigh([100] * 100)
    prefetch.weigh([1 << 20])
    assert prefetch.target(2) > 500
    for _ in range(200):
        prefetch.weigh([100])
    assert prefetch.target(2) == MOST


def test_it_never_holds_less_than_can_run() -> None:
    assert measured(3600.0, multiplier=1).target(8) == 8


def test_disabled_means_what_can_run() -> None:
    prefetch = Prefetch(4, disabled=True)
    prefetch.record(0.00001, 1)
    assert prefetch.target(2) == 2


def test_a_stall_lasts_until_a_task_ends() -> None:
    prefetch = Prefetch(4)
    prefetch.stall()
    assert prefetch.target(2) == 2
    prefetch.record(0.1, 1)
    assert prefetch.target(2) == 8


def test_one_long_task_does_not_make_many_tiny_ones_long() -> None:
    prefetch = measured(0.001)
    prefetch.record(1.0, 1)
    assert prefetch.mean is not None
    assert 0.001 < prefetch.mean < 0.1
