"""Autoscaling: the pool grows with what waits and shrinks when it has been idle for a while.

What to do is decided without looking at anything (`slots_wanted`, `Calm`); `Autoscaler` looks once a second and does
it.  A class of your own, named by `worker_autoscaler`, overrides `_maybe_scale`.
"""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep
from celery.concurrency.base import Pool
from celery.exceptions import BrokerError
from celery.utils.log import get_logger
from celery.utils.threads import bgThread
from celery.worker.components import Pool as PoolMark

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer
    from celery.worker.controller import WorkController

logger = get_logger(__name__)

AUTOSCALE_KEEPALIVE = float(os.environ.get("AUTOSCALE_KEEPALIVE", "30"))
"""Seconds for which slots have to be superfluous before they go."""
EVERY = 1.0
"""Seconds between two looks."""
BEARABLE = 1.0
"""Seconds that what waits may take with the slots there are: for tiny tasks it is not worth making one more."""


def slots_wanted(busy: int, waiting: int, mean: float | None) -> int:
    """How many slots are worth having now.

    *busy* of them run something, *waiting* tasks wait, which run for *mean* seconds as far as that is known.
    """
    share = 1.0 if mean is None else min(1.0, mean / BEARABLE)
    return busy + math.ceil(waiting * share)


class Calm:
    """Lets a pool shrink to what it needed at most in the last `keepalive` seconds. Time is an argument."""

    def __init__(self, keepalive: float) -> None:
        self.keepalive = keepalive
        self._since: float | None = None
        self._most = 0

    def decide(self, now: float, size: int, wanted: int) -> int:
        """The size that a pool of *size* slots should have, of which *wanted* are worth having."""
        if wanted >= size:
            self._since = None
            return wanted
        if self._since is None:
            self._since, self._most = now, wanted
        self._most = max(self._most, wanted)
        if now - self._since < self.keepalive:
            return size
        most, self._since, self._most = self._most, now, wanted
        return most


class WorkerComponent(StartStopStep):
    """`worker.autoscaler`, by the name that steps require it by (`--autoscale`)."""

    label = "Autoscaler"
    conditional = True
    requires = (PoolMark,)


class Autoscaler(bgThread):
    """Keeps *pool* between *min_concurrency* (at least one) and *max_concurrency* slots."""

    def __init__(
        self,
        pool: Pool,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: WorkController | None = None,
        keepalive: float = AUTOSCALE_KEEPALIVE,
        mutex: Any = None,
    ) -> None:
        super().__init__(name="celery-autoscale")
        self.pool = pool
        self.mutex = mutex or threading.Lock()
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.worker = worker
        self.keepalive = keepalive
        self._calm = Calm(keepalive)

    # -- the thread ------------------------------------------------------------------------------------------------

    def body(self) -> None:
        self.maybe_scale()
        self._shutdown.wait(EVERY)

    def maybe_scale(self, req: Any = None) -> bool:
        """Look, and change the pool if that is worth it; whether it was. Any thread."""
        with self.mutex:
            try:
                return bool(self._maybe_scale(req))
            except (BrokerError, TimeoutError) as error:
                logger.debug("Autoscaling looks again later: %s", error)
                return False

    def _maybe_scale(self, req: Any = None) -> bool:
        """The policy: what subclasses override. Whether something was changed."""
        size = self.processes
        wanted = slots_wanted(self.busy, self.qty - self.busy, self._mean())
        target = self._bounded(self._calm.decide(time.monotonic(), size, wanted))
        if target > size:
            self.scale_up(target - size)
        elif target < size:
            self.scale_down(size - target)
        return target != size

    # -- what a policy looks at ------------------------------------------------------------------------------------

    @property
    def qty(self) -> int:
        """Tasks that run, are held or wait in the queues. Raises BrokerError."""
        consumer = self._consumer()
        return len(consumer.inside) + len(consumer.held) + self._ready(consumer)

    @property
    def busy(self) -> int:
        """Slots that run something."""
        return min(len(self._consumer().inside), self.processes)

    @property
    def processes(self) -> int:
        """Slots there are."""
        return self.pool.size

    @staticmethod
    def _ready(consumer: Consumer) -> int:
        return sum(stats.ready for stats in consumer.broker.stats(list(consumer.source.queues)))

    def _mean(self) -> float | None:
        return self._consumer().prefetch.mean

    # -- what it does ----------------------------------------------------------------------------------------------

    def scale_up(self, n: int) -> None:
        """*n* slots more, at once."""
        logger.info("Scaling up %s processes.", n)
        self._resize(self.processes + n)

    def scale_down(self, n: int) -> None:
        """*n* slots less, as soon as they have nothing to do."""
        logger.info("Scaling down %s processes.", n)
        self._resize(self.processes - n)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Change the bounds, and bring the pool within them; what they are now. Any thread."""
        with self.mutex:
            if max is not None:
                self.max_concurrency = max
            if min is not None:
                self.min_concurrency = min
            target = self._bounded(self.processes)
            if target != self.processes:
                self._resize(target)
            return self.max_concurrency, self.min_concurrency

    def info(self) -> dict[str, Any]:
        """Bounds and numbers, for `inspect stats`."""
        try:
            qty = self.qty
        except BrokerError:
            qty = len(self._consumer().inside) + len(self._consumer().held)
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": qty,
        }

    def _bounded(self, size: int) -> int:
        # A pool without a slot could claim nothing.
        return max(1, self.min_concurrency, min(size, self.max_concurrency))

    def _resize(self, size: int) -> None:
        self._consumer().ask(lambda: self.pool.resize(size), timeout=5.0)

    def _consumer(self) -> Consumer:
        consumer = self.worker.consumer if self.worker is not None else None
        if consumer is None:
            raise BrokerError("The worker does not consume.")
        return consumer
