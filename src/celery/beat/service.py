"""`Service`: a scheduler and the loop that drives it."""

from __future__ import annotations

import threading
from typing import Any

from celery import signals
from celery.beat.entry import BeatLazyFunc
from celery.beat.health import BeatHealth
from celery.beat.persistent import PersistentScheduler
from celery.beat.pidbox import BeatPidbox
from celery.beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler
from celery.beat.shared import StoreScheduler
from celery.exceptions import ImproperlyConfigured
from celery.utils.bell import Chime
from celery.utils.clock import SYSTEM, Clock
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.utils.nodenames import default_nodename, host_format
from celery.utils.plugins import entry_points
from celery.utils.time import humanize_seconds

logger = get_logger("celery.beat")

GROUP = "celery.beat_schedulers"
"""Entry points by which other packages bring schedulers: the name of one is what `-S` takes."""
ALIASES = {"file": "celery.beat:PersistentScheduler", "store": "celery.beat:StoreScheduler"}
"""Names of the schedulers that are always there."""
FILE = "celery.beat:PersistentScheduler"
"""The scheduler that is meant where none is chosen."""
NODENAME_DEFAULT = "celerybeat"
JUMP = 2.0
"""Seconds by which the clock has to be put forward or back, beyond what passes, to be told and minded."""
LONGEST = 86_400.0
"""Seconds for which it sleeps at most, whatever the scheduler says: the system takes no wait of months."""


class Service:
    """Runs a scheduler. `start` blocks until `stop`, which any thread and signal handlers may call."""

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.scheduler_cls = scheduler_cls or app.conf.beat_scheduler or self.scheduler_cls
        if self.scheduler_cls == FILE and (
            not self.schedule_filename or (app.conf.beat_persistent and not schedule_filename)
        ):
            self.scheduler_cls = StoreScheduler
        self.remote_control = app.conf.beat_enable_remote_control if remote_control is None else remote_control
        self.hostname = hostname
        self.clock: Clock = SYSTEM
        self.last_tick: float | None = None
        """When the last tick ended, by the monotonic clock."""
        self.awake_at = 0.0
        """When the loop is to turn again, by the same clock."""
        self.turns = 0
        self.health: str | None = None
        """Where it says how it is, over HTTP; nowhere by default."""
        self._scheduler: Scheduler | None = None
        self._times: tuple[float, float] | None = None
        # No event: that one has a lock, which the thread that a signal interrupts may hold.
        self._ending = Chime()
        self._is_stopped = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.app, self.max_interval, self.schedule_filename, self.scheduler_cls, self.remote_control, self.hostname,
        )  # fmt: skip

    def start(self, embedded_process: bool = False) -> None:
        """Run until stopped. *embedded_process*: inside of a worker, or of another program."""
        logger.info("beat: Starting...")
        scheduler = self.scheduler
        logger.debug("beat: Ticking with max interval->%s", humanize_seconds(scheduler.max_interval))
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        services = self._services()
        try:
            for service in services:
                service.start()
            while not self._ending.closed:
                self.turn()
        except (KeyboardInterrupt, SystemExit):
            self._ending.close()
        finally:
            for service in reversed(services):
                service.stop()
            self.sync()

    def _services(self) -> list[Any]:
        """What runs beside the loop."""
        services: list[Any] = []
        if self.health:
            services.append(BeatHealth(self, self.health))
        if self.remote_control:
            services.append(BeatPidbox(self, beat_nodename(self.hostname)))
        return services

    def known_entries(self) -> Any:
        """The entries that the scheduler has in hand: nothing is read for it."""
        found = getattr(self.scheduler, "_entries", None)
        return self.scheduler.data if found is None else found

    def turn(self) -> None:
        """One tick, and the sleep after it."""
        self._mind_the_clock()
        interval = self.scheduler.tick()
        self.last_tick = self.awake_at = self.clock.monotonic()
        self.turns += 1
        if self.scheduler.should_sync():
            self.scheduler._do_sync()
        if interval and interval > 0.0:
            logger.debug("beat: Waking up %s.", humanize_seconds(interval, prefix="in "))
            self.awake_at += interval
            self._ending.wait(min(interval, LONGEST))

    def sync(self) -> None:
        """Write the schedule and let go of it."""
        try:
            self.scheduler.close()
        finally:
            self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """End the loop; with *wait*, return when it has ended."""
        logger.info("beat: Shutting down...")
        self._ending.close()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = GROUP) -> Scheduler:
        """A scheduler of the class that was chosen: by itself, `module:Class`, or the name of an entry point."""
        made: Scheduler = scheduler_class(self.scheduler_cls, extension_namespace)(
            app=self.app, schedule_filename=self.schedule_filename, max_interval=self.max_interval, lazy=lazy
        )
        return made

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler, made when it is first asked for."""
        if self._scheduler is None:
            self._scheduler = self.get_scheduler()
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def _mind_the_clock(self) -> None:
        """Tell the scheduler when the machine's clock was put forward or back."""
        wall, steady = self.clock.time(), self.clock.monotonic()
        if self._times is not None and self.scheduler.follows_machine:
            jumped = (wall - self._times[0]) - (steady - self._times[1])
            if abs(jumped) > JUMP:
                logger.warning(
                    "beat: The clock was put %s by %s. Intervals go on as if nothing had happened; what has run by the"
                    " clock does not run again, what was jumped over counts as missed.",
                    "forward" if jumped > 0 else "back",
                    humanize_seconds(abs(jumped)),
                )
                self.scheduler.clock_jumped(jumped)
        self._times = wall, steady


def scheduler_class(chosen: Any, group: str = GROUP) -> Any:
    """The class of a scheduler; raises ImproperlyConfigured for a name that leads nowhere."""
    if not isinstance(chosen, str):
        return chosen
    plugins = {entry.name: entry for entry in entry_points(group)}
    try:
        return plugins[chosen].load() if chosen in plugins else symbol_by_name(chosen, ALIASES)
    except (ImportError, AttributeError, ValueError) as error:
        names = ", ".join(sorted({*plugins, *ALIASES}))
        raise ImproperlyConfigured(
            f"The scheduler {chosen!r} cannot be loaded ({error}): give module:Class, or the name of an installed one"
            f" ({names})."
        ) from error


def beat_nodename(hostname: str | None = None) -> str:
    """The name under which beat answers remote control."""
    return host_format(default_nodename(hostname or f"{NODENAME_DEFAULT}@%h"))


__all__ = ["DEFAULT_MAX_INTERVAL", "BeatLazyFunc", "Service", "beat_nodename", "scheduler_class"]
