"""Outcomes that a pool makes up, for jobs whose runner did not say what became of them."""

from __future__ import annotations

import traceback

from msgspec.structs import replace

from celery.wire.message import Job, Outcome


def failed(job: Job, exc: BaseException) -> Outcome:
    """The runner of *job* broke: runners do not raise, so this is no fault of the task."""
    text = "".join(traceback.format_exception(exc))
    return Outcome(job.tag, "FAILURE", detail=plain(repr(exc)), traceback=plain(text), internal=True)


def returned(job: Job) -> Outcome:
    """*job* was never started."""
    return Outcome(job.tag, "RETURNED")


def plain(text: str) -> str:
    """*text* without what UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def after_limit(job: Job, outcome: Outcome) -> Outcome:
    """The *outcome* of a job in which a soft time limit was raised, wherever it was at that moment.

    Where it struck outside of the task, that is no defect of the runner's: the task has exceeded its limit.
    """
    if not outcome.internal:
        return outcome
    return replace(outcome, internal=False) if outcome.records else Outcome(job.tag, "OVERTIME")
