"""Chords: every part counts once, whatever becomes of it, and the body is run once or fails."""

from __future__ import annotations

import time
from typing import Any

import pytest

from canvas.stage import SOON, Stage
from celery import chain, chord, group
from celery.app.runner import make_runner
from celery.brokers.base import Consumer
from celery.canvas.shelf import EMBED
from celery.exceptions import ChordError, TaskRevokedError
from celery.utils import uuid
from celery.wire.message import Delivery, Job, Outcome, Settlement
from celery.wire.protocol import peek


def numbers(stage: Stage, count: int) -> list[Any]:
    return [stage.add.s(number, 0) for number in range(count)]


@pytest.mark.parametrize("size", [1, 2, 10, 300])
def test_body_is_given_the_results_in_the_order_of_the_header(stage: Stage, size: int) -> None:
    result = chord(numbers(stage, size))(stage.total.s())
    assert stage.get(result) == sum(range(size))
    assert stage.notes(1) == [("total", list(range(size)))]


def test_the_order_is_that_of_the_header_whoever_ends_first(stage: Stage) -> None:
    first, second = stage.behind.s(0, gate="two"), stage.behind.s(1, gate="three", opens="two")
    parts = [first, second, stage.behind.s(2, opens="three")]
    assert stage.get(chord(parts)(stage.same.s())) == [0, 1, 2]


def test_body_comes_when_the_last_part_has_ended_and_not_before(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.behind.s(1, gate="go")])(stage.total.s())
    stage.wait(lambda: stage.app.AsyncResult(result.parent.results[0].id).ready())
    assert stage.noted == []
    stage.gate("go").set()
    assert stage.get(result) == 2


def test_empty_header_gives_the_body_nothing(stage: Stage) -> None:
    assert stage.get(chord([])(stage.same.s())) == []


def test_results_of_every_kind_reach_the_body(stage: Stage) -> None:
    values = [None, "é", 1.5, [1, [2]], {"a": None}, True, ""]
    assert stage.get(chord([stage.same.s(value) for value in values])(stage.same.s())) == values


def test_parts_that_ignore_their_results_deliver_them(stage: Stage) -> None:
    parts = [stage.add.s(1, 1).set(ignore_result=True), stage.add.s(2, 2)]
    assert stage.get(chord(parts)(stage.same.s())) == [2, 4]


def test_retried_part_arrives_when_it_has_ended(stage: Stage) -> None:
    assert stage.get(chord([stage.retried.s(1), stage.add.s(2), stage.retried.s(3)])(stage.same.s())) == [1, 2, 3]


# -- parts that do not succeed -----------------------------------------------------------------------------------------


def test_failed_part_is_named(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.fail.s(), stage.add.s(2)])(stage.total.s())
    error = stage.error(result)
    assert type(error) is ChordError
    assert str(error) == f"Dependency {result.parent.results[1].id} raised ValueError('no')"
    assert [stage.ended(part) for part in result.parent.results] == ["SUCCESS", "FAILURE", "SUCCESS"]
    stage.settle()
    assert stage.noted == []


def test_of_several_failures_the_first_in_the_header_is_named(stage: Stage) -> None:
    parts = [stage.behind.s(0), stage.fail.s(text="one"), stage.fail.s(text="two")]
    result = chord(parts)(stage.total.s())
    assert str(stage.error(result)) == f"Dependency {result.parent.results[1].id} raised ValueError('one')"


def test_revoked_part_fails_the_body(stage: Stage) -> None:
    part = stage.add.s(1).set(task_id=uuid(), countdown=600)
    if not stage.app.broker.can.withdraws:  # then it ends when its time has come, and the worker is to know by then
        part.set(countdown=0.3)
        stage.app.control.revoke(part.id, reply=True, limit=1, timeout=SOON)
    result = chord([part, stage.add.s(2)])(stage.total.s())
    stage.app.control.revoke(part.id)
    assert str(stage.error(result)) == f"Dependency {part.id} raised TaskRevokedError('revoked')"
    assert isinstance(stage.error(stage.app.AsyncResult(part.id)), TaskRevokedError)


