"""What this process records of a task when no tracer lived, or was asked, to do it.

A task that was revoked, expired, killed at its limit or lost with its process still ends in a terminal state, with the
signals, error callbacks and log lines that belong to it.  Everything here is off the hot path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals, states
from celery.app.context import Context
from celery.app.einfo import ExceptionInfo
from celery.app.joins import give_up
from celery.app.nextsteps import cause_of
from celery.app.runner import ONCE, request_of, writer_of
from celery.backends.chords import JOIN
from celery.canvas.ids import fixed_ids
from celery.exceptions import (
    CeleryError,
    DecodeError,
    InvalidTaskError,
    NotRegistered,
    TaskRevokedError,
    TimeLimitExceeded,
)
from celery.utils.clock import SYSTEM, Clock
from celery.utils.functional import noop
from celery.utils.log import get_logger
from celery.wire.message import Arrival, Delivery, Outcome, Outgoing, Record, Settlement
from celery.wire.protocol import Head, Message, decode_envelope, encode_envelope
from celery.wire.serialization import accept_types
from celery.worker.claimed import Claimed as Request
from celery.worker.decisions import Dead, Ending, Facts, Lost, Reason, revocation

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.reports import Reports
    from celery.worker.tally import Tally

logger = get_logger("celery.worker.request")


class Effects(NamedTuple):
    """What an ending brings about besides the end of its message."""

    records: tuple[Record, ...] = ()
    messages: tuple[Outgoing, ...] = ()
    arrivals: tuple[Arrival, ...] = ()


NOTHING = Effects()


class Aftermath:
    """Makes the effects of endings that this process itself decided on. One thread."""

    def __init__(self, app: Celery, hostname: str, clock: Clock = SYSTEM, sender: object = None) -> None:
        self.app = app
        self.clock = clock
        self.hostname = hostname
        self.sender = sender
        """Who signals about messages that are no task's come from."""
        self.reports: Reports | Tally | None = None
        self._accept = accept_types(app.conf.accept_content)

    def started(self, batch: Iterable[Request]) -> list[Record]:
        """The records of `task_track_started`, for those of *batch* that have one; where results are messages, these
        are sent. Raises `BrokerError`."""
        tracked = [request for request in batch if request.facts.track_started and not request.ignore_result]
        if not tracked:
            return []
        records: list[Record] = []
        messages: list[Outgoing] = []
        meta = {"pid": os.getpid(), "hostname": self.hostname}
        with self.app.publisher.collect(messages):
            for request in tracked:
                context = self._bare(request)
                self.app.backend.store_result(request.id, meta, states.STARTED, request=context)
                records += (context.records or ())[:1]
        if messages:
            self.app.broker.publish(messages)
        return records

    def dropped(self, request: Request, reason: Reason, *, terminated: bool = False, signum: Any = None) -> Settlement:
        """Nobody wants the task any more: it ends as REVOKED."""
        logger.info("Discarding revoked task: %s", request)
        if self.reports is not None:
            self.reports.revoked(request, expired=reason == "expired")
        effects = self._record(request, revocation(reason), states.REVOKED)
        self._send_revoked(request, expired=reason == "expired", terminated=terminated, signum=signum)
        return Settlement(request.delivery, **effects._asdict(), frees=request.frees)

    def refused(self, request: Request, verdict: Dead | Lost) -> Settlement:
        """It never runs, or what it did cannot be stored: it ends as FAILURE, in the dead set if it can be replayed."""
        reason = verdict.reason if isinstance(verdict, Dead) else verdict.error
        self._send_refused(request.delivery.envelope, verdict.error, request)
        if isinstance(verdict.error, NotRegistered):
            logger.error(
                "Received unregistered task of type %r: %s goes to the dead set. Have the worker import the module "
                "that defines it (the settings `include` and `imports`), then use `celery dead replay`.",
                request.type,
                request,
            )
        else:
            logger.error("Task %s ends as a failure: %s", request, reason)
        if self.reports is not None:
            self.reports.failed(request, verdict.error)
        effects = self._record(request, verdict.error, states.FAILURE)
        if isinstance(verdict, Dead):
            return Settlement(request.delivery, "dead", reason=verdict.reason, **effects._asdict(), frees=request.frees)
        return Settlement(request.delivery, **effects._asdict(), frees=request.frees)

    def undecodable(self, delivery: Delivery, error: DecodeError) -> Settlement:
        """It is no task message: to the dead set. Whoever waits for the id that it may name is told."""
        logger.error("A message of queue %s cannot be read and goes to the dead set: %s", delivery.queue, error)
        self._send_refused(delivery.envelope, error)
        reason, headers = f"undecodable: {error}", unreadable(delivery.envelope).headers
        task_id = headers.get("id")
        if not isinstance(task_id, str) or not task_id:
            return Settlement(delivery, "dead", reason=reason)
        head = Head(task=str(headers.get("task") or ""), id=task_id)
        request = Request(head, delivery, Facts(head.task), 0, self.hostname)
        effects = self._record(request, InvalidTaskError(reason), states.FAILURE, self._bare(request))
        return Settlement(delivery, "dead", reason=reason, **effects._asdict())

    def ended(self, request: Request, ending: Ending) -> Effects:
        """The effects of an ending that carries an error: of a task that was lost, timed out or was killed."""
        error = ending.error
        if error is None:
            return NOTHING
        if ending.retry_in is not None:
            return self._retried(request, error, ending.retry_in)
        if isinstance(error, TaskRevokedError):
            logger.info("Discarding revoked task: %s", request)
            effects = self._record(request, error, states.REVOKED)
            self._send_revoked(request, terminated=True, signum=request.signum)
            return effects
        if isinstance(error, TimeLimitExceeded):
            logger.error("Hard time limit (%ss) exceeded for %s", request.limits()[0], request)
        else:
            logger.error("Task handler raised error: %r (%s)", error, request)
        effects = self._record(request, error, states.FAILURE)
        self._send_failure(request, error)
        return effects

    def not_run(self, request: Request, outcome: Outcome) -> Effects:
        """The effects of a task that the pool could not run, beside those that its outcome brings."""
        error = InvalidTaskError(outcome.detail)
        if outcome.state == states.REJECTED:  # by the runner, which could not make sense of the message
            self._send_refused(request.delivery.envelope, error)
        return NOTHING if outcome.records else self._record(request, error, states.FAILURE)

    def _retried(self, request: Request, error: BaseException, countdown: float) -> Effects:
        """The message once more, as its next retry, and the state RETRY."""
        logger.info("Task %s retry: Retry in %gs: %r", request, countdown, error)
        message = decode_envelope(request.delivery.envelope)
        message.properties.pop("delivery_tag", None)  # it is another message now
        message.headers.pop(ONCE, None)
        message.headers["retries"] = int(message.headers.get("retries") or 0) + 1
        again = Outgoing(
            encode_envelope(message),
            request.delivery.queue,
            priority=request.head.priority,
            due=self.clock.time() + countdown,
            task_id=request.id,
        )
        effects = self._record(request, error, states.RETRY)
        return effects._replace(messages=(*effects.messages, again))

    def _record(self, request: Request, error: BaseException, state: str, context: Context | None = None) -> Effects:
        """Let the result backend say what *state* means, and collect it instead of storing it at once."""
        context = self._context(request) if context is None else context
        backend = self.app.backend
        store = not request.ignore_result or (state == states.FAILURE and request.store_errors)
        info = ExceptionInfo.of(error)
        try:
            with self.app.publisher.collect(context.outbox), fixed_ids(cause_of(context, ":failed")):
                if state == states.REVOKED:
                    backend.mark_as_revoked(request.id, str(error), request=context, store_result=store)
                elif state == states.RETRY:
                    backend.mark_as_retry(request.id, error, info.traceback, request=context, store_result=store)
                else:
                    backend.mark_as_failure(request.id, error, info.traceback, request=context, store_result=store)
                if request.type == JOIN and state in states.READY_STATES:
                    give_up(self.app, context, error)
        except Exception:
            # A result backend of others, or an error callback: neither may end the worker.
            logger.exception("Could not record that task %s is %s", request, state)
        return Effects(tuple(context.records or ()), tuple(context.outbox or ()), tuple(context.arrivals or ()))

    def _context(self, request: Request) -> Context:
        """The task's request, as the task would have seen it; what can be read of it."""
        try:
            message = decode_envelope(request.delivery.envelope)
        except CeleryError:
            return self._bare(request)
        redelivered = request.delivery.redelivered
        context = request_of(message, self._accept, hostname=self.hostname, redelivered=redelivered)
        context.id = request.id
        return self._collecting(context, request)

    def _bare(self, request: Request) -> Context:
        context = Context(
            id=request.id, task=request.type, hostname=self.hostname, reply_to=request.reply_to,
            correlation_id=request.correlation_id, group=request.head.group, parent_id=request.head.parent_id,
            called_directly=False,
        )  # fmt: skip
        return self._collecting(context, request)

    @staticmethod
    def _collecting(context: Context, request: Request) -> Context:
        context.update(records=[], outbox=[], arrivals=[], writer=writer_of(request.head))
        return context

    def _send_revoked(self, request: Request, **facts: Any) -> None:
        if signals.task_revoked.receivers:
            said = {"terminated": False, "signum": None, "expired": False, **facts}
            signals.task_revoked.send(sender=self.app.tasks.get(request.type), request=self._context(request), **said)

    def _send_refused(self, envelope: bytes, error: BaseException, request: Request | None = None) -> None:
        """Tell of a message that is run by nobody: its task is unknown here, or it is no task message."""
        message = unreadable(envelope)
        if isinstance(error, NotRegistered) and request is not None:
            self._hook("on_unknown_task", message.body, message, error)
            signals.task_unknown.send(sender=self.sender, message=message, exc=error, name=request.type, id=request.id)
        elif isinstance(error, InvalidTaskError | DecodeError):
            if isinstance(error, DecodeError):
                self._hook("on_decode_error", message, error)
            else:
                self._hook("on_invalid_task", message.body, message, error)
            signals.task_rejected.send(sender=self.sender, message=message, exc=error)

    def _hook(self, name: str, *said: Any) -> None:
        """Call a method of the consumer that subclasses may override; what it raises is logged."""
        try:
            getattr(self.sender, name, noop)(*said)
        except Exception:
            logger.exception("%s of the consumer raised", name)

    def _send_failure(self, request: Request, error: BaseException) -> None:
        if not signals.task_failure.receivers:
            return
        context, info = self._context(request), ExceptionInfo.of(error)
        signals.task_failure.send(
            sender=self.app.tasks.get(request.type),
            task_id=request.id,
            exception=error,
            args=context.args,
            kwargs=context.kwargs,
            traceback=info.traceback,
            einfo=info,
        )


def unreadable(envelope: bytes) -> Message:
    """A message that could not be decoded, for the signals `task_rejected` and `task_unknown`."""
    try:
        return decode_envelope(envelope)
    except CeleryError:
        return Message(headers={}, properties={}, body=envelope, content_type="", content_encoding="")
