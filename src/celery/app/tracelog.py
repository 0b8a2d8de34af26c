"""How the endings of tasks are logged."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from celery.app.einfo import ExceptionInfo
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_logger

logger = get_logger("celery.app.trace")

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_HANDLER = "Task %s[%s] %s handler raised: %r"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"


class log_policy_t(NamedTuple):  # noqa: N801 - the public name
    """How an ending is logged."""

    format: str
    description: str
    severity: int
    traceback: int
    mail: int


log_policy_reject = log_policy_t(LOG_REJECTED, "rejected", logging.WARNING, 1, 1)
log_policy_ignore = log_policy_t(LOG_IGNORED, "ignored", logging.INFO, 0, 0)
log_policy_internal = log_policy_t(LOG_INTERNAL_ERROR, "INTERNAL ERROR", logging.CRITICAL, 1, 1)
log_policy_expected = log_policy_t(LOG_FAILURE, "raised expected", logging.INFO, 0, 0)
log_policy_unexpected = log_policy_t(LOG_FAILURE, "raised unexpected", logging.ERROR, 1, 1)


def get_log_policy(task: Any, einfo: ExceptionInfo, exc: BaseException) -> log_policy_t:
    """How the ending with *exc* is logged."""
    if isinstance(exc, Reject):
        return log_policy_reject
    if isinstance(exc, Ignore):
        return log_policy_ignore
    if einfo.internal:
        return log_policy_internal
    if task.throws and isinstance(exc, task.throws):
        return log_policy_expected
    return log_policy_unexpected


def get_task_name(request: Any, default: str) -> str:
    """The name to show: the shadow name of this execution, if it has one."""
    return getattr(request, "shadow", None) or default


def log_handler(task: Any, request: Any, handler: str, exc: BaseException) -> None:
    """Log that a handler of the task raised after the task had ended."""
    logger.error(LOG_HANDLER, get_task_name(request, task.name), request.id, handler, exc, exc_info=exc)


def info(fmt: str, context: dict[str, Any]) -> None:
    """Log at INFO, with *context* also as the record's `data`."""
    logger.info(fmt, context, extra={"data": context})