def test_expired_part_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.add.s(2).set(expires=-1)])(stage.total.s())
    assert str(stage.error(result)) == f"Dependency {result.parent.results[1].id} raised TaskRevokedError('expired')"


def test_part_that_expires_before_anybody_takes_it_fails_the_body(stage: Stage) -> None:
    """No server drops it without a word, which would leave the body waiting for ever."""
    part = stage.add.s(2).set(queue="late", expires=0.2)
    result = chord([stage.add.s(1), part])(stage.total.s())
    alone = part.apply_async()
    time.sleep(0.5)  # it has expired, and a server that looks for such messages has looked
    stage.app.control.add_consumer("late", reply=True, limit=1, timeout=SOON)
    assert str(stage.error(result)) == f"Dependency {result.parent.results[1].id} raised TaskRevokedError('expired')"
    assert isinstance(stage.error(alone), TaskRevokedError)
    stage.app.control.cancel_consumer("late", reply=True, limit=1, timeout=SOON)


def test_unknown_task_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.app.signature("no.such.task")])(stage.total.s())
    assert "no.such.task" in str(stage.error(result))
    stage.settle()
    dead = stage.app.broker.entries("dead")
    assert result.parent.results[1].id in {entry.task_id for entry in dead}
    stage.app.broker.remove([entry.tag for entry in dead])


def test_ignored_part_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.ignored.s()])(stage.total.s())
    assert str(stage.error(result)) == f"Dependency {result.parent.results[1].id} raised Ignore('not worth it')"
    assert stage.meta(result.parent.results[1])["status"] == "PENDING", "of the part itself nothing is recorded"


def test_rejected_part_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.rejected.s()])(stage.total.s())
    assert str(stage.error(result)) == f"Dependency {result.parent.results[1].id} raised reject requeue=False: broken"
    stage.settle()
    stage.app.broker.remove([entry.tag for entry in stage.app.broker.entries("dead")])


def test_part_whose_result_cannot_be_stored_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.opaque.s()])(stage.total.s())
    error = str(stage.error(result))
    assert error.startswith(f"Dependency {result.parent.results[1].id} raised EncodeError(")
    assert stage.ended(result.parent.results[1]) == "FAILURE"


def test_part_with_wrong_arguments_fails_the_body(stage: Stage) -> None:
    result = chord([stage.add.s(1), stage.picky.s(1, 2)])(stage.total.s())
    assert "raised TypeError(" in str(stage.error(result))


# -- composition -------------------------------------------------------------------------------------------------------


def test_chain_in_the_header_arrives_with_its_last_step(stage: Stage) -> None:
    result = chord([stage.add.s(1) | stage.add.s(10) | stage.add.s(100), stage.add.s(5)])(stage.same.s())
    assert stage.get(result) == [111, 5]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_chain_in_the_header_that_fails_arrives_at_once(stage: Stage, place: int) -> None:
    steps = [stage.same.s() if number != place else stage.fail.s() for number in range(3)]
    result = chord([chain(steps), stage.add.s(5)])(stage.total.s())
    last = result.parent.results[0]
    assert str(stage.error(result)) == f"Dependency {last.id} raised ValueError('no')"
    assert stage.ended(last) == "FAILURE"


def test_ignored_step_of_a_chain_in_the_header_fails_the_body(stage: Stage) -> None:
    result = chord([stage.ignored.s() | stage.add.s(1), stage.add.s(5)])(stage.total.s())
    assert str(stage.error(result)) == f"Dependency {result.parent.results[0].id} raised Ignore('not worth it')"


def test_groups_in_the_header_are_parts_one_by_one(stage: Stage) -> None:
    header = [stage.add.s(1), group(stage.add.s(2), group(stage.add.s(3), stage.add.s(4))), stage.add.s(5)]
    assert stage.get(chord(header)(stage.same.s())) == [1, 2, 3, 4, 5]


