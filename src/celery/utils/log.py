"""Loggers, their names, and files that are loggers."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any

from celery.utils.term import colored

LOG_LEVELS: dict[Any, Any] = {
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.FATAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "NOTSET": logging.NOTSET,
}
LOG_LEVELS |= {level: logging.getLevelName(level) for level in set(LOG_LEVELS.values())}

MP_LOG = os.environ.get("MP_LOG")
RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

_in_sighandler = False


def _quiet(name: str) -> logging.Logger:
    """A logger that says nothing by itself: a library leaves handlers to the program."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


logger = _quiet("celery")
base_logger = logger


def set_in_sighandler(value: bool) -> None:
    """Say that a signal handler runs now. While it does, our loggers say nothing: a lock may be held below it."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """`set_in_sighandler` for a while."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def iter_open_logger_fds() -> Iterator[IO[Any]]:
    """The files that handlers of any logger write to, each once."""
    seen: set[int] = set()
    loggers = [*logging.Logger.manager.loggerDict.values(), logging.getLogger(None)]
    for candidate in loggers:
        for handler in getattr(candidate, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if stream is not None and id(handler) not in seen:
                seen.add(id(handler))
                yield stream


def logger_isa(l: logging.Logger, p: logging.Logger, max: int = 1000) -> bool:  # noqa: E741 - the public name
    """Whether *p* is *l* or one of its parents. Raises RuntimeError for a loop or more than *max* parents."""
    current: logging.Logger | None = l
    seen: set[int] = set()
    for _ in range(max):
        if current is p:
            return True
        if current is None:
            return False
        if id(current) in seen:
            raise RuntimeError(f"Logger {current.name!r} is its own parent; undo the assignment to its `parent`.")
        seen.add(id(current))
        current = current.parent
    raise RuntimeError(f"Logger {l.name!r} has more than {max} parents.")


def _under(parent: logging.Logger, child: logging.Logger) -> logging.Logger:
    if child is not parent and not logger_isa(child, parent):
        child.parent = parent
    return child


def get_logger(name: str) -> logging.Logger:
    """A logger of the system: below `celery` if it would otherwise be directly below the root."""
    found = _quiet(name)
    if logging.root not in {found, found.parent}:
        return found
    return _under(base_logger, found)


task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """A logger for tasks: below `celery.task`, so that its lines carry the task's name and id.

    Raises RuntimeError for the names of our own loggers.
    """
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved! Use another, such as get_task_logger(__name__).")
    return _under(task_logger, get_logger(name))


def mlevel(level: int | str | None) -> int:
    """A level as a number: `"info"`, `"INFO"` and `20` are 20. None and 0 stay what they are."""
    if level and not isinstance(level, int):
        try:
            return int(LOG_LEVELS[level.upper()])
        except KeyError:
            names = ", ".join(name for name in LOG_LEVELS if isinstance(name, str))
            raise KeyError(f"There is no log level {level!r}; use one of {names}.") from None
    return level  # type: ignore[return-value]  # None is passed through


class ColorFormatter(logging.Formatter):
    """A formatter that paints lines by their level."""

    COLORS = colored().names
    colors: dict[str, Callable[..., Any]] = {
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(  # noqa: N802 - the name is logging's
        self, ei: Any
    ) -> str:
        if not (ei and isinstance(ei, tuple)):
            ei = sys.exc_info()
        return super().formatException(ei)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        paint = self.colors.get(record.levelname)
        return str(paint(text)) if paint and self.use_color else text


class LoggingProxy:
    """A file whose lines are log records; stands in for `sys.stdout`.

    A handler that writes to the file it stands in for cannot start a loop: what is written while a line of the same
    thread is being logged is dropped.
    """

    mode = "w"
    name: str | None = None
    closed = False
    loglevel = logging.ERROR
    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or self.loglevel)
        self._thread = threading.local()
        self._safewrap_handlers()

    def _safewrap_handlers(self) -> None:
        """Errors of the handlers go to the real standard error: going through us they would be logged for ever."""
        for handler in self.logger.handlers:
            handler.handleError = self._report  # type: ignore[method-assign]

    @staticmethod
    def _report(record: logging.LogRecord) -> None:
        stream = sys.__stderr__
        kind, value, _ = sys.exc_info()
        if stream is not None and kind is not None:
            stream.write(f"Cannot write a log record of {record.name}: {kind.__name__}: {value}\n")

    def write(self, data: str | bytes) -> int:
        """Log every whole line of *data*; the rest waits for its end or for `flush`. The number of characters taken."""
        if isinstance(data, bytes):
            data = data.decode(errors="replace")
        if _in_sighandler:
            if sys.__stderr__ is not None:
                sys.__stderr__.write(data)
            return len(data)
        state = self._thread
        if self.closed or getattr(state, "busy", False):
            return 0
        *whole, state.rest = (getattr(state, "rest", "") + data).split("\n")
        if whole:
            self._log("\n".join(whole))
        return len(data)

    def _log(self, text: str) -> None:
        if not text.strip():
            return
        self._thread.busy = True
        try:
            self.logger.log(self.loglevel, text.strip())
        finally:
            self._thread.busy = False

    def writelines(self, sequence: Iterable[str]) -> None:
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Log what this thread wrote without a newline."""
        rest = getattr(self._thread, "rest", "")
        self._thread.rest = ""
        if rest and not self.closed and not getattr(self._thread, "busy", False):
            self._log(rest)

    def close(self) -> None:
        """Take no more lines."""
        self.flush()
        self.closed = True

    def isatty(self) -> bool:
        return False


def get_multiprocessing_logger() -> logging.Logger:
    """The logger of `multiprocessing`."""
    logger: logging.Logger = import_module("multiprocessing.util").get_logger()
    return logger


def reset_multiprocessing_logger() -> None:
    """Take the handlers off the logger of `multiprocessing`."""
    found = get_multiprocessing_logger()
    for handler in list(found.handlers):
        found.removeHandler(handler)


def current_process() -> Any:
    """This process as `multiprocessing` sees it."""
    return import_module("multiprocessing.process").current_process()


def current_process_index(base: int = 1) -> int | None:
    """The number of this pool process, counted from *base*; None in a process that is not in a pool."""
    index = getattr(current_process(), "index", None)
    return index + base if index is not None else None


class _Gate(logging.Filter):
    """Keeps records back while a signal handler runs (see `set_in_sighandler`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _in_sighandler


for _logger in (base_logger, task_logger, worker_logger):
    _logger.addFilter(_Gate())

__all__ = [
    "LOG_LEVELS",
    "MP_LOG",
    "RESERVED_LOGGER_NAMES",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "current_process",
    "current_process_index",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "iter_open_logger_fds",
    "logger",
    "logger_isa",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
    "worker_logger",
]
