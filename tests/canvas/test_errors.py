"""Errors in workflows: what is called, how often, and what becomes of what does not run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from canvas.stage import Stage
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.utils import uuid


def ids(stage: Stage, count: int) -> list[str]:
    return [uuid() for _ in range(count)]


def results(stage: Stage, task_ids: list[str]) -> list[Any]:
    return [stage.app.AsyncResult(task_id) for task_id in task_ids]


# -- error callbacks ---------------------------------------------------------------------------------------------------


def test_callback_is_called_with_the_error_or_sent_with_the_id(stage: Stage) -> None:
    result = stage.fail.s().on_error(stage.told.s()).on_error(stage.mourn.s()).apply_async()
    assert sorted(stage.notes(2)) == [("mourn", result.id), ("told", result.id, "ValueError", "no")]


def test_chains_groups_and_chords_are_callbacks_too(stage: Stage) -> None:
    forms = [
        chain(stage.same.si("chain 1"), stage.same.si("chain 2")),
        group(stage.same.si("group 1"), stage.same.si("group 2")),
        chord([stage.same.si("chord 1"), stage.same.si("chord 2")], stage.same.si("chord 3")),
    ]
    stage.app.signature("fail", link_error=forms).apply_async()
    said = [*(f"{form} {number}" for form in ("chain", "group", "chord") for number in (1, 2)), "chord 3"]
    assert stage.counted(7) == Counter(("same", text) for text in said)


def test_callback_that_fails_keeps_no_other_from_being_called(stage: Stage) -> None:
    result = stage.fail.s().on_error(stage.clumsy.s()).on_error(stage.told.s()).on_error(stage.mourn.s()).apply_async()
    assert [note[0] for note in sorted(stage.notes(3))] == ["clumsy", "mourn", "told"]
    assert isinstance(stage.error(result), ValueError)


def test_callback_that_nobody_knows_goes_to_the_dead_set(stage: Stage) -> None:
    stage.fail.s().on_error(stage.app.signature("no.such.callback")).on_error(stage.told.s()).apply_async()
    assert len(stage.notes(1)) == 1
    [entry] = stage.app.broker.entries("dead")
    assert stage.app.broker.remove([entry.tag]) == 1


def test_callback_of_a_task_that_never_ran_is_called(stage: Stage) -> None:
    """Nobody knows the task, so the worker's own process ends it."""
    signature = stage.app.signature("no.such.task", link_error=[stage.told.s(), stage.mourn.s()])
    result = signature.apply_async()
    assert stage.counted(2) == Counter(
        {("mourn", result.id): 1, ("told", result.id, "NotRegistered", str(stage.error(result))): 1}
    )
    stage.app.broker.remove([entry.tag for entry in stage.app.broker.entries("dead")])


def test_retries_call_no_error_callback_before_the_last(stage: Stage) -> None:
    result = stage.retried.s(1, times=9).set(link_error=[stage.told.s()]).apply_async()
    assert [note[:2] for note in stage.notes(1)] == [("told", result.id)]


# -- chains ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_steps_behind_a_failed_one_have_failed_with_it(stage: Stage, place: int) -> None:
    task_ids = ids(stage, 4)
    steps = [stage.same.si(number).set(task_id=task_id) for number, task_id in enumerate(task_ids)]
    steps[place] = stage.fail.si().set(task_id=task_ids[place])
    chain(steps).on_error(stage.told.s()).apply_async()
    assert stage.notes(1, "told") == [("told", task_ids[place], "ValueError", "no")]
    states = [stage.ended(result) for result in results(stage, task_ids)]
    assert states == ["SUCCESS"] * place + ["FAILURE"] * (4 - place)
    assert all(isinstance(stage.error(result), ValueError) for result in results(stage, task_ids[place:]))
    assert [note[1] for note in stage.noted if note[0] == "same"] == list(range(place))