def test_chords_in_the_header_arrive_with_their_bodies(stage: Stage) -> None:
    inner = chord([stage.add.s(1), stage.add.s(2)], stage.total.s())
    result = chord([inner, stage.add.s(10), chord([stage.add.s(20)], stage.total.s() | stage.add.s(1))])(stage.same.s())
    assert stage.get(result) == [3, 10, 21]


def test_chain_that_ends_in_a_group_is_as_many_parts(stage: Stage) -> None:
    header = [stage.add.s(1) | group(stage.add.s(10), stage.add.s(20)), stage.add.s(5)]
    assert stage.get(chord(header)(stage.same.s())) == [11, 21, 5]


def test_chain_before_a_group_that_fails_is_as_many_failed_parts(stage: Stage) -> None:
    header = [stage.fail.s() | group(stage.add.s(10), stage.add.s(20)), stage.add.s(5)]
    result = chord(header)(stage.total.s())
    assert "raised ValueError('no')" in str(stage.error(result))


@pytest.mark.parametrize("broken", ["header", "body"])
def test_chord_in_the_header_that_fails_fails_the_body(stage: Stage, broken: str) -> None:
    part = stage.fail.s() if broken == "header" else stage.add.s(1)
    inner = chord([stage.add.s(2), part], stage.total.s() if broken == "header" else stage.fail.s())
    result = chord([inner, stage.add.s(3)])(stage.total.s())
    error, failed = str(stage.error(result)), result.parent.results[0]
    assert error.startswith(f"Dependency {failed.id} raised {'ChordError' if broken == 'header' else 'ValueError'}(")
    assert stage.ended(failed) == "FAILURE"


def test_body_may_be_a_chain_a_group_or_a_chord(stage: Stage) -> None:
    header = [stage.add.s(1), stage.add.s(2)]
    assert stage.get(chord(header)(stage.total.s() | stage.add.s(10))) == 13
    assert stage.get(chord(header)(group(stage.total.s(), stage.same.s()))) == [3, [1, 2]]
    inner = chord([stage.total.s(), stage.total.s()], stage.total.s())
    assert stage.get(chord(header)(inner)) == 6


@pytest.mark.parametrize("broken", [True, False])
def test_chord_as_the_body_of_a_chord_in_a_header(stage: Stage, broken: bool) -> None:
    first = stage.fail.s() if broken else stage.add.s(1)
    inner = chord([first, stage.add.s(2)], chord([stage.total.s(), stage.total.s()], stage.total.s()))
    result = chord([inner, stage.add.s(100)])(stage.same.s())
    if broken:
        assert str(stage.error(result)).startswith(f"Dependency {result.parent.results[0].id} raised ChordError(")
    else:
        assert stage.get(result) == [6, 100]


def test_what_follows_a_chord_that_is_a_body_which_does_not_run_has_failed(stage: Stage) -> None:
    """Also where that is the part that another chord waits for."""
    inner = chord([stage.add.s(1, 1)], stage.total.s())
    part = chain(chord([stage.fail.s()], inner), stage.same.s())
    result = chord([part, stage.add.s(5, 5)])(stage.total.s())
    assert "ChordError" in str(stage.error(result))
    stage.settle()
    assert {stage.ended(leaf) for leaf in result.parent.results} == {"FAILURE", "SUCCESS"}


def test_what_follows_a_chord_follows_its_body(stage: Stage) -> None:
    line = stage.add.s(1) | group(stage.add.s(1), stage.add.s(2)) | stage.total.s() | stage.add.s(100) | stage.same.s()
    assert stage.get(line.apply_async()) == 105


def test_chord_after_chord(stage: Stage) -> None:
    line = chain(group(numbers(stage, 3)), stage.total.s(), group(stage.add.s(1), stage.add.s(2)), stage.total.s())
    assert stage.get(line.apply_async()) == 9


def test_body_that_fails_is_an_ordinary_failure(stage: Stage) -> None:
    result = chord(numbers(stage, 2))(stage.fail.s(text="body"))
    assert isinstance(stage.error(result), ValueError)


