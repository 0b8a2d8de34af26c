"""The worker's decisions, one rule at a time. How they play together: tests/scenarios."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from celery.exceptions import InvalidTaskError, NotRegistered, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from celery.wire.message import Delivery, Outcome
from celery.wire.protocol import Head
from celery.worker.decisions import (
    AGAIN,
    BACK,
    DONE,
    EXPIRED,
    REVOKED,
    RUN,
    Dead,
    Delay,
    Facts,
    Lost,
    admit,
    moment,
    next_stage,
    settle,
)

NOW = 1_700_000_000.0
EARLY = Facts("add")
LATE = Facts("add", acks_late=True)


def head(**fields: Any) -> Head:
    return Head(task="add", id="a", **fields)


def delivery(**fields: Any) -> Delivery:
    return Delivery(1, "celery", b"", 1, **fields)


def at(seconds: float) -> str:
    return (datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)).isoformat()


class TestAdmit:
    def test_an_ordinary_message_is_run(self) -> None:
        assert admit(head(), delivery(), EARLY, NOW) is RUN

    def test_an_unknown_task_is_dead(self) -> None:
        verdict = admit(head(), delivery(), None, NOW)
        assert isinstance(verdict, Dead)
        assert isinstance(verdict.error, NotRegistered)
        assert "'add'" in verdict.reason

    @pytest.mark.parametrize(("revoked", "known"), [(True, False), (False, True), (True, True)])
    def test_a_revoked_task_is_dropped(self, revoked: bool, known: bool) -> None:
        assert admit(head(), delivery(revoked=known), EARLY, NOW, revoked=revoked) is REVOKED

    @pytest.mark.parametrize(("seconds", "verdict"), [(-1, EXPIRED), (0, EXPIRED), (1, RUN)])
    def test_an_expired_task_is_dropped(self, seconds: float, verdict: Any) -> None:
        assert admit(head(expires=at(seconds)), delivery(), EARLY, NOW) is verdict

    def test_a_task_that_is_not_due_goes_back_until_it_is(self) -> None:
        assert admit(head(eta=at(10)), delivery(), EARLY, NOW) == Delay(NOW + 10)

    def test_a_task_that_is_due_is_run(self) -> None:
        assert admit(head(eta=at(-10)), delivery(), EARLY, NOW) is RUN

    def test_time_without_a_zone_is_the_apps(self) -> None:
        tokyo = timezone(timedelta(hours=9))
        local = datetime.fromtimestamp(NOW - 10, tokyo).replace(tzinfo=None).isoformat()
        assert admit(head(eta=local), delivery(), EARLY, NOW, zone=tokyo) is RUN
        assert admit(head(expires=local), delivery(), EARLY, NOW, zone=tokyo) is EXPIRED
        assert admit(head(eta=local), delivery(), EARLY, NOW) == Delay(NOW - 10 + 9 * 3600)

    @pytest.mark.parametrize("field", ["eta", "expires"])
    def test_a_time_that_is_none_makes_the_message_invalid(self, field: str) -> None:
        verdict = admit(head(**{field: "tomorrow"}), delivery(), EARLY, NOW)
        assert isinstance(verdict, Dead)
        assert isinstance(verdict.error, InvalidTaskError)
        assert f"'{field}'" in verdict.reason

    def test_an_interrupted_early_ack_task_is_lost(self) -> None:
        verdict = admit(head(), delivery(interrupted=True, deliveries=1), EARLY, NOW)
        assert isinstance(verdict, Lost)
        assert isinstance(verdict.error, WorkerLostError)

    def test_an_interrupted_late_ack_task_runs_again_until_it_has_killed_too_often(self) -> None:
        facts = Facts("add", acks_late=True, max_deliveries=3)
        assert admit(head(), delivery(interrupted=True, deliveries=2), facts, NOW) is RUN
        verdict = admit(head(), delivery(interrupted=True, deliveries=3), facts, NOW)
        assert isinstance(verdict, Dead)
        assert isinstance(verdict.error, WorkerLostError)

    def test_deliveries_that_ended_well_are_not_counted_against_a_task(self) -> None:
        # A task that rejects itself with requeue=True may do so as often as it likes.
        assert admit(head(), delivery(deliveries=1000), LATE, NOW) is RUN

    def test_an_interrupted_revoked_task_is_dropped_rather_than_run_again(self) -> None:
        assert admit(head(), delivery(interrupted=True, deliveries=1, revoked=True), LATE, NOW) is REVOKED


class TestSettle:
    @pytest.mark.parametrize("state", ["SUCCESS", "RETRY", "IGNORED", "REVOKED", "A STATE OF THE USER"])
    @pytest.mark.parametrize("facts", [EARLY, LATE])
    def test_what_ended_is_done(self, state: str, facts: Facts) -> None:
        assert settle(facts, Outcome(1, state), delivery()) == DONE

    def test_a_failure_is_done_unless_failures_are_not_acknowledged(self) -> None:
        assert settle(LATE, Outcome(1, "FAILURE"), delivery()) == DONE
        facts = Facts("add", acks_late=True, acks_on_failure=False)
        assert settle(facts, Outcome(1, "FAILURE"), delivery()).verb == "dead"
        assert settle(Facts("add", acks_on_failure=False), Outcome(1, "FAILURE"), delivery()) == DONE

    def test_what_the_worker_could_not_run_is_dead_with_its_reason(self) -> None:
        ending = settle(EARLY, Outcome(1, "REJECTED", detail="cannot be decoded", internal=True), delivery())
        assert (ending.verb, ending.reason, ending.effects) == ("dead", "cannot be decoded", True)

    def test_what_did_not_start_is_handed_out_again(self) -> None:
        assert settle(EARLY, Outcome(1, "RETURNED"), delivery()) is AGAIN

    def test_a_rejected_late_ack_task_goes_back_or_to_the_dead_set(self) -> None:
        assert settle(LATE, Outcome(1, "REJECTED", requeue=True), delivery()) is BACK
        ending = settle(LATE, Outcome(1, "REJECTED", detail="no"), delivery())
        assert (ending.verb, ending.reason) == ("dead", "rejected by the task: no")

    def test_a_rejected_early_ack_task_was_acknowledged_before(self) -> None:
        assert settle(EARLY, Outcome(1, "REJECTED", requeue=True), delivery()) is DONE

    def test_a_lost_task_fails(self) -> None:
        for facts in (EARLY, LATE):
            ending = settle(facts, Outcome(1, "LOST", detail="signal 9"), delivery())
            assert ending.verb == "done"
            assert isinstance(ending.error, WorkerLostError)
            assert str(ending.error) == "signal 9"

    def test_a_lost_late_ack_task_goes_back_if_that_is_asked_for_until_it_is_too_often(self) -> None:
        facts = Facts("add", acks_late=True, reject_on_worker_lost=True, max_deliveries=3)
        assert settle(facts, Outcome(1, "LOST"), delivery(deliveries=1)) is BACK
        ending = settle(facts, Outcome(1, "LOST"), delivery(deliveries=2))
        assert ending.verb == "dead"
        assert isinstance(ending.error, WorkerLostError)

    def test_reject_on_worker_lost_means_nothing_for_early_ack(self) -> None:
        facts = Facts("add", reject_on_worker_lost=True)
        assert settle(facts, Outcome(1, "LOST"), delivery()).verb == "done"

    def test_a_lost_task_is_retried_if_that_is_asked_for_as_often_as_it_may_be(self) -> None:
        facts = Facts("add", retry_on_worker_lost=True, max_retries=2, retry_delay=7.0)
        ending = settle(facts, Outcome(1, "LOST"), delivery(), retries=1)
        assert (ending.verb, ending.state, ending.retry_in) == ("done", "RETRY", 7.0)
        ending = settle(facts, Outcome(1, "LOST"), delivery(), retries=2)
        assert (ending.verb, ending.state, ending.retry_in) == ("done", "FAILURE", None)

    def test_a_killed_revoked_task_is_revoked(self) -> None:
        ending = settle(LATE, Outcome(1, "LOST"), delivery(), killed="revocation")
        assert (ending.verb, ending.state) == ("done", "REVOKED")
        assert isinstance(ending.error, TaskRevokedError)
        assert str(ending.error) == "terminated"

    def test_a_cold_shutdown_requeues_late_ack_tasks_and_fails_the_others(self) -> None:
        assert settle(LATE, Outcome(1, "LOST"), delivery(deliveries=99), killed="shutdown") is BACK
        ending = settle(EARLY, Outcome(1, "LOST"), delivery(), killed="shutdown")
        assert ending.verb == "done"
        assert isinstance(ending.error, WorkerLostError)

    def test_a_task_that_ran_too_long_fails(self) -> None:
        ending = settle(EARLY, Outcome(1, "TIMEOUT", runtime=3.1), delivery(), hard=3.0)
        assert ending.verb == "done"
        assert isinstance(ending.error, TimeLimitExceeded)
        assert ending.error.args == (3.0,)

    def test_a_timeout_is_dead_where_timeouts_are_not_acknowledged(self) -> None:
        facts = Facts("add", acks_late=True, acks_on_timeout=False)
        assert settle(facts, Outcome(1, "TIMEOUT"), delivery()).verb == "dead"


class TestTheLadder:
    @pytest.mark.parametrize(
        ("events", "stage"),
        [
            (["TERM"], "warm"),
            (["TERM", "TERM"], "cold"),
            (["TERM", "QUIT"], "cold"),
            (["INT"], "warm"),
            (["INT", "INT"], "cold"),
            (["QUIT"], "cold"),
            (["timeout"], "run"),
            (["TERM", "timeout"], "warm"),
        ],
    )
    def test_without_a_soft_rung(self, events: list[str], stage: str) -> None:
        assert self.climb(events) == stage

    @pytest.mark.parametrize(
        ("events", "stage"),
        [
            (["TERM"], "warm"),
            (["QUIT"], "soft"),
            (["TERM", "TERM"], "soft"),
            (["TERM", "TERM", "timeout"], "cold"),
            (["TERM", "TERM", "TERM"], "cold"),
        ],
    )
    def test_with_a_soft_rung(self, events: list[str], stage: str) -> None:
        assert self.climb(events, soft_timeout=5.0) == stage

    def test_a_remapped_term_is_a_quit(self) -> None:
        assert self.climb(["TERM"], remap_term=True) == "cold"

    @staticmethod
    def climb(events: list[str], **options: Any) -> str:
        stage: Any = "run"
        for event in events:
            stage = next_stage(stage, event, **options)
        return str(stage)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T22:13:20+00:00", NOW),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-15T00:13:20+02:00", NOW),
        ("2023-11-14", 1_699_920_000.0),
        ("soon", None),
        ("", None),
    ],
)
def test_moments(text: str, seconds: float | None) -> None:
    assert moment(text) == seconds
