"""Cameras: a state is looked at from time to time, to be stored or evaluated elsewhere.

A camera is a subclass of `Polaroid` with an `on_shutter`; `celery events --camera proj.Camera` runs it.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from celery._state import app_or_default
from celery.exceptions import BrokerError
from celery.utils.dispatch import Signal
from celery.utils.imports import instantiate
from celery.utils.log import get_logger
from celery.utils.time import rate
from celery.utils.timer2 import Timer

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Polaroid", "evcam")

logger = get_logger("celery.evcam")
RETRY_EVERY = 2.0


class Polaroid:
    """Calls `on_shutter` with *state* every *freq* seconds, and `on_cleanup` every *cleanup_freq* seconds.

    While it looks nothing changes in the state.  *maxrate* (`"10/m"`) bounds how often it looks, however short *freq*
    is.  *timer* makes the calls: by default a thread of its own, that begins with `install`.
    """

    timer: Any = None
    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    cleanup_signal = Signal(name="cleanup_signal")
    clear_after = False
    """Whether the state forgets what has ended, once it was looked at."""

    _tref: Any = None
    _ctref: Any = None

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Celery | None = None,
    ) -> None:
        self.app = app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.timer = timer or self.timer
        self.logger = logger
        limit = rate(maxrate) if maxrate else 0
        self.maxrate = import_module("kombu.utils.limits").TokenBucket(limit) if limit else None

    def install(self) -> None:
        """Begin."""
        if self.timer is None:
            self.timer = Timer()
        self._tref = self.timer.call_repeatedly(self.freq, self.capture)
        self._ctref = self.timer.call_repeatedly(self.cleanup_freq, self.cleanup)

    def cancel(self) -> None:
        """End."""
        for entry in (self._tref, self._ctref):
            if entry is not None:
                entry.cancel()
        self._tref = self._ctref = None

    def on_shutter(self, state: Any) -> Any:
        """What to do with a picture; for subclasses."""

    def on_cleanup(self) -> Any:
        """What to tidy up now and then; for subclasses."""

    def cleanup(self) -> None:
        """Tidy up now."""
        logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Take a picture now, unless there were too many."""
        if self.maxrate is None or self.maxrate.can_consume():
            logger.debug("Shutter: %s", self.state)
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def capture(self) -> None:
        """Take a picture, in which nothing moves."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: str | float | None = None,
    loglevel: int | str = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Celery | None = None,
    **kwargs: Any,
) -> None:
    """Take pictures with *camera* (a class, or its path), until interrupted."""
    app = app_or_default(app)
    app.log.setup_logging_subsystem(loglevel, logfile)
    state = app.events.State()
    made = instantiate(camera, state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    name = camera if isinstance(camera, str) else f"{type(made).__module__}.{type(made).__qualname__}"
    logger.info("-> evcam: Taking snapshots with %s (every %s secs.)", name, freq)
    receiver = app.events.Receiver(None, handlers={"*": state.event})
    with made:
        while True:
            try:
                receiver.capture(limit=None)
                return
            except BrokerError as error:
                logger.warning("Cannot receive events, trying again in %g seconds: %s", RETRY_EVERY, error)
                time.sleep(RETRY_EVERY)
            except (KeyboardInterrupt, SystemExit):
                return
