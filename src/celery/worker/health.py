"""`--health`: what a worker says of itself over HTTP, and where it notes the address for `celery health`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery.app.backends import make_broker
from celery.brokers.base import QueueStats
from celery.exceptions import BrokerError
from celery.utils import healthnotes
from celery.utils.log import get_logger
from celery.utils.metrics import Labels, Registry
from celery.worker import state
from celery.worker.healthserver import HealthServer, parse_address
from celery.worker.tally import Tally
from celery.worker.watch import Watch

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer
    from celery.worker.controller import WorkController

logger = get_logger(__name__)

FRESH = 1.0
"""Seconds for which the figures of the queues are not asked for again."""
Series = Iterable[tuple[Labels, float]]


class Health:
    """The service of one worker. Costs its loop a note for each task, and nothing when it is not there."""

    def __init__(self, controller: WorkController, address: str) -> None:
        self.controller = controller
        self.registry = Registry()
        self.tally = Tally(self.registry, controller.hostname)
        conf = controller.app.conf
        # While the broker is away the loop spends so long on each of its attempts.
        patience = max(float(conf.worker_health_patience), 2 * float(conf.broker_publish_timeout))
        self.watch = Watch(controller, patience, self._reaches)
        self.figures = Figures(controller, self.watch)
        self.figures.register(self.registry)
        checks = {"/livez": self.watch.live, "/readyz": self.watch.ready, "/startupz": self.watch.started}
        self.server = HealthServer(parse_address(address), checks, self.registry)

    def start(self) -> None:
        """Listen; raises ImproperlyConfigured where that is not possible. Before anything of the worker starts."""
        self.server.start()
        self.watch.start()
        url = self.server.address.url
        logger.info("Health and metrics at %s", url)
        healthnotes.write(url, self.controller.hostname)

    def attach(self, consumer: Consumer) -> None:
        """Count what becomes of this consumer's tasks."""
        self.tally.attach(consumer)

    def stop(self) -> None:
        healthnotes.remove()
        self.watch.stop()
        self.server.stop()

    def _reaches(self) -> bool:
        """Whether somebody else could reach the broker now."""
        app = self.controller.app
        broker = make_broker(app, app.conf.broker_read_url)
        try:
            broker.connect()
            broker.stats(self.controller.queue_names)
        finally:
            broker.close()
        return True


