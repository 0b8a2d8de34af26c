"""The worker as a program: logging, banner, signals, pid file. What `celery worker` and `app.Worker` start."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import __version__
from celery.utils.log import get_logger
from celery.worker.banner import banner, masked, task_list
from celery.worker.consumer import Consumer
from celery.worker.controller import DESELECT_UNKNOWN_QUEUE, SELECT_UNKNOWN_QUEUE, WorkController

logger = get_logger(__name__)

__all__ = ("DESELECT_UNKNOWN_QUEUE", "SELECT_UNKNOWN_QUEUE", "WorkController", "Worker")


class Worker(WorkController):
    """A worker that owns its process."""

    takes_signals = True

    def on_before_init(self, quiet: bool = False, no_color: bool | None = None, **kwargs: Any) -> None:
        self.quiet = quiet
        self.colorize = None if no_color is None else not no_color
        super().on_before_init(quiet=quiet, no_color=no_color, **kwargs)

    def on_start(self) -> None:
        self.app.set_current()
        self.app.set_default()
        if not self.quiet:
            self._write(self.banner())
        self.setup_logging()

    def on_consumer_ready(self, consumer: Consumer) -> None:
        if self.options.task_events:
            logger.warning("Task events are not sent in this version of Celeriac: -E changes nothing.")

    def setup_logging(self, colorize: bool | None = None) -> Any:
        """Log as the options and settings say. Before the pool starts: children take it from the environment."""
        conf = self.app.conf
        return self.app.log.setup(
            self.loglevel,
            self.logfile,
            redirect_stdouts=bool(conf.worker_redirect_stdouts),
            redirect_level=conf.worker_redirect_stdouts_level,
            colorize=self.colorize if colorize is None else colorize,
            hostname=self.hostname,
        )

    def banner(self) -> str:
        """What the worker says before it starts."""
        backend = self.app.backend
        results = backend.as_uri() if hasattr(backend, "as_uri") else "disabled://"
        text = banner(
            self.app,
            hostname=self.hostname,
            transport=masked(self.broker.url),
            results=masked(results),
            concurrency=f"{self.concurrency} ({self.options.pool})",
            events=self.options.task_events,
            protocol=__version__,
        )
        if self.loglevel and self.loglevel <= logging.INFO:
            text += f"\n{task_list(self.app, internal=self.loglevel <= logging.DEBUG)}"
        return text

    @staticmethod
    def _write(text: str) -> None:
        stream = sys.__stdout__
        if stream is not None:
            stream.write(f"{text}\n")
            stream.flush()
