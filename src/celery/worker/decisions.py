"""What becomes of a message: pure functions. No I/O, no logging, no clock; time is an argument.

`admit` looks at a claimed message before it runs, `settle` at what came of it.  The loop (`celery.worker.consumer`)
carries out what they say.  Read `tests/scenarios/*.txt` beside this file: every rule has its example there.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Literal

import msgspec

from celery.exceptions import (
    InvalidTaskError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.utils.pace import Pace
from celery.wire.message import Delivery, Outcome, Permit
from celery.wire.protocol import Head

Reason = Literal["revoked", "expired", "terminated"]


class Facts(msgspec.Struct, frozen=True):
    """What the worker must know of a task type; read from the task once. Limits in seconds."""

    name: str
    acks_late: bool = False
    acks_on_failure: bool = True
    acks_on_timeout: bool = True
    reject_on_worker_lost: bool = False
    """A late-ack task whose process died goes back to its queue instead of failing."""
    retry_on_worker_lost: bool = False
    """A task whose process died is retried like one that raised `Retry`, whenever it is acknowledged."""
    max_retries: int | None = 3
    retry_delay: float = 180.0
    track_started: bool = False
    ignore_result: bool = False
    store_errors: bool = True
    """Failures are stored: results are not ignored, or `store_errors_even_if_ignored` is set."""
    soft: float | None = None
    hard: float | None = None
    pace: Pace | None = None
    """How fast one worker may start them; None: as fast as it can, or as `permits` say."""
    permits: tuple[Permit, ...] = ()
    """What every message of the task needs of the store before it may start."""
    concurrency: int | None = None
    concurrency_key: str | None = None
    """The task's `concurrency_limit`, and `concurrency_key` if it is a template: for messages that say nothing."""
    limited: bool = False
    """Any of these four."""
    max_deliveries: int = 5
    """A message whose runs end with the death of its process is run at most this often."""
    send_events: bool = True
    """Monitors are told of it."""
    own_way: bool = False
    """It has a `Strategy`, or a `Request` class, of its own: its messages go to that."""

    @property
    def acks_early(self) -> bool:
        """Whether it does not run again when its worker dies while it runs."""
        return not (self.acks_late or self.retry_on_worker_lost)


# --- before a run -----------------------------------------------------------------------------------------------------


class Run(msgspec.Struct, frozen=True):
    """Hand it to the pool."""


class Drop(msgspec.Struct, frozen=True):
    """Nobody wants it any more: it ends as REVOKED."""

    reason: Reason


class Delay(msgspec.Struct, frozen=True):
    """It is not due yet: back to the broker until *due* (Unix seconds)."""

    due: float


class Dead(msgspec.Struct, frozen=True):
    """It cannot be run: to the dead set with *reason*; its result is the failure *error*."""

    reason: str
    error: BaseException


class Lost(msgspec.Struct, frozen=True):
    """It was running when its worker died and must not run twice: it ends as the failure *error*."""

    error: BaseException


Admission = Run | Drop | Delay | Dead | Lost

RUN = Run()
REVOKED = Drop("revoked")
EXPIRED = Drop("expired")


def admit(
    head: Head, delivery: Delivery, facts: Facts | None, now: float, *, revoked: bool = False, zone: tzinfo = UTC
) -> Admission:
    """Whether a claimed message is to be run. *facts* is None for a task that is not registered here.

    *revoked*: this worker was told to revoke it, which the broker may not know of. *zone*: of times that name none.
    """
    if facts is None:
        return unknown(head)
    if delivery.interrupted:
        verdict = _admit_interrupted(delivery, facts)
        if verdict is not RUN:
            return verdict
    if revoked or delivery.revoked:
        return REVOKED
    if head.expires is not None:
        expires = moment(head.expires, zone)
        if expires is None:
            return malformed(f"its header 'expires' is not an ISO 8601 time: {head.expires!r}")
        if expires <= now:
            return EXPIRED
    if head.eta is not None:
        due = moment(head.eta, zone)
        if due is None:
            return malformed(f"its header 'eta' is not an ISO 8601 time: {head.eta!r}")
        if due > now:
            return Delay(due)
    return RUN


def _admit_interrupted(delivery: Delivery, facts: Facts) -> Admission:
    if facts.acks_early:
        return Lost(WorkerLostError("The worker that ran this task died, and the task is not to be run twice."))
    if delivery.deliveries >= facts.max_deliveries:
        return too_many(delivery.deliveries)
    return RUN


def unknown(head: Head) -> Dead:
    """The task is not registered here."""
    return Dead(f"unknown task {head.task!r}: no module that this worker imports defines it", NotRegistered(head.task))


def malformed(problem: str) -> Dead:
    """The message has a task id, but is not a task message."""
    return Dead(f"invalid message: {problem}", InvalidTaskError(f"The message is invalid: {problem}."))


def too_many(deliveries: int) -> Dead:
    """Running it has killed its process too often."""
    reason = f"delivered {deliveries} times, and each time its process died (task_max_deliveries)"
    return Dead(reason, WorkerLostError(f"The task was {reason}."))


def moment(text: str, zone: tzinfo = UTC) -> float | None:
    """Unix seconds of an ISO 8601 time, read in *zone* if it names none; None if it is no such time."""
    try:
        parsed = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=zone)
    return parsed.timestamp()


# --- after a run ------------------------------------------------------------------------------------------------------


