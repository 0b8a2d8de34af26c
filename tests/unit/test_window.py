"""The arithmetic of windows: deep for tiny jobs, one for long and unknown ones, shared evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celery.concurrency.window import BUDGET, Pace, share

SECONDS = st.floats(min_value=0.0, max_value=1e5, allow_nan=False)


def test_a_slot_that_never_ran_a_job_gets_one() -> None:
    assert Pace().depth(64) == 1


def test_tiny_jobs_fill_the_window() -> None:
    pace = Pace()
    pace.learn(BUDGET / 1000)
    assert pace.depth(64) == 64


def test_the_window_holds_the_budget() -> None:
    pace = Pace()
    pace.learn(BUDGET / 10.5)
    assert pace.depth(64) == 10


def test_long_jobs_close_the_window_and_tiny_ones_open_it_again() -> None:
    pace = Pace(0.00001)
    closed = 0
    while pace.depth(256) > 1:
        pace.learn(1.0)
        closed += 1
    assert closed <= 8
    opened = 0
    while pace.depth(256) < 256:
        pace.learn(0.00001)
        opened += 1
    assert opened <= 60


def test_a_tiny_job_that_was_interrupted_leaves_the_window_open() -> None:
    pace = Pace(0.00001)
    pace.learn(0.008)
    assert pace.depth(128) == 128


def test_a_job_that_runs_longer_than_the_mean_closes_the_window_meanwhile() -> None:
    pace = Pace(0.00001)
    assert pace.depth(64, elapsed=0.00002) == 64
    assert pace.depth(64, elapsed=BUDGET) == 1
    assert pace.depth(64, elapsed=10.0) == 1


@given(st.lists(SECONDS), st.integers(1, 256), SECONDS)
def test_the_depth_is_between_one_and_the_most(durations: list[float], most: int, elapsed: float) -> None:
    pace = Pace()
    for duration in durations:
        pace.learn(duration)
    assert 1 <= pace.depth(most, elapsed) <= most


@given(SECONDS, st.integers(1, 256), SECONDS)
def test_the_window_never_grows_while_a_job_runs(mean: float, most: int, elapsed: float) -> None:
    pace = Pace(mean)
    assert pace.depth(most, elapsed * 2) <= pace.depth(most, elapsed)


@given(st.integers(0, 500), st.lists(st.integers(0, 80), max_size=12))
def test_shares_use_the_room_there_is_and_no_more(jobs: int, rooms: list[int]) -> None:
    shares = share(jobs, rooms)
    assert sum(shares) == min(jobs, sum(rooms))
    assert all(given_ <= room for given_, room in zip(shares, rooms, strict=True))


@given(st.integers(0, 500), st.lists(st.integers(0, 80), min_size=1, max_size=12))
def test_shares_are_even_among_those_with_room(jobs: int, rooms: list[int]) -> None:
    shares = share(jobs, rooms)
    open_shares = [given_ for given_, room in zip(shares, rooms, strict=True) if given_ < room]
    assert not open_shares or max(shares) - min(open_shares) <= 1


def test_what_does_not_divide_goes_to_the_first() -> None:
    assert share(1, [64, 1]) == [1, 0]
    assert share(5, [64, 64]) == [3, 2]
    assert share(10, [2, 64, 0]) == [2, 8, 0]
