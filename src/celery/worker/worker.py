"""The worker as a program: logging, banner, signals, pid file. What `celery worker` and `app.Worker` start."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import __version__
from celery.concurrency.base import Pool
from celery.platforms import advise_on_privileges, isatty
from celery.utils.log import get_logger
from celery.utils.program import run_again
from celery.utils.term import colored
from celery.worker.banner import banner, masked, task_list
from celery.worker.consumer import Consumer
from celery.worker.controller import DESELECT_UNKNOWN_QUEUE, SELECT_UNKNOWN_QUEUE, WorkController
from celery.worker.health import Health

logger = get_logger(__name__)

__all__ = ("DESELECT_UNKNOWN_QUEUE", "SELECT_UNKNOWN_QUEUE", "WorkController", "Worker")


class Worker(WorkController):
    """A worker that owns its process."""

    takes_signals = True
    health: Health | None = None

    def on_before_init(self, quiet: bool = False, no_color: bool | None = None, **kwargs: Any) -> None:
        self.quiet = quiet
        self.colorize = None if no_color is None else not no_color
        super().on_before_init(quiet=quiet, no_color=no_color, **kwargs)
        # After `celeryd_init`, whose receivers may still change the settings.
        self._advice = advise_on_privileges(self.app.conf.accept_content)

    def start(self) -> None:
        """Run until stopped; after HUP this does not return, for the program is run anew."""
        super().start()
        if self._shutdown is not None and self._shutdown.restart:
            run_again()

    def restart(self) -> None:
        """Warm, and then the program anew, as HUP does it. Any thread; returns at once."""
        if self._shutdown is not None:
            self._shutdown.request("HUP")

    def on_after_init(self, **kwargs: Any) -> None:
        # Here, and not when it starts: receivers of `celeryd_after_setup` find logging set up.
        self.app.set_current()
        self.app.set_default()
        self.setup_logging()

    def on_start(self) -> None:
        if not self.quiet:
            self._write(str(colored(enabled=self._paints()).cyan(self.banner())))
        if self.options.health:
            self.health = Health(self, self.options.health)
            self.health.start()

    def on_stopped(self) -> None:
        if self.health is not None:
            self.health.stop()

    def _make_consumer(self, pool: Pool) -> Consumer:
        consumer = super()._make_consumer(pool)
        if self.health is not None:
            self.health.attach(consumer)
        return consumer

    def _paints(self) -> bool:
        """Whether the banner is coloured: as asked or configured, else if it goes to a terminal."""
        asked = self.app.conf.worker_log_color if self.colorize is None else self.colorize
        return self.app.log.supports_color() and bool(isatty(sys.__stdout__)) if asked is None else bool(asked)

    def on_consumer_ready(self, consumer: Consumer) -> None:
        if self._advice:
            logger.warning("%s", self._advice)

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

    def _slots(self) -> str:
        if self.options.autoscale is None:
            return str(self.concurrency)
        most, least = self.options.autoscale
        return f"{{min={least}, max={most}}}"

    def banner(self) -> str:
        """What the worker says before it starts."""
        backend = self.app.backend
        results = backend.as_uri() if hasattr(backend, "as_uri") else "disabled://"
        text = banner(
            self.app,
            hostname=self.hostname,
            transport=masked(self.broker.url),
            results=masked(results),
            concurrency=f"{self._slots()} ({self.options.pool})",
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
