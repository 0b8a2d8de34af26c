"""What a worker tells of each task: the notes that its loop takes, and the events that are made of them.

The loop takes a note in less than a microsecond; the thread of the outlet makes the event of it, with the time of the
note, and sends many of them in one message, as a list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from celery.app.einfo import ExceptionInfo
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import NotRegistered, TaskRevokedError
from celery.states import FAILURE, REJECTED, RETRY, REVOKED
from celery.utils.saferepr import saferepr
from celery.utils.time import utcoffset
from celery.wire.broadcast import encode, seal, topic
from celery.wire.message import Outcome, Outgoing
from celery.wire.protocol import Head
from celery.worker.claimed import Claimed
from celery.worker.decisions import Ending
from celery.worker.outlet import Outlet, Payload

if TYPE_CHECKING:
    from celery.app.base import Celery

MULTI = "task.multi"
"""The routing key of a list of events about tasks."""


class _Event(msgspec.Struct, gc=False):
    """What every event begins with, and a task's goes on with. The fields are in the order of the original."""

    hostname: str
    utcoffset: float
    pid: int
    clock: int
    uuid: str


class Received(_Event, gc=False):
    name: str
    args: str | None
    kwargs: str | None
    root_id: str | None
    parent_id: str | None
    retries: int
    eta: str | None
    expires: str | None
    timestamp: float
    type: str = "task-received"


class Started(_Event, gc=False):
    timestamp: float
    type: str = "task-started"


class Succeeded(_Event, gc=False):
    result: str
    runtime: float
    timestamp: float
    type: str = "task-succeeded"


class Failed(_Event, gc=False):
    exception: str
    traceback: str | None
    timestamp: float
    type: str = "task-failed"


class Retried(_Event, gc=False):
    exception: str
    traceback: str | None
    timestamp: float
    type: str = "task-retried"


class Revoked(_Event, gc=False):
    terminated: bool
    signum: int | None
    expired: bool
    timestamp: float
    type: str = "task-revoked"


class Rejected(_Event, gc=False):
    requeue: bool
    timestamp: float
    type: str = "task-rejected"


class Cancelled(_Event, gc=False):
    timestamp: float
    type: str = "task-cancelled"


Note = tuple[Any, Any, tuple[Any, ...], float]
"""The kind of event, the id of its task (its head, if it was received), what else it says, and when it happened."""


