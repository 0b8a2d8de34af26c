"""What a slot makes of one message of a workflow: the effects that are committed with its settlement."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, chain, chord, group
from celery.app.runner import make_runner
from celery.backends.memory import MemoryStore
from celery.canvas.shelf import EMBED
from celery.contrib.testing.app import TestApp
from celery.exceptions import Reject, WorkerLostError
from celery.utils import uuid
from celery.wire.message import Arrival, Delivery, Job, Outcome, Outgoing, Settlement
from celery.wire.protocol import Message, decode_envelope, encode_envelope, peek, split_body
from celery.worker.aftermath import Aftermath
from celery.worker.claimed import Claimed as Request
from celery.worker.decisions import REVOKED, Dead, Ending, Facts, Lost

BIG = "x" * (2 * EMBED)


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid()}"
    app = TestApp(broker=place, backend=place)

    @app.task(name="same", shared=False)
    def same(*args: Any) -> Any:
        return args[0] if args else None

    @app.task(name="fail", shared=False)
    def fail(*args: Any) -> None:
        raise ValueError("no")

    @app.task(name="told", shared=False)
    def told(task_id: str) -> None:
        return None

    yield app
    app.close()


def sent(app: Celery, signature: Any) -> list[Outgoing]:
    """The messages that sending *signature* makes, which go nowhere."""
    with app.publisher.collect() as messages:
        signature.apply_async()
    return messages


def run(app: Celery, message: Outgoing, **fields: Any) -> Outcome:
    """What a slot of a worker of its own makes of *message*."""
    app.backend._join_messages.clear()
    return make_runner(app, "w@h")(Job(1, message.envelope, **fields))


def read(message: Outgoing) -> tuple[Message, Any]:
    decoded = decode_envelope(message.envelope)
    return decoded, split_body(decoded)


def gist(outcome: Outcome) -> Any:
    """What must be the same whenever a message is executed again."""
    return (
        [(message.task_id, message.routing_key, read(message)[1]) for message in outcome.messages],
        [(arrival.group, arrival.index, arrival.value, arrival.size) for arrival in outcome.arrivals],
        [record.key for record in outcome.records],
    )


def children(outcome: Outcome) -> Any:
    return json.loads(outcome.records[0].value)["children"]


# -- next steps --------------------------------------------------------------------------------------------------------


def steps(app: Celery) -> dict[str, Any]:
    same = app.tasks["same"]
    return {
        "task": same.s(),
        "group": group(same.s(), same.s() | same.s()),
        "chord": chord([same.s(), same.s()], same.s()),
        "chord of chords": chord([chord([same.s()], same.s()), same.s()], same.s() | same.s()),
        "chain": same.s() | group(same.s(), same.s()),
        "large chord": chord([same.s(), same.s()], same.s(BIG)),
    }


@pytest.mark.parametrize("form", ["task", "group", "chord", "chord of chords", "chain", "large chord"])
@pytest.mark.parametrize("role", ["next", "callback", "error callback"])
def test_steps_are_the_same_when_their_cause_is_executed_again(app: Celery, form: str, role: str) -> None:
    # One that takes more than an id would be called at once.
    forms = {**steps(app), "task": app.tasks["told" if role == "error callback" else "same"].s()}
    step = app.signature(json.loads(json.dumps(forms[form])))
    first = app.tasks["fail" if role == "error callback" else "same"].s(1)
    if role == "next":
        [message] = sent(app, chain(first, step))
    else:
        (first.link_error if role == "error callback" else first.link)(step)
        [message] = sent(app, first)
    once, again = run(app, message), run(app, message, redelivered=True)
    assert once.messages
    assert len({each.task_id for each in once.messages}) == len(once.messages)
    assert gist(once) == gist(again)


def test_steps_of_different_retries_are_different(app: Celery) -> None:
    [message] = sent(app, app.tasks["same"].s(1).set(link=[app.tasks["same"].s()], task_id="same-id"))
    other = decode_envelope(message.envelope)
    other.headers["retries"] = 1
    ids = {run(app, each).messages[0].task_id for each in (message, Outgoing(encode_envelope(other), "q"))}
    assert len(ids) == 2


def test_ids_that_were_fixed_before_stay(app: Celery) -> None:
    same = app.tasks["same"]
    line = chain(same.s(1), group(same.s(), same.s()), same.s())
    result = line.freeze()
    [message] = sent(app, line)
    header = result.parent.results
    assert [each.task_id for each in run(app, message).messages] == [part.id for part in header]


def test_children_are_noted_as_the_original_does(app: Celery) -> None:
    same = app.tasks["same"]
    [message] = sent(app, same.s(1).set(link=[same.s()]))
    outcome = run(app, message)
    assert children(outcome) == [[[outcome.messages[0].task_id, None], None]]
    [message] = sent(app, same.s(1).set(link=[same.s(), same.s()]))
    outcome = run(app, message)
    [[[group_id, parent], members]] = children(outcome)
    assert parent is None
    assert members == [[[each.task_id, None], None] for each in outcome.messages]
    assert {peek(each.envelope).group for each in outcome.messages} == {group_id}
    [message] = sent(app, chain(same.s(1), group(same.s(), same.s()), same.s()))
    outcome = run(app, message)
    [[[group_id, parent], members]] = children(outcome)
    assert members == [[[each.task_id, None], None] for each in outcome.messages]


def test_steps_are_below_their_cause(app: Celery) -> None:
    same = app.tasks["same"]
    [message] = sent(app, chain(same.s(1).set(task_id="one", root_id="root"), group(same.s(), same.s()), same.s()))
    for each in run(app, message).messages:
        head = peek(each.envelope)
        assert (head.root_id, head.parent_id) == ("root", "one")


def test_chain_hands_on_what_is_left_of_it(app: Celery) -> None:
    same = app.tasks["same"]
    [message] = sent(app, chain(same.s(number) for number in range(4)))
    lengths = []
    while True:
        outcome = run(app, message)
        if not outcome.messages:
            break
        [message] = outcome.messages
        _, (args, _, embed) = read(message)
        lengths.append((args, len(embed["chain"] or ())))
    assert lengths == [([0, 1], 2), ([0, 2], 1), ([0, 3], 0)]


def test_chain_from_the_result_store_is_let_go_of_as_it_is_used(app: Celery) -> None:
    same = app.tasks["same"]
    [message] = sent(app, chain(same.s(BIG), *(same.si(str(number) * EMBED) for number in range(3))))
    runs, spent = 0, []
    while True:
        outcome = run(app, message)
        runs += 1
        spent += [record for record in outcome.records if record.state == "CANVAS"]
        if not outcome.messages:
            break
        [message] = outcome.messages
    assert runs == 4
    assert spent
    assert all(record.ttl == 86400.0 for record in spent)


def test_what_cannot_be_stored_sends_nothing_and_is_no_success(app: Celery) -> None:
    @app.task(name="opaque", shared=False)
    def opaque() -> Any:
        return object()

    same, body = app.tasks["same"], app.tasks["same"].s()
    for signature in (opaque.s() | same.s(), opaque.s().set(link=[same.s(), same.s()]), chord([opaque.s()], body)):
        [message] = sent(app, signature)
        outcome = run(app, message)
        assert outcome.state == "FAILURE"
        assert outcome.messages == ()
        assert [record.state for record in outcome.records] == ["FAILURE"] * len(outcome.records)
        assert all(json.loads(record.value)["children"] == [] for record in outcome.records)
        assert [json.loads(arrival.value)[2] for arrival in outcome.arrivals] == ["FAILURE"] * len(outcome.arrivals)


# -- parts of chords ---------------------------------------------------------------------------------------------------


def part(app: Celery, signature: Any, **options: Any) -> tuple[Outgoing, Any]:
    """The message of the first part of a chord of two, and the result of its body."""
    made = chord([signature, app.tasks["same"].s()], app.tasks["same"].s(), app=app)
    with app.publisher.collect() as messages:
        result = made.apply_async(**options)
    return messages[0], result


def test_part_arrives_as_the_original_writes_it(app: Celery) -> None:
    message, result = part(app, app.tasks["same"].s({"é": [1]}), queue="there", priority=3)
    [arrival] = run(app, message).arrivals
    group_id = result.parent.id
    assert arrival.group == f"celery-taskset-meta-{group_id}."
    assert arrival.index == f"{message.task_id}:0"
    assert json.loads(arrival.value) == [1, message.task_id, "SUCCESS", {"é": [1]}]
    assert arrival.size == 2
    join = arrival.message
    assert join is not None
    assert (join.routing_key, join.exchange, join.priority, join.inner) == ("there", "", 3, True)
    head, body = peek(join.envelope), read(join)[1]
    assert head.task == "celery.chord_join"
    assert body[1]["group_id"] == group_id
    assert body[1]["body"]["options"]["task_id"] == result.id


def test_all_parts_bring_the_same_join(app: Celery) -> None:
    parts = [app.tasks["same"].s(number) for number in range(5)]
    runner = make_runner(app, "w@h")
    outcomes = [runner(Job(1, message.envelope)) for message in sent(app, chord(parts, app.tasks["same"].s()))]
    assert len({outcome.arrivals[0].message for outcome in outcomes if outcome.arrivals[0].message}) == 1
    assert [outcome.arrivals[0].index.rpartition(":")[2] for outcome in outcomes] == list("01234")


def test_failed_part_arrives_with_its_error(app: Celery) -> None:
    message, _ = part(app, app.tasks["fail"].s())
    outcome = run(app, message)
    [arrival] = outcome.arrivals
    error = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    assert json.loads(arrival.value) == [1, message.task_id, "FAILURE", error]
    assert [record.state for record in outcome.records] == ["FAILURE"]


def test_retry_does_not_arrive(app: Celery) -> None:
    @app.task(name="again", bind=True, shared=False)
    def again(self: Any) -> None:
        raise self.retry(countdown=1)

    message, _ = part(app, again.s())
    outcome = run(app, message)
    assert (outcome.state, outcome.arrivals) == ("RETRY", ())
    [retry] = outcome.messages
    assert peek(retry.envelope).retries == 1
    assert read(retry)[1][2]["chord"] is not None, "the next try is a part of the chord as this one was"


@pytest.mark.parametrize(("late", "requeue", "arrives"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_rejected_part_arrives_unless_it_comes_again(app: Celery, late: bool, requeue: bool, arrives: int) -> None:
    @app.task(name="reject", acks_late=late, shared=False)
    def reject() -> None:
        raise Reject("why", requeue=requeue)

    message, _ = part(app, reject.s())
    assert len(run(app, message).arrivals) == arrives


def test_task_without_a_chord_does_not_arrive(app: Celery) -> None:
    for message in sent(app, group(app.tasks["same"].s(), app.tasks["fail"].s())):
        assert run(app, message).arrivals == ()


def test_part_that_is_run_outside_of_a_worker_arrives_at_once(app: Celery) -> None:
    message, result = part(app, app.tasks["same"].s(5))
    other = app.backend.join_key(result.parent.id)
    app.backend.on_chord_part_return(
        {"id": message.task_id, "group": result.parent.id, "group_index": 0, "chord": {"chord_size": 1}}, "SUCCESS", 5
    )
    assert [json.loads(value) for value in app.store.arrived(other)] == [[1, message.task_id, "SUCCESS", 5]]
    [stats] = app.broker.stats(["celery"])
    assert stats.ready == 1


# -- parts that end without being run ----------------------------------------------------------------------------------


def request_of(app: Celery, message: Outgoing) -> Request:
    head = peek(message.envelope)
    ignored = bool(head.ignore_result)
    facts = Facts(head.task, ignore_result=ignored, store_errors=not ignored)
    return Request(head, Delivery(1, "celery", message.envelope, 1), facts, 1, "w@h")


ENDINGS: dict[str, Any] = {
    "revoked": lambda after, request: after.dropped(request, REVOKED.reason),
    "expired": lambda after, request: after.dropped(request, "expired"),
    "dead": lambda after, request: after.refused(request, Dead("too often", WorkerLostError("gone"))),
    "lost": lambda after, request: after.refused(request, Lost(WorkerLostError("gone"))),
    "killed": lambda after, request: after.ended(request, Ending("done", error=WorkerLostError("gone"))),
}


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_whatever_ends_a_part_it_arrives(app: Celery, ending: str) -> None:
    message, _ = part(app, app.tasks["same"].s())
    effects: Settlement = ENDINGS[ending](Aftermath(app, "w@h"), request_of(app, message))
    [arrival] = effects.arrivals
    _, task_id, state, error = json.loads(arrival.value)
    assert task_id == message.task_id
    assert (state, error["exc_type"]) == (
        ("REVOKED", "TaskRevokedError") if ending in {"revoked", "expired"} else ("FAILURE", "WorkerLostError")
    )
    assert arrival.message is not None
    assert [json.loads(record.value)["status"] for record in effects.records] == [state]


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_whatever_ends_a_step_the_chain_behind_it_ends_too(app: Celery, ending: str) -> None:
    same = app.tasks["same"]
    message, _ = part(app, same.s() | same.s() | same.s())
    effects: Settlement = ENDINGS[ending](Aftermath(app, "w@h"), request_of(app, message))
    assert len(effects.records) == 3
    [arrival] = effects.arrivals
    assert arrival.index == f"{effects.records[2].key.removeprefix('celery-task-meta-')}:0"


def test_part_that_is_retried_for_a_lost_process_does_not_arrive(app: Celery) -> None:
    message, _ = part(app, app.tasks["same"].s())
    ending = Ending("done", error=WorkerLostError("gone"), state="RETRY", retry_in=1.0)
    effects = Aftermath(app, "w@h").ended(request_of(app, message), ending)
    assert effects.arrivals == ()
    assert [peek(each.envelope).retries for each in effects.messages] == [1]


def test_part_whose_arguments_are_of_a_forbidden_kind_arrives(app: Celery) -> None:
    message, _ = part(app, app.tasks["same"].s(), serializer="msgpack")
    app.conf.accept_content = ["json"]
    outcome = run(app, message)
    assert (outcome.state, outcome.internal) == ("REJECTED", True)
    [arrival] = outcome.arrivals
    assert json.loads(arrival.value)[2:][0] == "FAILURE"
    assert len(outcome.records) == 1


def test_part_whose_arguments_are_no_list_arrives(app: Celery) -> None:
    message, _ = part(app, app.tasks["same"].s())
    decoded = decode_envelope(message.envelope)
    body = json.loads(decoded.body)
    decoded.body = json.dumps([5, *body[1:]]).encode()
    outcome = run(app, Outgoing(encode_envelope(decoded), "celery"))
    assert outcome.internal
    assert [json.loads(arrival.value)[2] for arrival in outcome.arrivals] == ["FAILURE"]


def test_join_that_cannot_be_completed_fails_the_body(app: Celery) -> None:
    """Its process was killed again and again, say: whoever waits for the body is told, and what follows the chord."""
    same, told = app.tasks["same"], app.tasks["told"]
    messages = sent(app, chord([same.s()], (same.s() | same.s()).on_error(told.s())))
    [arrival] = run(app, messages[0]).arrivals
    assert arrival.message is not None
    effects: Settlement = ENDINGS["dead"](Aftermath(app, "w@h"), request_of(app, arrival.message))
    errors = [json.loads(record.value)["result"]["exc_type"] for record in effects.records]
    assert errors == ["ChordError", "ChordError"]
    assert [peek(message.envelope).task for message in effects.messages] == ["told"]


# -- the join ----------------------------------------------------------------------------------------------------------


def arrive(app: Celery, messages: list[Outgoing]) -> Outgoing:
    """Run *messages* and count them; the message of the join that they complete."""
    arrivals: list[Arrival] = []
    for message in messages:
        arrivals += run(app, message).arrivals
    completed = app.store.arrive(arrivals)
    assert completed == [False] * (len(arrivals) - 1) + [True]
    join = arrivals[-1].message
    assert join is not None
    return join


def test_join_does_the_same_again_when_it_is_executed_again(app: Celery) -> None:
    same = app.tasks["same"]
    for body in steps(app).values():
        join = arrive(app, sent(app, chord([same.s(1), same.s(2)], app.signature(json.loads(json.dumps(body))))))
        once, again = run(app, join), run(app, join)
        assert once.messages
        assert gist(once) == gist(again)


def test_join_stores_no_result_of_its_own(app: Celery) -> None:
    same = app.tasks["same"]
    join = arrive(app, sent(app, chord([same.s(1)], same.s())))
    outcome = run(app, join)
    assert (outcome.state, outcome.records) == ("SUCCESS", ())
    [body] = outcome.messages
    message, (args, _, _) = read(body)
    assert args == [[1]]
    assert "celeriac_once" not in message.headers, "broker and results are committed together here"


def test_join_whose_parts_are_gone_fails_the_body(app: Celery) -> None:
    same = app.tasks["same"]
    made = chord([same.s(1)], same.s())
    with app.publisher.collect() as messages:
        result = made.apply_async()
    join = arrive(app, messages)
    app.store.delete([app.backend.join_key(result.parent.id)])
    [record] = run(app, join).records
    assert record.key.endswith(result.id)
    assert json.loads(record.value)["result"]["exc_type"] == "ChordError"


def test_join_whose_body_is_gone_fails_it(app: Celery) -> None:
    same = app.tasks["same"]
    with app.publisher.collect() as messages:
        result = chord([same.s(1)], same.s(BIG)).apply_async()
    join = arrive(app, messages)
    key = read(join)[1][1]["body"]["kwargs"]["key"]
    assert app.store.delete([key]) == 1
    [record] = [record for record in run(app, join).records if record.state == "FAILURE"]
    assert record.key.endswith(result.id)
    assert json.loads(record.value)["result"]["exc_type"] == "CanvasLost"


def test_large_body_is_let_go_of_when_it_has_been_sent(app: Celery) -> None:
    same = app.tasks["same"]
    join = arrive(app, sent(app, chord([same.s(1)], same.s(BIG))))
    [spent] = [record for record in run(app, join).records if record.state == "CANVAS"]
    assert spent.ttl == 86400.0
    assert app.store.put([spent]) == [True]


def test_store_out_of_reach_brings_the_join_back(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.app import joins
    from celery.exceptions import BackendError

    same = app.tasks["same"]
    join = arrive(app, sent(app, chord([same.s(1)], same.s())))
    trouble = BackendError("out of reach")
    trouble.temporary = True

    def refuse(self: MemoryStore, group: str) -> list[bytes]:
        raise trouble

    monkeypatch.setattr(joins, "PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "arrived", refuse)
        outcome = run(app, join)
    assert (outcome.state, outcome.requeue, outcome.messages, outcome.records) == ("REJECTED", True, (), ())
    assert len(run(app, join).messages) == 1
