"""What the worker knows of each task type, read from the task once."""

from __future__ import annotations

from typing import Any

from celery.app.task import Task
from celery.utils.log import get_logger
from celery.utils.pace import Pace, pace_of
from celery.wire.message import Permit
from celery.worker.decisions import Facts

logger = get_logger(__name__)


class FactsTable:
    """Task name to `Facts`; None for a task that is not registered. Forget a name when its task has changed."""

    def __init__(
        self,
        app: Any,
        *,
        soft: float | None = None,
        hard: float | None = None,
        max_deliveries: int = 5,
        rates: bool = True,
    ) -> None:
        self._tasks = app.tasks
        self._soft = soft
        self._hard = hard
        self._max_deliveries = max_deliveries
        self._rates = rates
        self._known: dict[str, Facts] = {}

    def get(self, name: str) -> Facts | None:
        facts = self._known.get(name)
        if facts is None:
            task = self._tasks.get(name)
            if task is not None:
                facts = self._known[name] = self._read(name, task)
        return facts

    def forget(self, name: str) -> None:
        """Read the task anew when it is next asked for."""
        self._known.pop(name, None)

    def paced(self) -> list[str]:
        """The tasks whose rate this worker keeps by itself."""
        return [name for name in list(self._tasks) if (facts := self.get(name)) is not None and facts.pace is not None]

    def _pace(self, task: Any) -> Pace | None:
        try:
            return pace_of(task.rate_limit) if self._rates else None
        except (ValueError, TypeError) as error:
            logger.error("The rate limit of task %s is not kept: %s", task.name, error)  # noqa: TRY400 - the sentence says it
            return None

    def _read(self, name: str, task: Any) -> Facts:
        either = task.acks_on_failure_or_timeout
        pace = self._pace(task)
        everywhere = pace is not None and task.rate_limit_scope == "global"
        template = task.concurrency_key
        soft, hard = task.soft_time_limit, task.time_limit
        return Facts(
            name,
            acks_late=bool(task.acks_late),
            acks_on_failure=bool(_first(task.acks_on_failure, either)),
            acks_on_timeout=bool(_first(task.acks_on_timeout, either)),
            reject_on_worker_lost=bool(task.reject_on_worker_lost),
            retry_on_worker_lost=bool(task.retry_on_worker_lost),
            max_retries=task.max_retries,
            retry_delay=float(task.default_retry_delay),
            track_started=bool(task.track_started),
            ignore_result=bool(task.ignore_result),
            store_errors=not task.ignore_result or bool(task.store_errors_even_if_ignored),
            soft=self._soft if soft is None else float(soft),
            hard=self._hard if hard is None else float(hard),
            pace=None if everywhere else pace,
            permits=(Permit(f"rate {name}", 0, *pace),) if everywhere and pace is not None else (),
            concurrency=task.concurrency_limit or None,
            concurrency_key=template if isinstance(template, str) else None,
            limited=pace is not None or bool(task.concurrency_limit),
            max_deliveries=self._max_deliveries,
            send_events=bool(task.send_events),
            own_way=_has_own_way(task),
        )


def _has_own_way(task: Any) -> bool:
    """Whether the task, or somebody in its place, says what is to be done with its messages."""
    return (
        task.Strategy != Task.Strategy
        or task.Request != Task.Request
        or getattr(type(task), "start_strategy", None) is not Task.start_strategy
    )


def _first(*values: Any) -> Any:
    """The first that was set, True if none was."""
    return next((value for value in values if value is not None), True)
