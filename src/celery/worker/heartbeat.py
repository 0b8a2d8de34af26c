"""Heartbeats: a worker says that it is there, what it has done and how busy the machine is."""

from __future__ import annotations

from typing import Any

from celery.signals import heartbeat_sent
from celery.utils.sysinfo import load_average
from celery.worker import state

__all__ = ("Heart",)

EVERY = 2.0


class Heart:
    """Sends `worker-online`, a `worker-heartbeat` every *interval* seconds (2 by default), and `worker-offline`.

    *timer* has `call_repeatedly`; *eventer* is a dispatcher of events, with which it starts and stops to beat.
    """

    def __init__(self, timer: Any, eventer: Any, interval: float | None = None) -> None:
        self.timer = timer
        self.eventer = eventer
        self.interval = float(interval or EVERY)
        self.event = "worker-heartbeat"
        self.tref: Any = None
        eventer.on_enabled.add(self.start)
        eventer.on_disabled.add(self.stop)

    def start(self) -> None:
        if self.eventer.enabled and self.tref is None:
            self._send("worker-online")
            self.tref = self.timer.call_repeatedly(self.interval, self._send, (self.event,))

    def stop(self) -> None:
        if self.tref is not None:
            self.tref.cancel()
            self.tref = None
            self._send("worker-offline", retry=False)

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._send(self.event)

    def _send(self, event: str, retry: bool = True) -> Any:
        if heartbeat_sent.receivers:
            heartbeat_sent.send(sender=self)
        return self.eventer.send(
            event,
            freq=self.interval,
            active=len(state.active_requests),
            processed=state.all_total_count[0],
            loadavg=load_average(),
            retry=retry,
            **state.SOFTWARE_INFO,
        )
