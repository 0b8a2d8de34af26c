"""Logging of programs that run tasks: what `app.log` is.

One handler on the root logger, one on `celery.task` whose format knows the task that is running, and, by the setting
`worker_log_json`, one JSON object a line on both instead.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from celery import signals
from celery._state import get_current_task
from celery.utils.deferred import deferred
from celery.utils.log import ColorFormatter, LoggingProxy, get_logger, mlevel
from celery.utils.nodenames import node_format
from celery.utils.term import colored

if TYPE_CHECKING:
    from logging import handlers

    from celery.app.base import Celery
else:
    handlers = deferred("logging.handlers")

__all__ = ("JSONFormatter", "Logging", "TaskFormatter")

MP_LOG = bool(os.environ.get("MP_LOG"))
"""Whether the logger of `multiprocessing` speaks as loudly as ours."""


class TaskFormatter(ColorFormatter):
    """Adds `task_name` and `task_id` to every record: those of the running task, or `???` outside of one."""

    def format(self, record: logging.LogRecord) -> str:
        name, task_id = _running_task()
        record.__dict__.update(task_name=name or "???", task_id=task_id or "???")
        return super().format(record)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, process, message and, where there are, the rest."""

    def format(self, record: logging.LogRecord) -> str:
        name, task_id = _running_task()
        context = record.__dict__.get("data") or _subject(record)
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "message": record.getMessage(),
            "task_id": task_id or context.get("id"),
            "task_name": name or context.get("name"),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({key: value for key, value in facts.items() if value is not None}, default=repr)


def _subject(record: logging.LogRecord) -> dict[str, Any]:
    """Id and name of the task that a record is about: its first argument is a request, as in those of the worker."""
    request = record.args[0] if isinstance(record.args, tuple) and record.args else None
    task_id = getattr(request, "task_id", None)
    return {"id": task_id, "name": getattr(request, "task_name", None)} if isinstance(task_id, str) else {}


def _running_task() -> tuple[str | None, str | None]:
    task = get_current_task()
    if task is None or not task.request:
        return None, None
    return task.name, task.request.id


class Logging:
    """Sets up logging once per process, as the settings of *app* say."""

    _setup = False
    """Of the class: a process logs one way, however many applications it has."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.loglevel = mlevel(logging.WARNING)
        self.format: str = app.conf.worker_log_format
        self.task_format: str = app.conf.worker_task_log_format
        self.colorize: bool | None = app.conf.worker_log_color

    @property
    def already_setup(self) -> bool:
        return self._setup

    @already_setup.setter
    def already_setup(self, value: bool) -> None:
        type(self)._setup = value

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: str | TextIO | None = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Sequence[Any] | None:
        """Set up everything for a worker; what the receivers of `setup_logging` answered, None if it was done before.

        Child processes do the same by the environment: `CELERY_LOG_LEVEL`, `CELERY_LOG_FILE` and
        `CELERY_LOG_REDIRECT`.
        """
        loglevel = mlevel(loglevel)
        handled = self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        os.environ["CELERY_LOG_LEVEL"] = str(loglevel)
        os.environ["CELERY_LOG_FILE"] = logfile if isinstance(logfile, str) else ""
        return handled

    def redirect_stdouts(self, loglevel: int | str | None = None, name: str = "celery.redirected") -> None:
        """Turn what is printed into log records of *name*."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ["CELERY_LOG_REDIRECT"] = "1"
        os.environ["CELERY_LOG_REDIRECT_LEVEL"] = str(loglevel or "")

    def setup_logging_subsystem(
        self,
        loglevel: int | str | None = None,
        logfile: str | TextIO | None = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Sequence[Any] | None:
        """Configure the root logger and the task logger, unless a receiver of `setup_logging` does it instead."""
        if self.already_setup:
            return None
        if isinstance(logfile, str) and hostname:
            logfile = node_format(logfile, hostname)
        self.already_setup = True
        level = mlevel(loglevel or self.loglevel)
        format = format or self.format
        colorize = self.supports_color(colorize, logfile)
        handled = signals.setup_logging.send(
            sender=None, loglevel=level, logfile=logfile, format=format, colorize=colorize
        )
        if handled:
            return handled
        conf = self.app.conf
        root = logging.root
        if conf.worker_hijack_root_logger:
            root.handlers = []
            get_logger("celery").handlers = []
        datefmt = datefmt or conf.worker_log_datefmt
        self._configure(root, logfile, level, format, colorize, ColorFormatter, datefmt)
        if MP_LOG:
            logging.getLogger("multiprocessing").setLevel(level)
        signals.after_setup_logger.send(
            sender=None, logger=root, loglevel=level, logfile=logfile, format=format, colorize=colorize
        )
        self.setup_task_loggers(level, logfile, colorize=colorize)
        return handled

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: str | TextIO | None = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Configure `celery.task`, the parent of what `get_task_logger` gives, with the format that names the task."""
        level = mlevel(loglevel or self.loglevel)
        format = format or self.task_format
        colorize = self.supports_color(colorize, logfile)
        logger = get_logger("celery.task")
        logger.propagate = propagate
        datefmt = datefmt or self.app.conf.worker_task_log_datefmt
        self._configure(logger, logfile, level, format, colorize, TaskFormatter, datefmt)
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=level, logfile=logfile, format=format, colorize=colorize
        )
        return logger

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: int | str | None = None, stdout: bool = True, stderr: bool = True
    ) -> LoggingProxy:
        """Replace `sys.stdout` and `sys.stderr` by a file-like object that logs each line."""
        proxy: Any = LoggingProxy(logger, mlevel(loglevel or logging.WARNING))
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy  # type: ignore[no-any-return]

    def supports_color(self, colorize: bool | None = None, logfile: str | TextIO | None = None) -> bool:
        """Whether to colour: as asked or configured, else if the log goes to a terminal. Files are never coloured."""
        colorize = self.colorize if colorize is None else colorize
        if colorize is not None:
            return colorize and not isinstance(logfile, str)
        if logfile or self.app.IS_WINDOWS or os.environ.get("NO_COLOR"):
            return False
        return sys.stderr is not None and sys.stderr.isatty()

    def colored(self, logfile: str | TextIO | None = None, enabled: bool | None = None) -> colored:
        return colored(enabled=self.supports_color(enabled, logfile))

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: str | TextIO | None,
        format: str,
        colorize: bool,
        formatter: type[ColorFormatter] = ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give *logger* a handler, unless it has one that writes somewhere."""
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return logger
        handler = self._handler(logfile)
        if self.app.conf.worker_log_json:
            handler.setFormatter(JSONFormatter())
        else:
            handler.setFormatter(formatter(format, use_color=colorize, datefmt=datefmt))
        logger.addHandler(handler)
        return logger

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        return get_logger(name)

    def _configure(
        self,
        logger: logging.Logger,
        logfile: str | TextIO | None,
        level: int,
        format: str,
        colorize: bool,
        formatter: type[ColorFormatter],
        datefmt: str | None,
    ) -> None:
        self.setup_handlers(logger, logfile, format, colorize, formatter, datefmt)
        logger.setLevel(level)

    def _handler(self, logfile: str | TextIO | None) -> logging.Handler:
        """For a path a file that log rotation may move away; for nothing the stderr of the process itself."""
        if isinstance(logfile, str) and logfile:
            return handlers.WatchedFileHandler(logfile, encoding="utf-8")
        return logging.StreamHandler(logfile or sys.__stderr__)