class Reports:
    """Takes notes for the loop, and is the writer of its outlet. Notes may be taken by any thread."""

    def __init__(self, app: Celery, hostname: str, outlet: Outlet, dispatcher: EventDispatcher) -> None:
        self.app = app
        self.hostname = hostname
        self.dispatcher = dispatcher
        self.clock = app.clock
        self.exchange = str(app.conf.event_exchange)
        self.serializer = str(app.conf.event_serializer)
        self.headers = {"hostname": hostname}
        self.pid = os.getpid()
        self._note, self._note_all = outlet.note, outlet.note_all
        self._encode = msgspec.json.Encoder().encode
        self._plain = _sends_as_ours(type(dispatcher))
        # A dispatcher of the program's own may do more than send.
        self.topic = topic(self.exchange, MULTI) if self._plain else ""

    # -- the loop's side -------------------------------------------------------------------------------------------

    # Notes hold on to ids and heads, not to requests: the memory of a message is used again at once for the next one.

    # What happens to nearly every task is told of many at once.

    def received(self, requests: Sequence[Claimed]) -> None:
        now = time()
        self._note_all([(Received, request.head, (), now) for request in requests if request.facts.send_events])

    def started(self, requests: Sequence[Claimed]) -> None:
        now = time()
        self._note_all([(Started, request.head.id, (), now) for request in requests if request.facts.send_events])

    def succeeded(self, ended: Sequence[tuple[Claimed, Outcome]]) -> None:
        now = time()
        self._note_all([
            (Succeeded, request.head.id, (outcome.detail, outcome.runtime), now)
            for request, outcome in ended
            if request.facts.send_events
        ])  # fmt: skip

    def ended(self, request: Claimed, outcome: Outcome, ending: Ending) -> None:
        """It has ended otherwise. Nothing is said of tasks that want to be ignored."""
        error, state = ending.error, outcome.state
        if isinstance(error, TaskRevokedError):
            self.revoked(request, terminated=True)
        elif error is not None:
            self._raised(request, Failed if ending.retry_in is None else Retried, error)
        elif ending.verb == "requeue":
            self._given_back(request)
        elif state == FAILURE or outcome.internal:
            self._tell(Failed, request, outcome.detail, outcome.traceback)
        elif state == RETRY:
            self._tell(Retried, request, outcome.detail, outcome.traceback)
        elif state == REJECTED:
            self._tell(Rejected, request, outcome.requeue)
        elif state == REVOKED:
            self.revoked(request)

    def failed(self, request: Claimed, error: BaseException) -> None:
        """It was not run, and never will be."""
        self._raised(request, Failed, error)

    def revoked(self, request: Claimed, *, terminated: bool = False, expired: bool = False) -> None:
        self._tell(Revoked, request, terminated, request.signum if terminated else None, expired)

    def cancelled(self, request: Claimed) -> None:
        """It was ended by this worker, and will be run again."""
        self._tell(Cancelled, request)

    def _given_back(self, request: Claimed) -> None:
        if request.killed is None:
            self._tell(Rejected, request, True)
        else:
            self.cancelled(request)

    def _raised(self, request: Claimed, kind: type[Failed | Retried], error: BaseException) -> None:
        # Its own repr is a sentence.
        shown = f"NotRegistered({request.head.task!r})" if isinstance(error, NotRegistered) else saferepr(error)
        self._tell(kind, request, shown, ExceptionInfo.of(error).traceback)

    def _tell(self, kind: Any, request: Claimed, *facts: Any) -> None:
        if request.facts.send_events:
            self._note((kind, request.head.id, facts, time()))

    def sent(self, messages: Sequence[Outgoing]) -> None:
        """Tasks have sent these."""
        self._note(partial(self.app.events.announce, messages, time()))

    # -- the outlet's side -----------------------------------------------------------------------------------------

    def write(self, notes: Sequence[Any]) -> Sequence[Payload]:
        """The message that tells of *notes*; none if there is nothing to tell."""
        events = self._events(notes)
        if not self._plain:
            self._send_as_theirs(events)
            return ()
        return [(self.topic, self._message(events))]

    def _events(self, notes: Sequence[Note]) -> list[_Event]:
        offset, clock = utcoffset(), self.clock.forward_by(len(notes))
        hostname, pid = self.hostname, self.pid
        events: list[_Event] = []
        for kind, about, facts, at in notes:
            if kind is Received:
                head: Head = about
                events.append(Received(
                    hostname, offset, pid, clock, head.id, head.shadow or head.task, head.argsrepr, head.kwargsrepr,
                    head.root_id, head.parent_id, head.retries, head.eta, head.expires, at,
                ))  # fmt: skip
            else:
                events.append(kind(hostname, offset, pid, clock, about, *facts, at))
            clock += 1
        return events

    def _message(self, events: list[_Event]) -> bytes:
        place: dict[str, Any] = {"exchange": self.exchange, "routing_key": MULTI, "headers": self.headers}
        if self.serializer == "json":
            try:
                return seal(("application/json", "utf-8", self._encode(events)), **place)
            except UnicodeEncodeError:
                pass  # half a surrogate pair: the slower writer has a word for it
        return encode(msgspec.to_builtins(events), serializer=self.serializer, **place)

    def _send_as_theirs(self, events: list[_Event]) -> None:
        """The program has a dispatcher of its own, which may do anything with what it is to send."""
        for event in events:
            fields = msgspec.structs.asdict(event)
            for common in ("hostname", "utcoffset", "pid", "clock"):
                del fields[common]
            self.dispatcher.send(fields.pop("type"), **fields)


def _sends_as_ours(cls: type[EventDispatcher]) -> bool:
    ours = ("send", "publish", "flush", "_prepare_event", "_publish")
    return all(getattr(cls, name) is getattr(EventDispatcher, name) for name in ours)
