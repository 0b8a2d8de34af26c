"""Errands: functions that run in a pool beside its tasks, as the envelope of a job, and what came of them.

A `Strategy` of its own, or a step of the worker, hands one to `pool.apply_async`.  It travels as a job whose envelope
is no message.  To another process it goes pickled, and its value comes back so; a slot of this process finds it here.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery.app.einfo import ExceptionInfo
from celery.states import FAILURE, SUCCESS
from celery.utils.saferepr import saferepr
from celery.utils.serialization import get_pickleable_exception
from celery.wire.message import Job, Outcome, Record

PICKLED, HERE = b"errand:", b"here:"
"""What such an envelope begins with: no JSON text does."""


class Errand(NamedTuple):
    """A function, and what to call it with."""

    target: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """What came of an errand: its value, or the exception that it raised."""

    value: Any = None
    error: ExceptionInfo | None = None


_numbers = itertools.count(1)
_errands: dict[int, Errand] = {}
_answers: dict[int, Answer] = {}


def pack(errand: Errand, *, elsewhere: bool) -> bytes:
    """The envelope of *errand*, for a slot in another process or in this one. Raises what cannot be pickled raises."""
    if elsewhere:
        return PICKLED + pickle.dumps(tuple(errand))
    number = next(_numbers)
    _errands[number] = errand
    return HERE + str(number).encode()


def is_errand(envelope: bytes) -> bool:
    return envelope.startswith((PICKLED, HERE))


def run(job: Job) -> Outcome:
    """Run the errand of *job*. Raises nothing but what ends the process."""
    began = time.monotonic()
    envelope = bytes(job.envelope)
    try:
        errand = _unpack(envelope)
        answer = Answer(errand.target(*errand.args, **errand.kwargs))
    except Exception as exc:  # noqa: BLE001 - whoever handed in the function is told
        answer = Answer(None, ExceptionInfo.of(exc))
    state = SUCCESS if answer.error is None else FAILURE
    detail = saferepr(answer.value if answer.error is None else answer.error.exception)
    records: tuple[Record, ...] = ()
    if envelope.startswith(PICKLED):
        records = (Record("", _pickled(answer)),)
    else:
        _answers[_number(envelope)] = answer
    return Outcome(job.tag, state, time.monotonic() - began, records, detail=detail)


def _unpack(envelope: bytes) -> Errand:
    if envelope.startswith(PICKLED):
        return Errand(*pickle.loads(envelope[len(PICKLED) :]))
    return _errands[_number(envelope)]


def answer_of(envelope: bytes, outcome: Outcome) -> Answer | None:
    """What came of the errand in *envelope*; None where it was never run, or its process died. To be asked once."""
    if envelope.startswith(HERE):
        number = _number(envelope)
        _errands.pop(number, None)
        return _answers.pop(number, None)
    return Answer(*pickle.loads(outcome.records[0].value)) if outcome.records else None


def _pickled(answer: Answer) -> bytes:
    error = answer.error
    if error is not None:
        text = error.traceback
        error = ExceptionInfo.of(get_pickleable_exception(error.exception), internal=error.internal)
        error._text = text
    try:
        return pickle.dumps((answer.value, error))
    except Exception as exc:  # noqa: BLE001 - a value that stays behind: that is what came of the call
        return pickle.dumps((None, ExceptionInfo.of(get_pickleable_exception(exc))))


def _number(envelope: bytes) -> int:
    return int(envelope[len(HERE) :])


__all__ = ["Answer", "Errand", "answer_of", "is_errand", "pack", "run"]
