"""Keeps the leases of this worker and sweeps those of dead ones, whatever the loop is busy with."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.exceptions import BackendError, BrokerError
from celery.utils.clock import SYSTEM, Clock
from celery.utils.log import get_logger

logger = get_logger(__name__)

TIDY_FIRST, TIDY = 60.0, 600.0
"""Seconds to the first removal of expired results, and between two of them."""


class LeaseKeeper:
    """A thread that renews every third of the lease and sweeps every fourth, with jitter.

    It calls *renew* (any thread may) and, when that says that the lease had been lost, *on_lost*, from its own thread.
    An unreachable broker is logged once and tried again every second.

    Where this process, its machine or the broker stood still, or the clock was put forward, the leases of living
    workers have run out as well: they get the time to renew them before this one sweeps.
    """

    def __init__(
        self,
        broker: Broker,
        renew: Callable[[], bool],
        on_lost: Callable[[], None],
        *,
        store: Store | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.broker = broker
        self.renew = renew
        self.on_lost = on_lost
        self.store = store
        self.clock = clock
        self._stopped = threading.Event()
        self._reachable = True
        self._thread = threading.Thread(target=self._run, name="celery-leases", daemon=True)
        lease, now = broker.lease, clock.monotonic()
        self._renew_at = now + lease / 3
        self._sweep_at = now + random.uniform(0, lease / 4)
        self._tidy_at = now + TIDY_FIRST * random.uniform(0.8, 1.2)
        self._looked = now, clock.time()
        self._renewed_at = now

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leases end by themselves from now on. Returns when the thread has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self.broker.lease)

    def _run(self) -> None:
        while not self._stopped.wait(max(0.0, self.due() - self.clock.monotonic())):
            self.look()

    def silence(self) -> float:
        """Seconds since the broker last answered a renewal. Any thread."""
        return max(0.0, self.clock.monotonic() - self._renewed_at)

    def due(self) -> float:
        """When, on the monotonic clock, `look` is to be called next."""
        return min(self._renew_at, self._sweep_at)

    def look(self) -> None:
        """Do what is due by now. Raises nothing."""
        lease, now = self.broker.lease, self.clock.monotonic()
        if self._stood_still(now):
            self._renew_at, self._sweep_at = now, now + lease / 2
        try:
            if now >= self._renew_at:
                self._renew_at = now + lease / 3
                kept = self.renew()
                self._renewed_at = now
                if not kept:
                    self.on_lost()
            if now >= self._sweep_at:
                self._sweep_at = now + lease / 4 * random.uniform(0.8, 1.2)
                self._sweep()
            if now >= self._tidy_at and self.store is not None:
                # What is left when its time is up comes next, after a renewal should that be due.
                self._tidy_at = now + (TIDY if not self.store.expire() else lease / 4)
        except (BrokerError, BackendError) as error:
            self._report(error)
            self._try_again()
        except Exception:
            # A defect somewhere below. Without this thread the worker would lose all it has, a lease later.
            logger.exception("Keeping the leases of this worker failed; trying again in a second")
            self._reachable = False
            self._try_again()
        else:
            if not self._reachable:
                self._reachable, self._sweep_at = True, now + lease / 2

    def _stood_still(self, now: float) -> bool:
        """Whether more time has passed than this thread meant to sleep, for it or for the wall clock only."""
        then, wall_then = self._looked
        wall = self.clock.time()
        self._looked = now, wall
        bearable = self.broker.lease / 3
        return now - self.due() > bearable or (wall - wall_then) - (now - then) > bearable

    def _try_again(self) -> None:
        now, lease = self.clock.monotonic(), self.broker.lease
        self._renew_at, self._sweep_at = now + min(1.0, lease / 3), now + lease

    def _sweep(self) -> None:
        swept = self.broker.sweep()
        if swept:
            logger.warning("A worker is gone: %s of its messages are back in their queues", swept)

    def _report(self, error: Exception) -> None:
        if self._reachable:
            self._reachable = False
            logger.error("Cannot keep the leases of this worker, trying again every second: %s", error)
