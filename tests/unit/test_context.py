from __future__ import annotations

import copy
import pickle

import pytest

from celery.app.context import Context, is_result_ignored
from celery.app.einfo import ExceptionInfo


class Job:
    ignore_result = False


def test_headers_of_the_message_are_attributes() -> None:
    request = Context.from_message(
        {"task": "t", "id": "i", "retries": 2, "traceparent": "00-1", "timelimit": [30, 20]},
        {"correlation_id": "c", "reply_to": "r", "priority": 3, "delivery_info": {"exchange": "", "routing_key": "q"}},
        ([1], {"k": 2}, {"callbacks": ["cb"], "errbacks": None, "chain": None, "chord": None}),
        hostname="w@h",
        redelivered=True,
    )

    assert (request.task, request.id, request.retries, request.traceparent) == ("t", "i", 2, "00-1")
    assert (request.args, request.kwargs, request.callbacks) == ([1], {"k": 2}, ["cb"])
    assert (request.correlation_id, request.reply_to, request.hostname) == ("c", "r", "w@h")
    assert request.delivery_info == {"exchange": "", "routing_key": "q", "priority": 3, "redelivered": True}
    assert (request.time_limit, request.soft_time_limit) == (30, 20)
    assert request.called_directly is False


def test_fields_have_defaults_and_unknown_names_raise() -> None:
    request = Context()

    assert (request.retries, request.delivery_info, request.children, request.headers) == (0, None, [], None)
    assert (request.called_directly, request.is_eager, request.outbox) == (True, False, None)
    assert request.get("nope", 3) == 3
    with pytest.raises(AttributeError):
        _ = request.nope


def test_headers_are_those_of_the_user() -> None:
    request = Context({"id": "1", "task": "t", "lang": "py", "argsrepr": "()", "foo": "bar", "retries": 1})

    assert request.headers == {"foo": "bar"}
    assert Context({"headers": {"a": 1}, "foo": 2}).headers == {"a": 1}


def test_stamps_are_not_headers_of_the_user_and_are_sent_again() -> None:
    request = Context({"id": "1", "stamped_headers": ["s"], "stamps": {"s": 5}, "s": 5})

    assert request.headers is None
    options = request.as_execution_options()
    assert (options["stamped_headers"], options["s"], options["task_id"]) == (["s"], 5, "1")


def test_execution_options_send_the_task_as_it_was_sent() -> None:
    request = Context(
        id="1", group="g", group_index=2, callbacks=["c"], errbacks=["e"], timelimit=[3, 4], retries=1, reply_to="r",
        root_id="0", origin="gen",
    )  # fmt: skip

    options = request.as_execution_options()

    assert options == {
        "task_id": "1", "root_id": "0", "parent_id": None, "group_id": "g", "group_index": 2, "shadow": None,
        "chord": None, "chain": None, "link": ["c"], "link_error": ["e"], "expires": None, "soft_time_limit": 4,
        "time_limit": 3, "headers": None, "retries": 1, "reply_to": "r", "replaced_task_nesting": 0, "origin": "gen",
    }  # fmt: skip


def test_update_and_clear() -> None:
    request = Context(id="1")
    request.update({"id": "2"}, hostname="h")
    assert (request.id, request.hostname) == ("2", "h")
    request.clear()
    assert request.id is None


def test_it_can_be_copied_and_pickled() -> None:
    request = Context(id="1", foo=[1])
    assert vars(copy.copy(request)) == vars(pickle.loads(pickle.dumps(request))) == {"id": "1", "foo": [1]}


@pytest.mark.parametrize(
    ("task_ignores", "said", "ignored"),
    [(True, None, True), (True, False, False), (False, True, True), (False, None, False)],
)
def test_the_message_outweighs_the_task_on_ignoring_results(
    task_ignores: bool, said: bool | None, ignored: bool
) -> None:
    task = Job()
    task.ignore_result = task_ignores

    assert is_result_ignored(task, Context(ignore_result=said)) is ignored
    assert is_result_ignored(task, Context()) is task_ignores
    assert is_result_ignored(task) is task_ignores


def test_exception_info_is_text_and_frames() -> None:
    try:
        raise KeyError("k")
    except KeyError:
        info = ExceptionInfo()

    assert info.type is KeyError
    assert info.tb is not None
    assert repr(info) == "<ExceptionInfo: KeyError('k')>"
    assert str(info) == info.traceback
    assert info.traceback.startswith("Traceback (most recent call last)")
    restored = pickle.loads(pickle.dumps(info))
    assert (restored.traceback, restored.tb, repr(restored)) == (info.traceback, None, repr(info))


def test_exception_info_needs_an_exception() -> None:
    with pytest.raises(ValueError, match="inside `except`"):
        ExceptionInfo()
