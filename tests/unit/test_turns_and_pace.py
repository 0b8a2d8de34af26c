from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery.utils.pace import Pace, pace_of
from celery.utils.turns import Turns, weighed


@pytest.mark.parametrize(
    ("limit", "pace"),
    [
        (None, None),
        (0, None),
        ("0", None),
        ("10/s", Pace(0.1)),
        ("100/m", Pace(0.6)),
        ("2/h", Pace(1800.0)),
        (0.5, Pace(2.0)),
        (4, Pace(0.25)),
        (" 60/M ".lower(), Pace(1.0)),
    ],
)
def test_rates_become_distances(limit: str | float | None, pace: Pace | None) -> None:
    found = pace_of(limit)
    assert (found is None) == (pace is None)
    if found is not None and pace is not None:
        assert (found.interval, found.burst) == (pytest.approx(pace.interval), pace.burst)


def test_what_is_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="not a rate"):
        pace_of("often")


@given(count=st.integers(1, 5000), steps=st.lists(st.floats(0.0, 0.05), max_size=400))
def test_no_period_has_more_than_its_count_and_one(count: int, steps: list[float]) -> None:
    pace = pace_of(f"{count}/s")
    assert pace is not None
    now, following, started = 1000.0, 0.0, list[float]()
    for step in steps:
        now += step
        for _ in range(pace.available(following, now)):
            assert pace.at(following, now) <= now + 1e-9
            following = pace.after(following, now)
            started.append(now)
    for first, moment in enumerate(started):
        assert sum(moment <= other < moment + 1.0 for other in started[first:]) <= count + 1


def test_weights_are_read_from_names() -> None:
    assert weighed(["high:5", "low:1", "plain"], ()) == (["high", "low", "plain"], {"high": 5, "low": 1})
    assert weighed(["proj:9", "odd:x", ":3", "zero:0"], {"proj:9"}) == (["proj:9", "odd:x", ":3", "zero:0"], {})


@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    limits=st.lists(st.integers(1, 40), min_size=1, max_size=60),
)
def test_queues_are_served_by_weight(weights: list[int], limits: list[int]) -> None:
    names = [f"q{number}" for number in range(len(weights))]
    turns = Turns(names, dict(zip(names, weights, strict=True)))
    served = dict.fromkeys(names, 0)

    def take(name: str, count: int) -> list[str]:
        served[name] += count
        return [name] * count

    for limit in limits:
        assert len(turns.serve(limit, take)) == limit
    share = sum(limits) / sum(weights)
    for name, weight in zip(names, weights, strict=True):
        assert abs(served[name] - share * weight) <= max(limits) + weight + 1


def test_nobody_makes_up_for_what_it_had_not() -> None:
    turns = Turns(["a", "b"])
    turns.serve(100, lambda name, count: ["m"] * (count if name == "a" else 0))
    served = turns.serve(10, lambda name, count: [name] * count)
    assert served.count("b") <= 6


def test_strictly_in_order() -> None:
    turns = Turns(["a", "b"], strict=True)
    left = {"a": 3, "b": 9}

    def take(name: str, count: int) -> list[str]:
        found = min(left[name], count)
        left[name] -= found
        return [name] * found

    assert turns.serve(5, take) == ["a", "a", "a", "b", "b"]
