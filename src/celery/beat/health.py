"""`--health`: what a beat says of itself over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from celery.beat.shared import StoreScheduler
from celery.utils import healthnotes
from celery.utils.log import get_logger
from celery.utils.metrics import Counter, Gauge, Labels, Registry
from celery.worker.healthserver import HealthServer, Verdict, parse_address

if TYPE_CHECKING:
    from celery.beat.service import Service

logger = get_logger("celery.beat")

SHOWN = 100
"""Entries whose next run is among the figures: the soonest."""


class BeatHealth:
    """The service of one beat. Its loop is not live when it wakes up too late."""

    def __init__(self, service: Service, address: str) -> None:
        self.service = service
        self.patience = float(service.app.conf.worker_health_patience)
        self.registry = registry = Registry()
        registry.add(Gauge("celery_beat_leader", "Whether this beat sends what is due.", read=self._leads))
        registry.add(Gauge("celery_beat_entries", "Entries of the schedule.", read=self._entries))
        registry.add(Counter("celery_beat_turns_total", "Turns of the loop.", read=self._turns))
        registry.add(Gauge("celery_beat_idle_seconds", "Seconds since the loop has turned.", read=self._idle))
        registry.add(
            Gauge("celery_beat_next_run_timestamp_seconds", "When an entry is due next.", ("entry",), read=self._next)
        )
        checks = {"/livez": self.live, "/readyz": self.ready, "/startupz": self.ready}
        self.server = HealthServer(parse_address(address), checks, registry)

    def start(self) -> None:
        """Listen; raises ImproperlyConfigured where that is not possible."""
        self.server.start()
        logger.info("Health and metrics at %s", self.server.address.url)
        healthnotes.write(self.server.address.url, self.service.hostname or "celerybeat")

    def stop(self) -> None:
        healthnotes.remove()
        self.server.stop()

    def live(self) -> Verdict:
        """Whether the loop turns."""
        late = self.service.clock.monotonic() - self.service.awake_at
        if self.service.last_tick is not None and late > self.patience:
            return Verdict(False, (f"the loop is stuck: it was to turn {late:.0f} seconds ago",))
        return Verdict(True)

    def ready(self) -> Verdict:
        """Whether it has begun to tick, as the leader or standing by."""
        if self.service.last_tick is None:
            return Verdict(False, ("it has not begun to tick",))
        return self.live()

    def _leads(self) -> Iterable[tuple[Labels, float]]:
        scheduler = self.service.scheduler
        yield (
            (),
            float(scheduler.leads if isinstance(scheduler, StoreScheduler) else self.service.last_tick is not None),
        )

    def _entries(self) -> Iterable[tuple[Labels, float]]:
        yield (), float(len(self.service.known_entries()))

    def _turns(self) -> Iterable[tuple[Labels, float]]:
        yield (), float(self.service.turns)

    def _idle(self) -> Iterable[tuple[Labels, float]]:
        if self.service.last_tick is not None:
            yield (), self.service.clock.monotonic() - self.service.last_tick

    def _next(self) -> Iterable[tuple[Labels, float]]:
        for moment, name in self.service.scheduler.upcoming()[:SHOWN]:
            yield (name,), moment