class Figures:
    """The levels that are read when somebody asks for them."""

    def __init__(self, controller: WorkController, watch: Watch) -> None:
        self.controller = controller
        self.watch = watch
        self.node = (controller.hostname,)
        self._queues: list[QueueStats] = []
        self._asked = 0.0
        self._asking = threading.Lock()

    def register(self, registry: Registry) -> None:
        """Give *registry* all of them, those that celery-exporter has under its names."""
        node, queue = ("hostname",), ("queue_name",)
        own: tuple[tuple[str, str, Callable[[Consumer], float]], ...] = (
            ("celery_worker_tasks_active", "Tasks that run.", lambda c: min(len(c.inside), c.pool.size)),
            ("celery_worker_slots", "Slots of the pool.", lambda c: c.pool.size),
            ("celery_worker_leases", "Messages that this worker has under lease.", _leases),
            ("celery_worker_unsettled", "Tasks that ended and are not committed.", lambda c: len(c.endings.waiting)),
            ("celery_worker_broker_connected", "1 if the broker answers.", lambda c: c.connected),
        )  # fmt: skip
        registry.gauge("celery_worker_up", "1 while the worker claims tasks.", node, self._up)
        for name, help, read in own:
            registry.gauge(name, help, node, self._of_consumer(read))
        registry.gauge("celery_worker_loop_stall_seconds", "Seconds the loop has not turned for.", node, self._stall)
        registry.gauge("celery_worker_lease_age_seconds", "Seconds since the lease was renewed.", node, self._silence)
        registry.counter("celery_worker_settled_total", "Messages that were settled.", node, self._settled)
        registry.counter(
            "celery_worker_settlements_refused_total",
            "Results that were refused because the lease on the message was lost.",
            node,
            self._refused,
        )
        registry.counter("celery_worker_started_total", "Tasks that were handed to the pool.", node, self._begun)
        levels: tuple[tuple[str, str, Callable[[QueueStats], float | None]], ...] = (
            ("celery_queue_length", "Messages that are ready.", lambda stats: stats.ready),
            ("celery_queue_leased", "Messages that workers have.", lambda stats: stats.leased),
            ("celery_queue_delayed", "Messages that are not due yet.", lambda stats: stats.delayed),
            ("celery_queue_dead", "Messages in the dead set.", lambda stats: stats.dead),
            ("celery_queue_oldest_seconds", "Age of the oldest ready message.", lambda stats: stats.oldest),
            ("celery_active_consumer_count", "Workers that consume from the queue.", lambda stats: stats.consumers),
        )  # fmt: skip
        for name, help, read_queue in levels:
            registry.gauge(name, help, queue, self._of_queues(read_queue))
        registry.gauge("celery_active_worker_count", "1 for each queue of this worker.", queue, self._workers)
        registry.gauge(
            "celery_active_process_count", "Slots of this worker, for each of its queues.", queue, self._processes
        )
        _register_process(registry)

    # -- this worker -----------------------------------------------------------------------------------------------

    def _up(self) -> Series:
        return [(self.node, float(self.controller.ready.is_set()))]

    def _of_consumer(self, read: Callable[[Consumer], float]) -> Callable[[], Series]:
        def figure() -> Series:
            consumer = self.controller.consumer
            return [] if consumer is None else [(self.node, float(read(consumer)))]

        return figure

    def _stall(self) -> Series:
        return [(self.node, self.watch.stall())]

    def _silence(self) -> Series:
        keeper = self.controller.keeper
        return [] if keeper is None else [(self.node, keeper.silence())]

    def _settled(self) -> Series:
        return self._of_consumer(lambda consumer: consumer.ledger.committed)()

    def _refused(self) -> Series:
        return self._of_consumer(lambda consumer: consumer.ledger.stale)()

    def _begun(self) -> Series:
        return [(self.node, float(state.all_total_count[0]))]

    # -- queues ----------------------------------------------------------------------------------------------------

    def _of_queues(self, read: Callable[[QueueStats], float | None]) -> Callable[[], Series]:
        def figures() -> Series:
            found = [((stats.name,), read(stats)) for stats in self.queues()]
            return [(labels, float(value)) for labels, value in found if value is not None]

        return figures

    def queues(self) -> list[QueueStats]:
        """The figures of this worker's queues, at most `FRESH` seconds old; none while the broker does not answer."""
        consumer = self.controller.consumer
        if consumer is None or not consumer.connected:
            return []
        with self._asking:
            now = time.monotonic()
            if now - self._asked >= FRESH:
                try:
                    self._queues = self.controller.broker.stats(consumer.source.queues)
                except BrokerError as error:
                    logger.debug("Cannot ask for the figures of the queues: %s", error)
                    self._queues = []
                self._asked = time.monotonic()
            return self._queues

    def _workers(self) -> Series:
        return [((queue,), 1.0) for queue in self._consumed()]

    def _processes(self) -> Series:
        pool = self.controller.pool
        return [((queue,), float(pool.size)) for queue in self._consumed()] if pool is not None else []

    def _consumed(self) -> tuple[str, ...]:
        consumer = self.controller.consumer
        return tuple(consumer.source.queues) if consumer is not None and self.controller.ready.is_set() else ()


def _leases(consumer: Consumer) -> float:
    return len(consumer.held) + len(consumer.inside) + len(consumer.endings.waiting)


def _register_process(registry: Registry) -> None:
    """What Prometheus' own clients say of a process."""
    resource: Any = import_module("resource")
    page = resource.getpagesize()
    began = time.time()

    def memory() -> Series:
        try:
            with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a file of the kernel's
                return [((), float(int(file.read().split()[1]) * page))]
        except OSError:
            unit = 1 if sys.platform == "darwin" else 1024
            return [((), float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))]

    def cpu() -> Series:
        used = os.times()
        return [((), used.user + used.system)]

    registry.counter("process_cpu_seconds_total", "Seconds of processor time of the main process.", read=cpu)
    registry.gauge("process_resident_memory_bytes", "Memory that the main process holds.", read=memory)
    registry.gauge("process_start_time_seconds", "When the worker started, in Unix time.", read=lambda: [((), began)])
