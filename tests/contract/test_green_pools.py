"""The pools of greenlets keep the contract, in processes of their own."""

from __future__ import annotations

import pytest

from rig.green import TESTS, run_green


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_the_pool_keeps_the_contract(library: str) -> None:
    run_green(library, str(TESTS / "contract" / "green_pools.py"))
