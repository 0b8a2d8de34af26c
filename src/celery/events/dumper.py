"""Writing events down, a line each. What `celery events --dump` does."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

from celery._state import app_or_default
from celery.exceptions import BrokerError
from celery.utils.functional import LRUCache

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.events.receiver import EventReceiver

__all__ = ("Dumper", "evdump")

TASK_NAMES: LRUCache[str, str] = LRUCache(limit=4095)
"""Task id -> how the task is shown; of the tasks that came last."""
HUMAN_TYPES = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}
CONNECTION_ERROR = "-> Cannot connect to %s: %s.\nTrying again %s\n"
RETRY_EVERY = 2.0


@lru_cache(256)
def humanize_type(type: str) -> str:
    """The type of an event in words."""
    return HUMAN_TYPES.get(type.lower()) or type.lower().replace("-", " ")


class Dumper:
    """Writes events to *out*: each at once, or with *gathers* when `flush` is called."""

    def __init__(self, out: TextIO | None = None, *, gathers: bool = False) -> None:
        self.out = sys.stdout if out is None else out
        self._gathered: list[str] | None = [] if gathers else None

    def say(self, msg: str) -> None:
        if self._gathered is not None:
            self._gathered.append(msg)
            return
        self.out.write(f"{msg}\n")
        self.out.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            lines = "\n".join(self._gathered)
            self._gathered.clear()
            self.out.write(f"{lines}\n")
            self.out.flush()

    def on_event(self, ev: dict[str, Any]) -> None:
        """Write one event. A handler for receivers."""
        event = dict(ev)
        moment = datetime.fromtimestamp(event.pop("timestamp", 0.0), UTC)
        type, hostname = str(event.pop("type")).lower(), event.pop("hostname", "?")
        if not type.startswith("task-"):
            self.say(f"{hostname} [{moment}] {humanize_type(type)}: {_fields(event)}")
            return
        uuid = str(event.pop("uuid", ""))
        if type in {"task-received", "task-sent"}:
            name, args, kwargs = (event.pop(field, None) for field in ("name", "args", "kwargs"))
            TASK_NAMES[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        self.format_task_event(hostname, moment, type, TASK_NAMES.data.get(uuid, uuid), event)

    def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: dict[str, Any]) -> None:
        """Write an event about *task*; *event* is what else it says."""
        self.say(f"{hostname} [{timestamp}] {humanize_type(type)}: {task} {_fields(event)}")


def _fields(event: dict[str, Any]) -> str:
    layout = _layout(tuple(event))
    return ", ".join(f"{name}={event[name]}" for name in sorted(event)) if layout is None else layout % event


@lru_cache(256)
def _layout(names: tuple[str, ...]) -> str | None:
    """How an event with these fields is shown; None if one has a name that means something in a layout."""
    if not all(name.isidentifier() for name in names):
        return None
    return ", ".join(f"{name}=%({name})s" for name in sorted(names))


def evdump(app: Celery | None = None, out: TextIO | None = None) -> None:
    """Write all events of *app* to *out*, until interrupted. A broker that is away is waited for, saying so."""
    app = app_or_default(app)
    # Workers send hundreds of events in one message: they are written in one go.
    dumper = Dumper(out, gathers=True)
    receiver = app.events.Receiver(None, handlers={"*": dumper.on_event})
    with suppress(KeyboardInterrupt, SystemExit, BrokenPipeError):
        try:
            dumper.say("-> evdump: starting capture...")
            _capture(receiver, dumper)
        finally:
            dumper.flush()


def _capture(receiver: EventReceiver, dumper: Dumper) -> None:
    while True:
        try:
            dumper.flush()
            for _ in receiver.itercapture(limit=None, timeout=None, wakeup=True):
                dumper.flush()
            return
        except BrokerError as error:
            dumper.say(CONNECTION_ERROR % ("the broker", error, f"in {RETRY_EVERY:g} seconds..."))
            dumper.flush()
            time.sleep(RETRY_EVERY)
