"""The ladder down: what each signal does to a worker.

    TERM    warm: claim no more, give back at once what has not started, finish what runs; exit 0
    INT     the same by Ctrl-C; a second one is cold; exit 1
    QUIT    cold: kill what runs (late-ack tasks are requeued); exit 0, or 1 after Ctrl-C
    a second TERM, INT or QUIT is cold, with `worker_soft_shutdown_timeout` seconds of grace before
    INT or QUIT while it is cold is hard: the process ends there and then, its leases run out; exit 1
    USR1    write the stack of every thread to the log
    HUP     start anew: warm, then the same program with the same arguments in the same process
            (from a terminal, where HUP means that the terminal is gone: warm)
    REMAP_SIGTERM=SIGQUIT in the environment makes TERM cold

Handlers only note what came and wake the loop; the loop climbs down (`decisions.next_stage` says to where).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from celery import signals
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE, isatty
from celery.utils.descriptors import write
from celery.utils.log import get_logger
from celery.utils.program import command
from celery.utils.threads import takes_signals
from celery.worker.decisions import Stage, next_stage

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer

logger = get_logger(__name__)

Handler = Callable[[int, FrameType | None], None]
SAID = {
    "warm": "worker: Warm shutdown (MainProcess)",
    "soft": "worker: Soft shutdown (MainProcess)",
    "cold": "worker: Cold shutdown (MainProcess)",
    "hard": "worker: Hard shutdown (MainProcess)",
}


class Shutdown:
    """Brings a consumer down, rung by rung. `request` from any thread; the handlers from the main thread."""

    def __init__(
        self,
        consumer: Consumer,
        hostname: str,
        *,
        soft_timeout: float = 0.0,
        soft_when_idle: bool = False,
        blocking_pool: bool = False,
    ) -> None:
        self.consumer = consumer
        self.hostname = hostname
        self.soft_timeout = soft_timeout
        self.soft_when_idle = soft_when_idle
        """The rung `soft` is taken also when nothing runs that could use its time."""
        self.blocking_pool = blocking_pool
        """Tasks run on the loop's own thread: only an exception gets past one that runs."""
        self.exitcode = 0
        self.stage: Stage = "run"
        self.restart = False
        """When everything has stopped, the program is to be run again."""
        self._timer: threading.Timer | None = None
        self._before: dict[int, object] = {}

    def request(self, event: str) -> None:
        """*event* is TERM, INT, QUIT, HUP or `timeout`. Does not block; safe in a signal handler."""
        if event == "HUP":
            if self.stage != "run":
                return
            self.restart = True
            say(f"Restarting celery worker ({' '.join(command()[1:])})")
        elif event != "timeout":
            self.restart = False  # somebody wants it down
        remap = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"
        grace = self.soft_timeout if self.soft_when_idle or self.consumer.inside else 0.0
        step = "TERM" if event == "HUP" else event
        stage = next_stage(self.stage, step, soft_timeout=grace, remap_term=remap and event == "TERM")
        if stage == self.stage:
            return
        self.stage = stage
        if event == "INT":
            self.exitcode = EX_FAILURE
            if stage == "warm":
                say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
        say(SAID[stage])
        if stage == "hard":
            os._exit(EX_FAILURE)
        signals.worker_shutting_down.send(
            sender=self.hostname, sig=f"SIG{event}", how=stage.capitalize(), exitcode=self.exitcode
        )
        self.consumer.call_soon(self._descend)

    def _descend(self) -> None:
        """Do what the rung asks for. Loop thread."""
        if self.stage == "cold":
            self.consumer.terminate()
        else:
            self.consumer.stop()
        if self.stage == "soft" and self._timer is None:
            self._timer = threading.Timer(self.soft_timeout, self.request, ["timeout"])
            self._timer.daemon = True
            self._timer.start()

    def install(self) -> None:
        """Take the signals, if this is the main thread (nobody else can)."""
        if not takes_signals():
            return
        for name in ("TERM", "INT", "QUIT"):
            self._handle(name, self._handler(name))
        self._handle("USR1", lambda number, frame: cry())
        # A worker that goes on in the background after its terminal was closed is nobody's.
        self._handle("HUP", self._handler("TERM" if isatty(sys.__stdin__) else "HUP"))

    def uninstall(self) -> None:
        """Give the signals back to who had them."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, name: str, handler: Handler) -> None:
        number = getattr(signal, f"SIG{name}", None)
        if number is not None:
            self._before[number] = signal.signal(number, handler)

    def _handler(self, name: str) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            self.request(name)
            if self.stage == "cold" and self.blocking_pool:
                raise WorkerTerminate(self.exitcode)

        return handle


def say(text: str) -> None:
    """Write a line to stderr without a lock: this runs in signal handlers."""
    try:
        write(2, f"\n{text}\n".encode(errors="replace"))
    except OSError:
        return  # nobody reads stderr any more


def cry() -> None:
    """Log the stack of every thread, or write it to stderr where warnings are not logged. Safe in a signal handler.

    The log is written by a thread of its own: the one that was interrupted may hold the lock of a log handler.
    """
    if logger.isEnabledFor(logging.WARNING):
        threading.Thread(target=logger.warning, args=["%s", stacks()], name="celery-cry", daemon=True).start()
    else:
        say(stacks())


def stacks() -> str:
    """The stack of every thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [f"Threads of process {os.getpid()} at {time.strftime('%H:%M:%S')}"]
    for ident, frame in sys._current_frames().items():
        parts.append(f"\n{names.get(ident, ident)}\n{'=' * 49}\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(parts)
