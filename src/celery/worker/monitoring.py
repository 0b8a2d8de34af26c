"""The service that lets a worker be watched: its events, its heart and, if asked for, its gossip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker.gossip import Gossip
from celery.worker.heartbeat import Heart
from celery.worker.outlet import Outlet
from celery.worker.reports import Reports

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.consumer import Consumer
    from celery.worker.options import WorkerOptions

logger = get_logger(__name__)


class Monitoring:
    """Everything a worker says of itself. The consumer says what becomes of tasks only while task events are on."""

    def __init__(self, app: Celery, hostname: str, consumer: Consumer, options: WorkerOptions) -> None:
        self.app = app
        self.consumer = consumer
        self.outlet = Outlet(app.broker.bus())
        self.dispatcher: Any = app.events.Dispatcher(
            self.outlet,
            hostname=hostname,
            enabled=options.task_events or options.heartbeat is not None or options.gossip,
            groups=None if options.task_events else ["worker"],
        )
        self.reports = self.outlet.writer = Reports(app, hostname, self.outlet, self.dispatcher)
        self.heart: Heart | None = None
        if options.heartbeat is not None:
            self.heart = Heart(self.outlet, self.dispatcher, options.heartbeat)
        self.gossip = Gossip(app, hostname, self.dispatcher, self.outlet) if options.gossip else None

    @property
    def tells_of_tasks(self) -> bool:
        groups = self.dispatcher.groups
        return bool(self.dispatcher.enabled) and (not groups or "task" in groups)

    def start(self) -> None:
        """Before the first task is claimed."""
        self.consumer.monitoring = self
        self.consumer.event_dispatcher = self.dispatcher
        if self.app.conf.task_send_sent_event:
            self.consumer.ledger.on_sent = self.reports.sent
        self.outlet.start()
        self._tell()

    def announce(self) -> None:
        """Say that the worker is there. Once it can answer those who ask it something then."""
        if self.gossip is not None:
            self.gossip.start()
        if self.heart is not None:
            self.heart.start()

    def stop(self) -> None:
        """Say that it is gone, and all that is still to be said, in a few seconds. After the last task has ended."""
        if self.heart is not None:
            self.heart.stop()
        if self.gossip is not None:
            self.gossip.stop()
        self.outlet.stop()

    def enable_tasks(self) -> bool:
        """Tell of tasks from now on; whether that is new. Any thread."""
        if self.tells_of_tasks:
            return False
        if self.dispatcher.groups:
            self.dispatcher.groups.add("task")
        if not self.dispatcher.enabled:
            self.dispatcher.enable()
        self._tell()
        return True

    def disable_tasks(self) -> bool:
        """Tell of tasks no longer; whether that is new. Any thread."""
        if not self.tells_of_tasks:
            return False
        self.dispatcher.groups.add("worker")
        self.dispatcher.groups.discard("task")
        self._tell()
        return True

    def _tell(self) -> None:
        self.consumer.report_to(self.reports if self.tells_of_tasks else None)
