"""Beat answers remote control: `celery inspect ping`, with `--enable-remote-control`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker.mailbox import Mailbox

if TYPE_CHECKING:
    from celery.beat.service import Service

logger = get_logger("celery.beat")


class BeatPanel:
    """What beat can be asked."""

    def __init__(self, pidbox: BeatPidbox) -> None:
        self.data: Mapping[str, Callable[..., Any]] = {"ping": pidbox.ping}


class BeatPidbox:
    """Listens for remote control beside the loop of a service, in a thread of its own.

    A beat whose loop has not turned for longer than `beat_remote_control_max_tick_age` (by default twice its longest
    sleep, at least a minute) does not answer, so that whoever asks knows.
    """

    min_tick_age = 60.0

    def __init__(self, service: Service, hostname: str) -> None:
        self.service = service
        self.app = service.app
        self.hostname = hostname
        self.controller = service
        self._mailbox: Any = None

    @property
    def max_tick_age(self) -> float:
        said = self.app.conf.beat_remote_control_max_tick_age
        return float(said) if said is not None else max(self.min_tick_age, 2 * self.service.scheduler.max_interval)

    def tick_age(self) -> float | None:
        """Seconds since the loop has turned; None before it has."""
        last = self.service.last_tick
        return None if last is None else self.service.clock.monotonic() - last

    def is_stale(self) -> bool:
        age = self.tick_age()
        return age is not None and age > self.max_tick_age

    def ping(self, state: Any, **_: Any) -> dict[str, str]:
        if self.is_stale():
            return {"error": f"the loop of beat has not turned for {self.tick_age():.0f} seconds"}
        return {"ok": "pong"}

    def start(self) -> None:
        if not self.app.broker.can.fanout:
            logger.warning("beat: This broker has no remote control.")
            return
        self._mailbox = Mailbox(self, BeatPanel(self), self.app.broker_for_read())  # type: ignore[arg-type]  # as a worker's
        self._mailbox.start()

    def stop(self) -> None:
        if self._mailbox is not None:
            self._mailbox.stop()
            self._mailbox = None
