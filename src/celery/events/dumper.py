"""Writing events down, a line each. What `celery events --dump` does."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from celery._state import app_or_default
from celery.exceptions import BrokerError
from celery.utils.functional import LRUCache

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Dumper", "evdump")

TASK_NAMES: LRUCache[str, str] = LRUCache(limit=4095)
"""Task id -> how the task is shown; of the tasks that were heard of last."""
HUMAN_TYPES = {"worker-offline": "shutdown", "worker-online": "started", "worker-heartbeat": "heartbeat"}
CONNECTION_ERROR = "-> Cannot connect to %s: %s.\nTrying again %s\n"
RETRY_EVERY = 2.0


def humanize_type(type: str) -> str:
    """The type of an event in words."""
    return HUMAN_TYPES.get(type.lower()) or type.lower().replace("-", " ")


class Dumper:
    """Writes events to *out*."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = sys.stdout if out is None else out

    def say(self, msg: str) -> None:
        self.out.write(f"{msg}\n")
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
        self.format_task_event(hostname, moment, type, TASK_NAMES.get(uuid, uuid), event)

    def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: dict[str, Any]) -> None:
        """Write an event about *task*; *event* is what else it says."""
        self.say(f"{hostname} [{timestamp}] {humanize_type(type)}: {task} {_fields(event)}")


def _fields(event: dict[str, Any]) -> str:
    return ", ".join(f"{name}={event[name]}" for name in sorted(event))


def evdump(app: Celery | None = None, out: TextIO | None = None) -> None:
    """Write all events of *app* to *out*, until interrupted. A broker that is away is waited for, saying so."""
    app = app_or_default(app)
    dumper = Dumper(out)
    dumper.say("-> evdump: starting capture...")
    receiver = app.events.Receiver(None, handlers={"*": dumper.on_event})
    while True:
        try:
            receiver.capture(limit=None, timeout=None, wakeup=True)
            return
        except BrokerError as error:
            dumper.say(CONNECTION_ERROR % ("the broker", error, f"in {RETRY_EVERY:g} seconds..."))
            time.sleep(RETRY_EVERY)
        except (KeyboardInterrupt, SystemExit, BrokenPipeError):
            return