class Ending(msgspec.Struct, frozen=True):
    """How a delivery ends.

    `verb` is a settlement's, or `again`: hand it to the pool once more, it had not started.  `error` is the failure
    (or, with `state` REVOKED, the revocation) that this process has to record because no tracer lived to do it;
    `effects`: what the outcome brought (records, messages, arrivals) is committed.  `retry_in`: the message is sent
    once more, as the next retry, to be run after so many seconds.
    """

    verb: Literal["done", "requeue", "dead", "again"]
    reason: str = ""
    error: BaseException | None = None
    state: str = "FAILURE"
    effects: bool = True
    retry_in: float | None = None


DONE = Ending("done")
AGAIN = Ending("again", effects=False)
BACK = Ending("requeue", effects=False)
NOT_ACKNOWLEDGED = "it failed, and acks_on_failure is off"
TIMED_OUT = "its time limit passed, and acks_on_timeout is off"


_SETTLED = frozenset({"SUCCESS", "RETRY"})

Killed = Literal["revocation", "shutdown"]
"""Why this worker itself ended the process of a job."""


def settle(
    facts: Facts,
    outcome: Outcome,
    delivery: Delivery,
    *,
    retries: int = 0,
    hard: float | None = None,
    killed: Killed | None = None,
) -> Ending:
    """How the delivery of a job ends.

    *retries*: how often it has been retried; *hard*: its time limit in seconds; *killed*: why this worker killed it.
    """
    state = outcome.state
    if state in _SETTLED:
        return DONE
    if outcome.internal:
        return Ending("dead", outcome.detail or "the worker could not run it")
    if state == "FAILURE":
        return Ending("dead", NOT_ACKNOWLEDGED) if _unacknowledged(facts) else DONE
    if state == "RETURNED":
        return AGAIN
    if state == "LOST":
        return _settle_lost(facts, outcome, delivery, retries, killed)
    if state == "OVERTIME":
        error = SoftTimeLimitExceeded()
        return Ending("dead", NOT_ACKNOWLEDGED, error) if _unacknowledged(facts) else Ending("done", error=error)
    if state == "TIMEOUT":
        return _settle_timeout(facts, outcome, hard)
    if state == "REJECTED":
        return _settle_rejected(facts, outcome)
    return DONE  # IGNORED, REVOKED and states of the user's own: the tracer has recorded what there is to record


def ends_for_good(outcome: Outcome, ending: Ending) -> bool:
    """Whether the task, and not only this execution of it, has ended."""
    if ending.verb == "requeue" or ending.retry_in is not None:
        return False
    return ending.verb == "dead" or ending.error is not None or outcome.state in {"FAILURE", "REVOKED"}


def _unacknowledged(facts: Facts) -> bool:
    """Whether a failure of the task leaves its message unacknowledged."""
    return facts.acks_late and not facts.acks_on_failure


def _settle_lost(facts: Facts, outcome: Outcome, delivery: Delivery, retries: int, killed: Killed | None) -> Ending:
    if killed == "revocation":
        return Ending("done", error=revocation("terminated"), state="REVOKED")
    if killed == "shutdown":
        if not facts.acks_early:
            return BACK
        return Ending("done", error=WorkerLostError("The worker was shut down while the task ran."))
    error = WorkerLostError(outcome.detail or "The process that ran the task ended before the task did.")
    if facts.retry_on_worker_lost:
        if facts.max_retries is None or retries < facts.max_retries:
            return Ending("done", error=error, state="RETRY", retry_in=facts.retry_delay)
        return Ending("done", error=error)
    if facts.acks_late and facts.reject_on_worker_lost:
        deliveries = delivery.deliveries + 1
        if deliveries < facts.max_deliveries:
            return BACK
        dead = too_many(deliveries)
        return Ending("dead", dead.reason, dead.error)
    return Ending("dead", NOT_ACKNOWLEDGED, error) if _unacknowledged(facts) else Ending("done", error=error)


def _settle_timeout(facts: Facts, outcome: Outcome, hard: float | None) -> Ending:
    error = TimeLimitExceeded(round(outcome.runtime, 3) if hard is None else hard)
    if facts.acks_late and not facts.acks_on_timeout:
        return Ending("dead", TIMED_OUT, error)
    return Ending("done", error=error)


def _settle_rejected(facts: Facts, outcome: Outcome) -> Ending:
    # An early-ack message is acknowledged when it starts: as with the original, rejecting it later changes nothing.
    if not facts.acks_late:
        return DONE
    if outcome.requeue:
        return BACK
    return Ending("dead", f"rejected by the task: {outcome.detail}" if outcome.detail else "rejected by the task")


def revocation(reason: Reason) -> TaskRevokedError:
    """The result of a task that was not run because nobody wants it."""
    return TaskRevokedError(reason)


# --- shutdown ---------------------------------------------------------------------------------------------------------

Stage = Literal["run", "warm", "soft", "cold", "hard"]


def next_stage(stage: Stage, event: str, *, soft_timeout: float = 0.0, remap_term: bool = False) -> Stage:
    """The rung of the shutdown ladder after *event*: `TERM`, `INT`, `QUIT`, `timeout` (of the soft rung).

    run → warm (stop claiming, finish what runs) → cold (kill what runs). With `worker_soft_shutdown_timeout` there is
    a rung `soft` before cold: what runs gets that many seconds more.  Who asks again below cold, by `INT` or `QUIT`,
    gets `hard`: the process ends there and then.
    """
    if event == "TERM" and remap_term:
        event = "QUIT"
    if event == "timeout":
        return "cold" if stage == "soft" else stage
    if stage in {"cold", "hard"}:
        return stage if event == "TERM" else "hard"
    if stage == "soft":
        return "cold"
    if stage == "warm" or event == "QUIT":
        return "soft" if soft_timeout > 0 else "cold"
    return "warm"
