"""Beat as a program: logging, banner, signals, pid file. What `celery beat` and `app.Beat` start."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any

from celery import VERSION_BANNER, beat, platforms
from celery._state import app_or_default
from celery.app.hidden import sanitize_url
from celery.beat.scheduler import Scheduler
from celery.utils.imports import qualname
from celery.utils.log import get_logger, mlevel
from celery.utils.pidfiles import take_pidfile
from celery.utils.time import humanize_seconds

STARTUP_INFO_FMT = """
LocalTime -> {timestamp}
Configuration ->
    . broker -> {conninfo}
    . loader -> {loader}
    . scheduler -> {scheduler}
{scheduler_info}
    . logfile -> {logfile}@%{loglevel}
    . maxinterval -> {hmax_interval} ({max_interval}s)
""".strip()

logger = get_logger("celery.beat")


class Beat:
    """A beat that owns its process. `run` blocks until TERM or INT, and returns when the schedule is written."""

    Service = beat.Service
    app: Any = None
    service: beat.Service | None = None

    def __init__(
        self,
        max_interval: float | None = None,
        app: Any = None,
        socket_timeout: int = 30,
        pidfile: str | None = None,
        no_color: bool | None = None,
        loglevel: int | str = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: str | None = None,
        scheduler_cls: str | None = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app_or_default(app or self.app)
        conf = self.app.conf
        self.loglevel = mlevel(loglevel)
        self.logfile = logfile or conf.get("beat_logfile")
        self.schedule = schedule
        self.scheduler_cls = scheduler or scheduler_cls or conf.beat_scheduler
        self.redirect_stdouts = conf.worker_redirect_stdouts if redirect_stdouts is None else redirect_stdouts
        self.redirect_stdouts_level = redirect_stdouts_level or conf.worker_redirect_stdouts_level
        self.quiet = quiet
        self.max_interval = max_interval
        self.socket_timeout = socket_timeout
        self.colorize = None if no_color is None else not no_color
        self.pidfile = pidfile or conf.get("beat_pidfile")
        self.remote_control = remote_control
        self.hostname = hostname
        self.health = kwargs.get("health")
        self.on_ready: Callable[[], None] = lambda: None
        """Called when the scheduler is there and beat is about to tick."""

    def run(self) -> None:
        if not self.quiet:
            sys.__stdout__.write(f"celery beat v{VERSION_BANNER} is starting.\n")  # type: ignore[union-attr]
            sys.__stdout__.flush()  # type: ignore[union-attr]
        self.init_loader()
        self.set_process_title()
        self.start_scheduler()

    def init_loader(self) -> None:
        """Import the modules of tasks."""
        self.app.loader.init_worker()
        self.app.finalize()

    def setup_logging(self, colorize: bool | None = None) -> None:
        self.app.log.setup(
            self.loglevel,
            self.logfile,
            redirect_stdouts=bool(self.redirect_stdouts),
            redirect_level=self.redirect_stdouts_level,
            colorize=self.colorize if colorize is None else colorize,
        )

    def start_scheduler(self) -> None:
        service = self.service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
            remote_control=self.remote_control,
            hostname=self.hostname,
        )
        service.health = self.health
        # Before the pid file, by which somebody may find this process and end it.
        self.install_sync_handler(service)
        lock = take_pidfile(self.pidfile) if self.pidfile else None
        try:
            if not self.quiet:
                sys.__stdout__.write(f"{self.banner(service)}\n")  # type: ignore[union-attr]
                sys.__stdout__.flush()  # type: ignore[union-attr]
            self.setup_logging()
            _ = service.scheduler  # what is wrong with it is said before anybody hears that beat is ready
            self.on_ready()
            service.start()
        finally:
            if lock is not None:
                lock.release()

    def banner(self, service: beat.Service) -> str:
        return self.startup_info(service)

    def startup_info(self, service: beat.Service) -> str:
        """The configuration, for whoever looks."""
        scheduler: Scheduler = service.get_scheduler(lazy=True)
        return STARTUP_INFO_FMT.format(
            timestamp=datetime.now().astimezone().replace(microsecond=0, tzinfo=None),
            conninfo=sanitize_url(self.app.broker.url, "**"),
            loader=qualname(self.app.loader),
            scheduler=qualname(scheduler),
            scheduler_info=scheduler.info,
            logfile=self.logfile or "[stderr]",
            loglevel=logging.getLevelName(self.loglevel),
            hmax_interval=humanize_seconds(scheduler.max_interval),
            max_interval=scheduler.max_interval,
        )

    def set_process_title(self) -> None:
        platforms.set_process_title("celery-beat", info=" ".join(["celery", *sys.argv[1:]]))

    def install_sync_handler(self, service: beat.Service) -> None:
        """TERM and INT end the loop; the schedule is written then."""

        def end(number: int, frame: FrameType | None) -> None:
            service.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
