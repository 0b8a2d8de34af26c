"""Whether a worker lives and works: asked by nobody the worker could keep waiting.

A thread hands the loop a call every second and notes when it is answered; beside that stand the last answers of the
broker to the loop and to the lease keeper.  A broker that nobody can reach is no reason to restart a worker: it is not
ready, but lives.  One that others can reach, and this worker cannot, is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery.exceptions import BackendError, BrokerError
from celery.utils.clock import SYSTEM, Clock
from celery.utils.log import get_logger
from celery.worker.healthserver import Verdict

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer
    from celery.worker.controller import WorkController

logger = get_logger(__name__)

BEAT = 1.0
"""Seconds between two calls to the loop."""
LOOK_AGAIN = 5.0
"""Seconds between two attempts to reach, by a connection of one's own, a broker that does not answer the worker."""


class Watch:
    """Watches *controller* from the time it starts. *reaches* says whether the broker can be reached anew.

    *patience*: seconds for which the loop may not turn, or the broker not answer, before the worker is given up.
    """

    def __init__(
        self, controller: WorkController, patience: float, reaches: Callable[[], bool], clock: Clock = SYSTEM
    ) -> None:
        self.controller = controller
        self.patience = patience
        self.reaches = reaches
        self.clock = clock
        self.beat = min(BEAT, patience / 4)
        self._asked_at: float | None = None
        self._silent_since: float | None = None
        self._reachable = False
        self._looked_at = 0.0
        self._was_ready = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self.beat + LOOK_AGAIN)

    def _run(self) -> None:
        while not self._stopped.wait(self.beat):
            self.look()

    def look(self) -> None:
        """Ask the loop, and see whether the broker answers."""
        consumer = self.controller.consumer
        if consumer is None:
            return
        self._was_ready = self._was_ready or self.controller.ready.is_set()
        now = self.clock.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            consumer.call_soon(self._answer)
        if self._hears(consumer):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self.patience and now - self._looked_at > min(LOOK_AGAIN, self.patience):
            self._looked_at = now
            self._reachable = self._reaches()

    def _answer(self) -> None:
        """Called by the loop."""
        self._asked_at = None

    def _hears(self, consumer: Consumer) -> bool:
        """Whether what was last asked of the broker was answered, and not too long ago."""
        keeper = self.controller.keeper
        if not consumer.connected or keeper is None:
            return False
        return keeper.silence() <= max(self.patience, keeper.broker.lease)

    def _reaches(self) -> bool:
        try:
            return self.reaches()
        except (BrokerError, BackendError, OSError):
            return False
        except Exception:
            logger.exception("Cannot find out whether the broker can be reached")
            return False

    # -- what is asked ---------------------------------------------------------------------------------------------

    def stall(self) -> float:
        """Seconds for which the loop has not answered; 0 if it does, or runs a task on its own thread."""
        asked, consumer = self._asked_at, self.controller.consumer
        if asked is None or consumer is None:
            return 0.0
        if consumer.pool.name == "solo" and consumer.inside:
            return 0.0
        return max(0.0, self.clock.monotonic() - asked)

    def silence(self) -> float:
        """Seconds since it was noticed that the broker does not answer; 0 if it does."""
        since = self._silent_since
        return 0.0 if since is None else max(0.0, self.clock.monotonic() - since)

    def live(self) -> Verdict:
        """Whether restarting the worker would not help."""
        reasons = []
        if (stall := self.stall()) > self.patience:
            reasons.append(f"the loop has not turned for {stall:.0f} s")
        if (silence := self.silence()) > self.patience and self._reachable:
            reasons.append(f"the broker can be reached, but has not answered this worker for {silence:.0f} s")
        return Verdict(not reasons, tuple(reasons))

    def ready(self) -> Verdict:
        """Whether it claims and runs tasks."""
        controller, consumer = self.controller, self.controller.consumer
        reasons = list(self.live().reasons)
        if consumer is None or not controller.ready.is_set():
            reasons.append("the worker has stopped" if self._was_ready else "the worker has not started yet")
        elif consumer.stage != "run":
            reasons.append("the worker is shutting down")
        elif not consumer.connected or self._silent_since is not None:
            reasons.append("the broker or the result store does not answer")
        return Verdict(not reasons, tuple(reasons))

    def started(self) -> Verdict:
        """Whether it has begun to claim tasks, now or earlier."""
        if self._was_ready or self.controller.ready.is_set():
            return Verdict(True)
        return Verdict(False, ("the worker has not started yet",))
