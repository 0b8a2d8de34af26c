"""The steps that an app's users add to its workers (`app.steps`): made with the worker, started when it is ready to.

Those of the worker start when its pool and its consumer stand, those of the consumer after them, before the first task
is claimed; they stop in the opposite order, before anything that they may use is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.bootsteps import Blueprint
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.worker.consumer.consumer import Consumer
    from celery.worker.controller import WorkController

logger = get_logger(__name__)


class Steps:
    """The two blueprints of one worker."""

    def __init__(self, worker: WorkController, options: dict[str, Any]) -> None:
        self.worker = worker
        self.options = options
        self.consumer: Consumer | None = None
        worker.steps = []
        self.of_worker = worker.blueprint = Blueprint(worker.app.steps["worker"], name="Worker")
        self.of_worker.apply(worker, **options)
        self.of_consumer = Blueprint(worker.app.steps["consumer"], name="Consumer")

    def start(self, consumer: Consumer) -> None:
        """Start those of the worker, then make and start those of *consumer*."""
        self.of_worker.start(self.worker)
        self.consumer = consumer
        consumer.steps = []
        consumer.blueprint = self.of_consumer
        self.of_consumer.apply(consumer, **self.options)
        self.of_consumer.start(consumer)

    def stop(self, *, terminate: bool) -> None:
        """Stop what was started. What a step raises is logged."""
        for blueprint, parent in ((self.of_consumer, self.consumer), (self.of_worker, self.worker)):
            if parent is None or blueprint.state is None:
                continue
            try:
                blueprint.stop(parent, terminate=terminate)
            except Exception:
                logger.exception("The steps of the %s did not stop", blueprint.alias)
            if blueprint is self.of_consumer:
                blueprint.send_all(parent, "shutdown", "shutting down", propagate=False)
