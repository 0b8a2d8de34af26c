"""Messages that go their own way: to the `Strategy` of their task, or past a `Request` class of its own.

A `Strategy` is handed the message and decides when it runs, what runs and when it is acknowledged (it may collect a
hundred and run them as one).  Until then the message stays claimed: the worker's lease keeps it, and whoever sweeps
a dead worker gives it to another.  A `Request` class of its own is told what becomes of tasks that run as all do.
Tasks that have neither never come here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from celery import states
from celery.app.einfo import ExceptionInfo
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TaskError, WorkerLostError
from celery.utils.log import get_logger
from celery.wire.message import Outcome, Settlement
from celery.wire.protocol import decode_envelope
from celery.wire.serialization import accept_types
from celery.worker.claimed import Claimed
from celery.worker.request import Request
from celery.worker.strategy import as_protocol_2

if TYPE_CHECKING:
    from celery.worker.consumer.consumer import Consumer

logger = get_logger(__name__)

Handler = Callable[..., Any]
LEFT = "its strategy rejected it"
BY_TRACER = frozenset({states.FAILURE, states.RETRY, states.REJECTED, states.IGNORED})


class Strategies(Mapping[str, Handler]):
    """Name of a task -> what its strategy does with a message. One per worker; its methods belong to the loop.

    It is also the channel that kombu's messages are acknowledged through, by the number the loop gave them.
    """

    no_ack_consumers = None

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.app = consumer.app
        self.lent: dict[int, Claimed] = {}
        """In the hands of strategies: claimed, neither running nor settled here."""
        self.over: list[Claimed] = []
        """Claimed, and more than strategies may hold."""
        self.watched: dict[int, Request] = {}
        """Who is told what becomes of a task, by the tag of its job."""
        self._handlers: dict[str, Handler] = {}
        self._accept = accept_types(self.app.conf.accept_content)

    # -- as users know it ------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Handler:
        handler = self._handlers.get(name)
        if handler is None:
            handler = self._handlers[name] = self.app.tasks[name].start_strategy(self.app, self.consumer)
        return handler

    def __iter__(self) -> Iterator[str]:
        return iter(self.app.tasks)

    def __len__(self) -> int:
        return len(self.app.tasks)

    def update(self) -> None:
        """Ask every task for its strategy anew when its next message comes."""
        self._handlers.clear()

    # -- messages --------------------------------------------------------------------------------------------------

    def is_full(self) -> bool:
        """Whether strategies hold all that they may."""
        return len(self.lent) >= self.consumer.prefetch.lent(self.consumer.pool.size)

    def take(self, claimed: Claimed) -> None:
        """Give a message to the strategy of its task, if that holds no more than it may."""
        if self.is_full():
            self.over.append(claimed)
            return
        self.lent[claimed.tag] = claimed
        try:
            message = self.message_of(claimed)
            # Of protocol 1 the strategy gets the decoded body; of protocol 2 it decodes what it needs.
            body = None if "task" in message.headers else message.payload
            reject = partial(self._reject, claimed.tag)
            self[claimed.type](message, body, partial(self._acknowledge, claimed.tag), reject, [])
        except Exception as exc:
            logger.exception("The strategy of %s raised: its message goes to the dead set", claimed)
            self.settle(claimed.tag, "dead", f"its strategy raised {exc!r}")

    def give_back(self) -> None:
        """What strategies may not hold goes back to its queue, to the front."""
        over, self.over = self.over, []
        self.consumer.source.release([claimed.delivery for claimed in over])

    def message_of(self, claimed: Claimed) -> Any:
        """The message as kombu has it: to be decoded, acknowledged, rejected."""
        wire = decode_envelope(claimed.delivery.envelope)
        return import_module("kombu.message").Message(
            body=wire.body,
            delivery_tag=claimed.tag,
            content_type=wire.content_type,
            content_encoding=wire.content_encoding,
            delivery_info={**claimed.delivery_info, "consumer_tag": self.consumer.hostname},
            properties=dict(wire.properties),
            headers=dict(wire.headers),
            accept=self._accept,
            channel=self,
        )

    def request_of(self, claimed: Claimed) -> Any:
        """A message as the public class, for those who only look."""
        message = self.message_of(claimed)
        body = None if "task" in message.headers else message.payload
        task, fields = self.app.tasks[claimed.type], as_protocol_2(message, body)
        return Request(message, app=self.app, hostname=self.consumer.hostname, task=task, **fields).follow()

    def run(self, tag: int, request: Request | None = None) -> None:
        """Run a message as all tasks are run, and tell *request* what becomes of it."""
        claimed = self.lent.pop(tag)
        if request is not None:
            self.watched[tag] = request
        self.consumer.hold([claimed])

    def settle(self, tag: int, verb: Any, reason: str = "") -> None:
        """End a message that a strategy holds; once. Any thread."""
        if not self.consumer.calls.is_here():
            self.consumer.call_soon(partial(self.settle, tag, verb, reason))
            return
        claimed = self.lent.pop(tag, None)
        if claimed is not None:
            self.consumer.endings.waiting.append(Settlement(claimed.delivery, verb, 0.0, reason))

    def forget(self) -> None:
        """The lease on them is lost: others have them."""
        self.lent.clear()

    def _acknowledge(self, tag: int, *_: Any) -> None:
        self.settle(tag, "done")

    def _reject(self, tag: int, log: Any = None, errors: Any = None, requeue: bool = False, *_: Any) -> None:
        self.settle(tag, "requeue" if requeue else "dead", "" if requeue else LEFT)

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.settle(delivery_tag, "done")

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        self._reject(delivery_tag, requeue=requeue)

    # -- requests that watch ---------------------------------------------------------------------------------------

    def started(self, batch: Sequence[Claimed]) -> None:
        """These have been handed to the pool."""
        for claimed in batch:
            request = self.watched.get(claimed.tag)
            if request is not None:
                request.led.tell(
                    request.on_accepted, claimed.worker_pid or self.consumer.pool.pids()[0], claimed.time_start
                )

    def ended(self, outcomes: Sequence[Outcome], inside: Mapping[int, Claimed]) -> list[Outcome]:
        """Tell requests that watch what came of their tasks; the outcomes, as those requests want them."""
        return [self._ended(outcome, inside.get(outcome.tag)) for outcome in outcomes]

    def _ended(self, outcome: Outcome, claimed: Claimed | None) -> Outcome:
        if outcome.state == "RETURNED" or claimed is None:
            return outcome
        request = self.watched.pop(outcome.tag, None)
        if request is None:
            return outcome
        hard, soft = claimed.limits()
        if soft and outcome.state in {states.FAILURE, "OVERTIME"} and outcome.runtime >= soft:
            request.led.tell(request.on_timeout, True, soft)
        if outcome.state == states.SUCCESS:
            request.led.tell(request.on_success, (0, outcome.detail, outcome.runtime))
        elif outcome.state == "TIMEOUT":
            request.led.tell(request.on_timeout, False, hard)
        else:
            info = self._info(outcome)
            if outcome.state in BY_TRACER:
                request.led.tell(request.on_success, (1, info, outcome.runtime))
            else:
                request.led.tell(request.on_failure, info)
        return _as_decided(request, claimed, outcome)

    def _info(self, outcome: Outcome) -> ExceptionInfo:
        """The exception that a task ended with: as its result has it, where there is one."""
        error = self._error(outcome)
        info = ExceptionInfo((type(error), error, None))
        info._text = outcome.traceback or None
        return info

    def _error(self, outcome: Outcome) -> BaseException:
        match outcome.state:
            case "LOST":
                return WorkerLostError(outcome.detail)
            case "OVERTIME":
                return SoftTimeLimitExceeded()
            case states.REJECTED:
                return Reject(outcome.detail, outcome.requeue)
            case states.IGNORED:
                return Ignore()
        found = self._stored(outcome)
        if outcome.state == states.RETRY:
            return Retry(None, found)
        return TaskError(outcome.detail) if found is None else found

    def _stored(self, outcome: Outcome) -> Any:
        """The exception in its result, None where that has none."""
        for record in outcome.records:
            try:
                found = self.app.backend.decode_result(record.value)["result"]
            except Exception as exc:  # noqa: BLE001 - a result that cannot be read here: its text is what is known
                logger.debug("A result cannot be read: %r", exc)
                break
            if isinstance(found, BaseException):
                return found
        return None


def _as_decided(request: Request, claimed: Claimed, outcome: Outcome) -> Outcome:
    """*outcome*, unless one of the request's hooks acknowledged or rejected the message."""
    decision = request.led.decision
    if decision is None:
        return outcome
    late = decision != "done"
    claimed.facts = replace(claimed.facts, acks_late=late, acks_on_failure=True, acks_on_timeout=True)
    if not late:
        return outcome
    return Outcome(outcome.tag, states.REJECTED, outcome.runtime, requeue=decision == "requeue", detail=LEFT)


__all__ = ["Handler", "Strategies"]