def test_only_the_callbacks_of_the_failed_step_are_called(stage: Stage) -> None:
    line = chain(
        stage.add.s(1).on_error(stage.mourn.s()),
        stage.fail.s().on_error(stage.told.s()),
        stage.add.s(1).on_error(stage.mourn.s()),
    )
    result = line.apply_async()
    assert stage.notes(1) == [("told", result.parent.id, "ValueError", "no")]


@pytest.mark.parametrize("tail", ["group", "chord", "chain of chords"])
def test_groups_and_chords_behind_a_failed_step_have_failed_with_it(stage: Stage, tail: str) -> None:
    task_ids = ids(stage, 6)
    parts = [stage.same.s().set(task_id=task_id) for task_id in task_ids]
    steps: dict[str, Any] = {
        "group": [parts[0], group(parts[1], parts[2] | parts[3], group(parts[4], parts[5]))],
        "chord": [chord(parts[:3], parts[3]), parts[4], parts[5]],
        "chain of chords": [group(parts[:2]), group(parts[2:4]), parts[4], parts[5]],
    }
    chain(stage.fail.s(), *steps[tail]).apply_async()
    stage.wait(lambda: all(result.ready() for result in results(stage, task_ids)))
    assert all(isinstance(stage.error(result), ValueError) for result in results(stage, task_ids))
    stage.settle()
    assert stage.noted == []


def test_revoked_step_takes_the_rest_of_the_chain_with_it(stage: Stage) -> None:
    task_ids = ids(stage, 3)
    steps = [stage.same.si(number).set(task_id=task_id) for number, task_id in enumerate(task_ids)]
    steps[1].set(expires=-1)
    chain(steps).apply_async()
    stage.wait(lambda: all(result.ready() for result in results(stage, task_ids)))
    assert [stage.meta(result)["status"] for result in results(stage, task_ids)] == ["SUCCESS", "REVOKED", "REVOKED"]


def test_rest_of_a_chain_is_told_also_where_the_failed_step_ignores_its_result(stage: Stage) -> None:
    result = (stage.fail.s().set(ignore_result=True) | stage.add.s(1)).apply_async()
    assert isinstance(stage.error(result), ValueError)


def test_ignored_step_ends_the_chain(stage: Stage) -> None:
    """Nobody is to hear of the step itself, but whoever waits for a later one must not wait for ever."""
    result = (stage.ignored.s() | stage.same.s()).apply_async()
    assert str(stage.error(result)) == "not worth it"
    assert stage.meta(result.parent)["status"] == "PENDING"
    stage.settle()
    assert stage.noted == []


def test_long_chain_fails_whole(stage: Stage) -> None:
    result = chain(stage.fail.si(), *(stage.add.si(1, 1) for _ in range(200))).apply_async()
    assert isinstance(stage.error(result), ValueError)
    while result is not None:
        assert isinstance(stage.error(result), ValueError)
        result = result.parent


# -- groups ------------------------------------------------------------------------------------------------------------


def test_every_failed_task_of_a_group_calls_its_own(stage: Stage) -> None:
    parts = group(stage.fail.s(), stage.add.s(1), stage.fail.s())
    parts.link_error(stage.told.s())
    found = parts.apply_async()
    failed = [found.results[0].id, found.results[2].id]
    assert stage.counted(2) == Counter(("told", task_id, "ValueError", "no") for task_id in failed)


# -- chords ------------------------------------------------------------------------------------------------------------


def test_callbacks_of_the_body_are_called_once_with_the_chord_error(stage: Stage) -> None:
    body = stage.total.s().on_error(stage.told.s()).on_error(stage.mourn.s())
    result = chord([stage.fail.s(), stage.add.s(1), stage.fail.s()])(body)
    error = f"Dependency {result.parent.results[0].id} raised ValueError('no')"
    assert stage.counted(2) == Counter({("told", result.id, "ChordError", error): 1, ("mourn", result.id): 1})


def test_callbacks_of_parts_are_their_own(stage: Stage) -> None:
    result = chord([stage.fail.s().on_error(stage.mourn.s()), stage.add.s(1)])(stage.total.s())
    part = result.parent.results[0].id
    assert stage.notes(1) == [("mourn", part)]


