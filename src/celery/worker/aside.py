"""Renews the lease of a worker of greenlets from a thread of its own, which a task that only computes cannot hold up.

Everything else of `LeaseKeeper` stays with the greenlets, also to tell that the lease was lost: nobody would read it
before the task has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from celery.brokers.base import Consumer
from celery.exceptions import BrokerError
from celery.utils.descriptors import is_green
from celery.utils.native import original, start_apart
from celery.worker.claims import Claims

LOOK = 0.25
"""Seconds between looks at whether it is to end."""


class Aside:
    """Renews four times in a lease until `stop`. Does nothing where threads are real, or the broker has no such way."""

    def __init__(self, claims: Claims, lease: float) -> None:
        self._claims = claims
        self._lease = lease
        self._stopped = False
        self._renewals: dict[Consumer, Callable[[], object]] = {}

    def start(self) -> None:
        if is_green() and all(type(one).renew_apart is not Consumer.renew_apart for one in self._claims.everyone()):
            start_apart(self._run)

    def stop(self) -> None:
        """It renews no more; its thread ends soon."""
        self._stopped = True

    def _run(self) -> None:
        clock = original("time")
        due = clock.monotonic() + self._lease / 4
        with ExitStack() as stack:
            while not self._stopped:
                if clock.monotonic() >= due:
                    due = clock.monotonic() + (self._lease / 4 if self._renew(stack) else min(1.0, self._lease / 8))
                clock.sleep(min(LOOK, self._lease / 8))

    def _renew(self, stack: ExitStack) -> bool:
        """Whether the broker was there. If not, the keeper reports it."""
        try:
            for consumer in self._claims.everyone():
                if consumer not in self._renewals:
                    self._renewals[consumer] = stack.enter_context(consumer.renew_apart())
                self._renewals[consumer]()
        except BrokerError:
            return False
        return True
