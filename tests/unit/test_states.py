"""States and which one outweighs which."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery import states
from celery.states import PRECEDENCE, precedence, state

KNOWN = [name for name in PRECEDENCE if name is not None]


def test_the_sets() -> None:
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert states.READY_STATES.isdisjoint(states.UNREADY_STATES)
    assert states.PROPAGATE_STATES <= states.EXCEPTION_STATES
    assert "IGNORED" not in states.ALL_STATES


@pytest.mark.parametrize(("stronger", "weaker"), list(pairwise(KNOWN)))
def test_the_order(stronger: str, weaker: str) -> None:
    assert state(stronger) > state(weaker)
    assert state(weaker) < state(stronger)
    assert state(stronger) >= state(stronger)
    assert state(weaker) <= state(stronger)


def test_custom_states_stand_between_final_and_started() -> None:
    assert state("PROGRESS") > state("STARTED")
    assert state("PROGRESS") < state("SUCCESS")
    assert precedence("PROGRESS") == precedence("ANYTHING") == states.NONE_PRECEDENCE


@given(st.sampled_from([*KNOWN, "PROGRESS"]), st.sampled_from([*KNOWN, "PROGRESS"]))
def test_the_order_is_total(left: str, right: str) -> None:
    assert (state(left) > right) == (state(right) < left)
    assert (state(left) >= right) != (state(left) < right)
    assert state(left) == left