@pytest.mark.parametrize("also_header", [False, True])
def test_callbacks_of_a_chord_are_called_for_its_header_where_the_setting_says_so(
    stage: Stage, also_header: bool
) -> None:
    stage.app.conf.task_allow_error_cb_on_chord_header = also_header
    made = chord([stage.fail.s(), stage.add.s(1), stage.fail.s()], stage.total.s())
    made.link_error(stage.mourn.si("told"))
    made.apply_async()
    assert stage.counted(3 if also_header else 1) == {("mourn", "told"): 3 if also_header else 1}


def test_of_a_chain_as_body_the_first_step_has_failed(stage: Stage) -> None:
    body = chain(stage.same.s().on_error(stage.told.s()), stage.same.s().on_error(stage.mourn.s()))
    result = chord([stage.fail.s()])(body)
    [note] = stage.notes(1)
    assert note[:3] == ("told", result.id, "ChordError") or note[:3] == ("told", result.parent.id, "ChordError")
    assert isinstance(stage.error(result), ChordError)


def test_callback_of_a_chain_as_body_is_called_once(stage: Stage) -> None:
    chord([stage.fail.s()])(chain(stage.same.s(), stage.same.s(), stage.same.s()).on_error(stage.told.s()))
    assert len(stage.notes(1)) == 1


def test_of_a_group_as_body_every_task_has_failed(stage: Stage) -> None:
    task_ids = ids(stage, 2)
    parts = [stage.same.s().set(task_id=task_id, link_error=[stage.mourn.s()]) for task_id in task_ids]
    chord([stage.fail.s()], group(parts)).apply_async()
    assert stage.counted(2) == Counter(("mourn", task_id) for task_id in task_ids)


def test_of_a_chord_as_body_its_body_has_failed(stage: Stage) -> None:
    header = [stage.same.s().on_error(stage.mourn.s()), stage.same.s()]
    last = uuid()
    inner = chord(header, stage.same.s().set(task_id=last).on_error(stage.told.s()))
    chord([stage.fail.s(), stage.add.s(1)], inner).apply_async()
    assert [note[:3] for note in stage.notes(1)] == [("told", last, "ChordError")]


def test_nested_chords_fail_one_after_the_other(stage: Stage) -> None:
    """Each body has the one below it as the reason, and calls its own callbacks, once."""
    inner = chord([stage.fail.s(), stage.add.s(1)], stage.total.s().on_error(stage.mourn.s()))
    middle = chord([inner, stage.add.s(2)], stage.total.s().on_error(stage.mourn.s()))
    result = chord([middle, stage.add.s(3)])(stage.total.s().on_error(stage.mourn.s()))
    one, two = result.parent.results[0], result.parent.results[0].parent.results[0]
    assert stage.counted(3) == Counter(("mourn", each.id) for each in (result, one, two))
    assert str(stage.error(result)) == f"Dependency {one.id} raised {stage.error(one)!r}"
    assert str(stage.error(one)) == f"Dependency {two.id} raised {stage.error(two)!r}"


def test_callback_of_what_follows_a_chord_is_called_where_it_fails(stage: Stage) -> None:
    broken = stage.fail.s().on_error(stage.told.s())
    result = (group(stage.add.s(1), stage.add.s(2)) | stage.total.s() | broken | stage.same.s()).apply_async()
    assert isinstance(stage.error(result), ValueError)
    assert [note[:3] for note in stage.notes(1, "told")] == [("told", result.parent.id, "ValueError")]


@pytest.mark.parametrize("task", ["told", "mourn"])
def test_callbacks_of_a_replaced_task_go_with_it(stage: Stage, task: str) -> None:
    sig = stage.become.s(sig=dict(stage.fail.s())).on_error(getattr(stage, task).s())
    result = sig.apply_async()
    assert [note[:2] for note in stage.notes(1)] == [(task, result.id)]
