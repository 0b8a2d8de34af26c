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

TIDY = 600.0
"""Seconds between removals of expired results."""


class LeaseKeeper:
    """A thread that renews every third of the lease and sweeps every fourth, with jitter.

    It calls *renew* (any thread may) and, when that says that the lease had been lost, *on_lost*, from its own thread.
    An unreachable broker is logged once and tried again every second.
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

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leases end by themselves from now on. Returns when the thread has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self.broker.lease)

    def _run(self) -> None:
        lease = self.broker.lease
        now = self.clock.monotonic()
        renew_at, sweep_at, tidy_at = now + lease / 3, now + random.uniform(0, lease / 4), now + TIDY
        while not self._stopped.wait(max(0.0, min(renew_at, sweep_at) - self.clock.monotonic())):
            now = self.clock.monotonic()
            try:
                if now >= renew_at:
                    renew_at = now + lease / 3
                    if not self.renew():
                        self.on_lost()
                if now >= sweep_at:
                    sweep_at = now + lease / 4 * random.uniform(0.8, 1.2)
                    self._sweep()
                if now >= tidy_at and self.store is not None:
                    tidy_at = now + TIDY
                    self.store.expire()
            except (BrokerError, BackendError) as error:
                self._report(error)
                renew_at = sweep_at = now + min(1.0, lease / 3)
            else:
                self._reachable = True

    def _sweep(self) -> None:
        swept = self.broker.sweep()
        if swept:
            logger.warning("A worker is gone: %s of its messages are back in their queues", swept)

    def _report(self, error: Exception) -> None:
        if self._reachable:
            self._reachable = False
            logger.error("Cannot keep the leases of this worker, trying again every second: %s", error)