@pytest.mark.parametrize("body", ["chain", "group", "chord"])
def test_no_task_of_a_body_that_is_not_run_stays_pending(stage: Stage, body: str) -> None:
    ids = [uuid() for _ in range(4)]
    one, two, three, four = (stage.same.s().set(task_id=task_id) for task_id in ids)
    made: Any = {
        "chain": one | two | three | four,
        "group": group(one | two, three, four),
        "chord": chord([one | two, three], four),
    }[body]
    stage.error(_last(chord([stage.fail.s(), stage.add.s(1)])(made)))
    stage.settle()
    for task_id in ids:
        assert isinstance(stage.error(stage.app.AsyncResult(task_id)), ChordError)
    assert stage.noted == []


def _last(result: Any) -> Any:
    return result.results[-1] if hasattr(result, "results") else result


# -- what changes on the way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_parts_may_be_added(stage: Stage, lazy: bool) -> None:
    growing = stage.grow.s(1, [dict(stage.add.s(10)), dict(stage.add.s(20))], lazy=lazy)
    result = chord([growing, stage.behind.s(2)])(stage.same.s())
    found = stage.get(result)
    assert found[:2] == [1, 2]
    assert sorted(found[2:]) == [10, 20]


def test_added_part_that_fails_fails_the_body(stage: Stage) -> None:
    result = chord([stage.grow.s(1, [dict(stage.fail.s())]), stage.add.s(2)])(stage.total.s())
    assert "raised ValueError('no')" in str(stage.error(result))


@pytest.mark.parametrize("form", ["task", "chain", "group", "chord", "failing", "twice"])
def test_part_may_be_replaced(stage: Stage, form: str) -> None:
    sig: Any = {
        "task": stage.add.s(5, 5),
        "chain": stage.add.s(4, 4) | stage.add.s(2),
        "group": group(stage.add.s(5), stage.add.s(5)),
        "chord": chord([stage.add.s(4), stage.add.s(6)], stage.total.s()),
        "failing": stage.fail.s(),
        "twice": stage.become.s(sig=dict(stage.add.s(5, 5))),
    }[form]
    result = chord([stage.become.s(sig=sig), stage.add.s(1)])(stage.same.s())
    if form == "failing":
        assert str(stage.error(result)) == f"Dependency {result.parent.results[0].id} raised ValueError('no')"
    else:
        assert stage.get(result) == [[5, 5] if form == "group" else 10, 1]


# -- where it runs, and what it inherits -------------------------------------------------------------------------------


def test_body_is_below_the_last_part_of_its_header(stage: Stage) -> None:
    result = (stage.add.s(1) | group(stage.add.s(1), stage.add.s(2)) | stage.about.s()).apply_async()
    told = stage.get(result)
    header = result.parent
    assert told["parent"] == header.results[-1].id
    assert told["root"] == header.parent.id
    assert told["group"] == header.id
    assert told["args"] == [[2, 3]]
    assert told["headers"] is None


def test_priority_is_inherited_where_the_setting_says_so(stage: Stage) -> None:
    header = [stage.add.s(1).set(priority=3), stage.add.s(2).set(priority=3)]
    assert stage.get(chord(header)(stage.about.s()))["priority"] == 0
    assert stage.get(chord(header)(stage.about.s().set(priority=6)))["priority"] == 6
    stage.app.conf.task_inherit_parent_priority = True
    assert stage.get(chord(header)(stage.about.s()))["priority"] == 3


def test_large_body_is_read_from_the_result_store(stage: Stage) -> None:
    text = "x" * (2 * EMBED)
    result = chord(numbers(stage, 3))(stage.same.s(text))
    assert stage.get(result) == [0, 1, 2]
    failed = chord([*numbers(stage, 3), stage.fail.s()])(stage.same.s(text).on_error(stage.told.s()))
    assert isinstance(stage.error(failed), ChordError)
    assert ("told", failed.id, "ChordError") in {note[:3] for note in stage.notes(1, "told")}


