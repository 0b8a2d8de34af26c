"""Counts what becomes of the tasks of a worker, under the names by which monitors of Celery know these figures.

Without `--health` there is none of it.  `celery_task_sent_total` is not among them: who sends a task is seldom a
worker, and where it is one, a process of its pool sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery.exceptions import TaskRevokedError
from celery.states import FAILURE, REJECTED, RETRY, REVOKED
from celery.utils.metrics import Registry
from celery.wire.message import Outcome
from celery.worker.claimed import Claimed
from celery.worker.decisions import Ending

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer
    from celery.worker.reports import Reports

TASK = ("name", "hostname", "queue_name")
UNKNOWN = "UnknownException"


class Tally:
    """Takes notes for the loop as `Reports` do, and hands them on to `then` if that is set. One thread."""

    def __init__(self, registry: Registry, hostname: str) -> None:
        self.hostname = hostname
        self.then: Reports | Tally | None = None
        said = {
            "received": "claimed by this worker",
            "started": "handed to its pool",
            "succeeded": "that returned",
            "rejected": "that rejected their message, or whose message went back",
            "revoked": "that were not run, or were ended, because nobody wants them",
        }
        self._received, self._started, self._succeeded, self._rejected, self._revoked = (
            registry.counter(f"celery_task_{what}_total", f"Tasks {how}.", TASK) for what, how in said.items()
        )
        self._failed = registry.counter("celery_task_failed_total", "Tasks that failed.", (*TASK, "exception"))
        self._retried = registry.counter(
            "celery_task_retried_total", "Tasks that will be tried again.", (*TASK, "exception")
        )
        self._runtime = registry.histogram("celery_task_runtime", "Seconds that tasks which returned took.", TASK)

    def attach(self, consumer: Consumer) -> None:
        """Count what becomes of the tasks of *consumer*. Before it runs."""
        self.then = consumer.reports
        consumer.tally = consumer.reports = consumer.aftermath.reports = self

    def _labels(self, request: Claimed) -> tuple[str, str, str]:
        return request.head.task, self.hostname, request.delivery.queue

    def received(self, requests: Sequence[Claimed]) -> None:
        for request in requests:
            self._received.add(self._labels(request))
        if self.then is not None:
            self.then.received(requests)

    def started(self, requests: Sequence[Claimed]) -> None:
        for request in requests:
            self._started.add(self._labels(request))
        if self.then is not None:
            self.then.started(requests)

    def succeeded(self, ended: Sequence[tuple[Claimed, Outcome]]) -> None:
        for request, outcome in ended:
            labels = self._labels(request)
            self._succeeded.add(labels)
            self._runtime.observe(outcome.runtime, labels)
        if self.then is not None:
            self.then.succeeded(ended)

    def ended(self, request: Claimed, outcome: Outcome, ending: Ending) -> None:
        labels, error, state = self._labels(request), ending.error, outcome.state
        if isinstance(error, TaskRevokedError) or (error is None and state == REVOKED):
            self._revoked.add(labels)
        elif error is not None:
            counter = self._failed if ending.retry_in is None else self._retried
            counter.add((*labels, type(error).__name__))
        elif ending.verb == "requeue":
            if request.killed is None:
                self._rejected.add(labels)
        elif state == REJECTED:
            self._rejected.add(labels)
        elif state == FAILURE or outcome.internal:
            self._failed.add((*labels, exception_of(outcome.detail)))
        elif state == RETRY:
            self._retried.add((*labels, exception_of(outcome.detail)))
        if self.then is not None:
            self.then.ended(request, outcome, ending)

    def failed(self, request: Claimed, error: BaseException) -> None:
        self._failed.add((*self._labels(request), type(error).__name__))
        if self.then is not None:
            self.then.failed(request, error)

    def revoked(self, request: Claimed, *, terminated: bool = False, expired: bool = False) -> None:
        self._revoked.add(self._labels(request))
        if self.then is not None:
            self.then.revoked(request, terminated=terminated, expired=expired)


def exception_of(shown: str) -> str:
    """The name of an exception, by its repr. A repr of another form must not become a series of its own."""
    name = shown.partition("(")[0]
    return name if name.isidentifier() else UNKNOWN
