"""The keeper of leases: when it renews, when it sweeps, and when it had better not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery.backends.memory import MemoryStore
from celery.brokers.memory import MemoryBroker
from celery.exceptions import BrokerError
from celery.utils.clock import FakeClock
from celery.worker.leases import TIDY, LeaseKeeper

LEASE = 30.0


class Clock(FakeClock):
    """A clock whose wall time can be put forward by itself."""

    put_forward = 0.0

    def time(self) -> float:
        return super().time() + self.put_forward


class Told(MemoryBroker):
    sweeps = 0

    def sweep(self) -> int:
        self.sweeps += 1
        return 0


class Keeper:
    """A keeper whose thread does not run: the test looks for it, whenever something is due."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = Told("memory://keeper", clock=self.clock, options={"lease": LEASE})
        self.renewals = self.losses = 0
        self.error: Exception | None = None
        self.kept = True
        self.inner = LeaseKeeper(self.broker, self.renew, self.lose, clock=self.clock)

    def renew(self) -> bool:
        if self.error is not None:
            raise self.error
        self.renewals += 1
        return self.kept

    def lose(self) -> None:
        self.losses += 1

    def go_on(self, seconds: float) -> None:
        """Let time pass, looking whenever it is due."""
        end = self.clock.monotonic() + seconds
        while self.inner.due() <= end:
            self.clock.advance(max(0.0, self.inner.due() - self.clock.monotonic()) + 0.001)
            self.inner.look()
        self.clock.advance(end - self.clock.monotonic())


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_it_renews_thrice_and_sweeps_four_times_a_lease(keeper: Keeper) -> None:
    keeper.go_on(10 * LEASE)
    assert 29 <= keeper.renewals <= 31
    assert 32 <= keeper.broker.sweeps <= 52


def test_a_lost_lease_is_told(keeper: Keeper) -> None:
    keeper.kept = False
    keeper.go_on(LEASE / 2)
    assert keeper.losses == 1


def stand_still(keeper: Keeper) -> None:
    keeper.clock.advance(2 * LEASE)


def put_clock_forward(keeper: Keeper) -> None:
    keeper.clock.put_forward = 2 * LEASE


@pytest.mark.parametrize("happen", [stand_still, put_clock_forward])
def test_after_a_standstill_the_others_may_renew_before_it_sweeps(
    keeper: Keeper, happen: Callable[[Keeper], object]
) -> None:
    keeper.go_on(LEASE)
    happen(keeper)
    renewals, sweeps = keeper.renewals, keeper.broker.sweeps
    keeper.go_on(LEASE / 3 + 1)
    assert keeper.renewals > renewals
    assert keeper.broker.sweeps == sweeps
    keeper.go_on(LEASE)
    assert keeper.broker.sweeps > sweeps


def test_so_they_may_after_an_outage(keeper: Keeper) -> None:
    keeper.go_on(LEASE)
    keeper.error = BrokerError("out of reach")
    keeper.go_on(2 * LEASE)
    keeper.error, sweeps = None, keeper.broker.sweeps
    keeper.go_on(LEASE / 3 + 1)
    assert keeper.broker.sweeps == sweeps
    keeper.go_on(LEASE)
    assert keeper.broker.sweeps > sweeps


def test_a_defect_below_does_not_end_it(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    keeper.error = ZeroDivisionError("a defect")
    keeper.go_on(LEASE)
    keeper.error = None
    keeper.go_on(LEASE)
    assert keeper.renewals
    assert "a defect" in caplog.text


def test_expired_results_go_in_portions_between_renewals() -> None:
    class Store(MemoryStore):
        left = 3

        def expire(self) -> int:
            self.left = max(0, self.left - 1)
            return self.left

    keeper = Keeper()
    store = keeper.inner.store = Store("memory://keeper")
    keeper.go_on(TIDY / 4)
    assert store.left == 0
    assert keeper.renewals >= TIDY / 4 / LEASE * 3 - 1