def test_large_body_with_a_long_chain_behind_it(stage: Stage) -> None:
    steps = [stage.add.s(1) for _ in range(60)]
    result = (group(numbers(stage, 3)) | stage.total.s() | chain(steps)).apply_async()
    assert stage.get(result) == 63
    broken = (group([*numbers(stage, 3), stage.fail.s()]) | stage.total.s() | chain(steps)).apply_async()
    assert isinstance(stage.error(broken), ChordError)
    while broken is not None and not hasattr(broken, "results"):
        assert isinstance(stage.error(broken), ChordError)
        broken = broken.parent


# -- doing it twice ----------------------------------------------------------------------------------------------------


def test_join_of_a_chord_comes_before_what_waits_in_the_queue(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chord does not wait twice behind a long queue: once for its header, and once more to learn that it is done."""
    monkeypatch.setitem(stage.app.broker.options, "exact_claims", True)  # for RabbitMQ, which pushes
    consumer = stage.app.broker.consumer(["other"], name="test")
    stage.app.broker.publish([stage.app.amqp.outgoing("same", (number,), {}, queue="other") for number in range(3)])
    chord([stage.add.s(1).set(queue="other")])(stage.same.s())
    first = _claimed(consumer, 3, most=3)
    [part] = _claimed(consumer, 1)
    arrivals = _outcome_of(stage, part).arrivals
    for arrival in arrivals:
        assert arrival.message is not None
        stage.app.broker.publish([arrival.message])
    consumer.settle([Settlement(part)])
    consumer.release(first)
    assert [_name(delivery) for delivery in _claimed(consumer, 4)] == ["celery.chord_join", "same", "same", "same"]
    consumer.close()
    stage.wait(lambda: stage.app.broker.stats(["other"])[0].ready == 4)
    assert stage.app.broker.purge("other") == 4


def test_message_of_a_join_that_comes_twice_runs_the_body_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a ledger in two steps may send it, when it crashes between sending and settling."""
    if stage.app.store is None:
        pytest.skip("capability: without a store, whoever has the parts sends the body at once")
    if stage.app.broker.fuses(stage.app.store):
        pytest.skip("capability: here the message of a join is sent in the step that completes it")
    monkeypatch.setitem(stage.app.broker.options, "exact_claims", True)  # for RabbitMQ, which pushes
    consumer = stage.app.broker.consumer(["other"], name="test")
    result = chord([stage.add.s(1).set(queue="other")])(stage.total.s())
    [part] = _claimed(consumer, 1)
    for _ in range(3):
        outcome = _outcome_of(stage, part)
        assert stage.app.store.arrive(outcome.arrivals) == [True]
        stage.app.broker.publish([arrival.message for arrival in outcome.arrivals if arrival.message is not None])
    joins = _claimed(consumer, 3)
    assert [_name(delivery) for delivery in joins] == ["celery.chord_join"] * 3
    bodies = [_outcome_of(stage, delivery) for delivery in joins]
    bodies.append(_outcome_of(stage, joins[0], redelivered=True))
    assert [outcome.state for outcome in bodies] == ["SUCCESS", "IGNORED", "IGNORED", "SUCCESS"]
    assert [len(outcome.messages) for outcome in bodies] == [1, 0, 0, 1]
    stage.app.broker.publish([message for outcome in bodies for message in outcome.messages])
    assert stage.get(result) == 1
    consumer.settle([Settlement(delivery) for delivery in (part, *joins)])
    consumer.close()
    assert stage.notes(1) == [("total", [1])]


def _claimed(consumer: Consumer, count: int, most: int = 9) -> list[Delivery]:
    """What is there once there are so many, in whatever pieces they come."""
    found: list[Delivery] = []
    deadline = time.monotonic() + SOON
    while len(found) < count:
        assert time.monotonic() < deadline, f"{count} messages, not {found}"
        found += consumer.claim(most - len(found))
    return found


def _outcome_of(stage: Stage, delivery: Delivery, *, redelivered: bool = False) -> Outcome:
    return make_runner(stage.app, "here")(Job(1, delivery.envelope, redelivered))


def _name(delivery: Delivery) -> str:
    return peek(delivery.envelope).task
