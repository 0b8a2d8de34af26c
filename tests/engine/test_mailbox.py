"""The mailbox of a worker: who is meant, what is refused, and that the next request is always heard."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from celery import Celery
from celery.exceptions import EncodeError, WorkerShutdown, WorkerTerminate
from celery.wire import broadcast
from celery.worker.control import Panel, control_command, inspect_command
from celery.worker.mailbox import lateness, matches

NODE = "w@here"


@pytest.fixture
def pool() -> str:
    return "threads"


@pytest.fixture
def worker(app: Celery, start: Any) -> Iterator[Any]:
    with start(hostname=NODE, concurrency=1, loglevel="WARNING") as worker:
        yield worker


@pytest.fixture
def commands() -> Iterator[None]:
    """Commands that are added are gone with the test."""
    data, meta = dict(Panel.data), dict(Panel.meta)
    yield
    for table, before in ((Panel.data, data), (Panel.meta, meta)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


@pytest.fixture
def send(app: Celery) -> Callable[..., None]:
    """`send(body, headers, …)`: a request as a client might write it."""

    def send(body: Any, headers: dict[str, Any] | None = None, **more: Any) -> None:
        exchange = app.control.mailbox.exchange
        app.broker.bus().publish(exchange, broadcast.encode(body, exchange=exchange, headers=headers, **more))

    return send


ONE_STORE = pytest.mark.parametrize("kind", ["memory"])
"""For what has nothing to do with the store."""


class Heard(logging.Handler):
    """What the mailbox has to say, each a line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert not record.exc_info, "a traceback for what somebody sent"
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[Heard]:
    heard, logger = Heard(), logging.getLogger("celery.worker.mailbox")
    logger.addHandler(heard)
    yield heard
    logger.removeHandler(heard)


RUBBISH = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "no envelope": b"[]",
    "no body": b"{}",
    "a body that is no base64": b'{"body": "!", "properties": {"body_encoding": "base64"}}',
    "a body that is no map": json.dumps(
        {"body": base64.b64encode(b"[1]").decode(), "content-type": "application/json", "content-encoding": "utf-8",
         "headers": {}, "properties": {"body_encoding": "base64"}}
    ).encode(),
    "a serializer that is not accepted": broadcast.encode({"method": "ping"}, exchange="e", serializer="pickle"),
    "a serializer that nobody knows": broadcast.encode({"method": "ping"}, exchange="e").replace(b"json", b"nosj"),
}  # fmt: skip


@ONE_STORE
@pytest.mark.parametrize("what", RUBBISH)
def test_what_cannot_be_read_is_one_line(app: Celery, worker: Any, what: str, said: Heard) -> None:
    app.broker.bus().publish(app.control.mailbox.exchange, RUBBISH[what])
    assert app.control.ping(timeout=30, limit=1)
    [line] = said.lines
    assert "cannot be read" in line


ODD: dict[str, tuple[Any, str]] = {
    "no method": ({}, "no remote control command None"),
    "a method that is no name": ({"method": {"a": 1}}, "no remote control command {'a': 1}"),
    "an unknown method": ({"method": "nope"}, "no remote control command 'nope'"),
    "a long method": ({"method": "n" * 10_000}, "nnn…"),
    "arguments that are a list": ({"method": "ping", "arguments": [1]}, "are no map"),
    "arguments that it does not take": ({"method": "query_task", "arguments": {"x": 1}}, "cannot be called so"),
    "a matcher that does not exist": ({"method": "ping", "pattern": "a", "matcher": "sql"}, "no matcher 'sql'"),
    "a pattern that is none": ({"method": "ping", "pattern": "(", "matcher": "pcre"}, "not a regular expression"),
    "an answer to a list": ({"method": "ping", "reply_to": [1]}, "where none goes"),
    "an answer to another exchange": (
        {"method": "ping", "reply_to": {"exchange": "celery", "routing_key": "celery"}}, "where none goes",
    ),
    "an answer to no key": ({"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox"}}, "where none goes"),
}  # fmt: skip


@ONE_STORE
@pytest.mark.parametrize("what", ODD)
def test_what_makes_no_sense_is_one_line(app: Celery, worker: Any, send: Any, what: str, said: Heard) -> None:
    body, words = ODD[what]
    send(body)
    assert app.control.ping(timeout=30, limit=1)
    [line] = said.lines
    assert words in line
    assert len(line) < 500


@ONE_STORE
def test_odd_headers_change_nothing(app: Celery, worker: Any, send: Any, said: Heard) -> None:
    for headers in ({"clock": "x", "expires": "y"}, {"clock": [], "expires": {}}, {"expires": True}, {"expires": -1}):
        send({"method": "ping"}, headers)
    assert app.control.ping(timeout=30, limit=1)
    assert said.lines == []


@ONE_STORE
def test_what_comes_too_late_is_not_done(app: Celery, worker: Any, send: Any, commands: None, said: Heard) -> None:
    done: list[int] = []

    @control_command()
    def note(state: Any, number: int) -> None:
        done.append(number)

    send({"method": "note", "arguments": {"number": 1}}, {"expires": time.time() - 5})
    send({"method": "note", "arguments": {"number": 2}}, {"expires": time.time() + 60})
    assert app.control.ping(timeout=30, limit=1)
    [line] = said.lines
    assert "'note'" in line
    assert "too late" in line
    assert done == [2]


def test_lateness() -> None:
    assert lateness(10, 12.5) == 2.5
    assert lateness(10, 9) < 0
    assert [lateness(odd, 12) for odd in (None, 0, "10", True, float("nan"), [])] == [0.0] * 6


def test_matching_is_that_of_the_original() -> None:
    assert matches("w1@host", "w*", "glob")
    assert not matches("w1@host", "w1", "glob")
    assert matches("w1@host", "w1", "pcre")
    assert not matches("w1@host", "host", "pcre")


def test_a_late_answer_is_not_found_among_those_to_the_next_request(app: Celery, worker: Any, commands: None) -> None:
    may_go = threading.Event()

    @inspect_command()
    def slow(state: Any) -> str:
        assert may_go.wait(30)
        return "slow"

    assert app.control.broadcast("slow", reply=True, timeout=0.05) == []
    may_go.set()
    assert app.control.ping(timeout=30, limit=1) == [{NODE: {"ok": "pong"}}]


def test_requests_within_a_callback(app: Celery, worker: Any) -> None:
    inner: list[Any] = []
    answers = app.control.ping(
        timeout=30, limit=1, callback=lambda _: inner.append(app.control.ping(timeout=30, limit=1))
    )
    assert answers == [{NODE: {"ok": "pong"}}]
    assert inner == [answers]


def test_many_threads_ask_at_once(app: Celery, worker: Any) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(app.control.broadcast("query_task", {"ids": ["none"]}, reply=True, timeout=30, limit=1))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [[{NODE: {}}]] * 8


def test_every_serializer_that_is_accepted(app: Celery, start: Any) -> None:
    app.conf.update(task_serializer="yaml", accept_content=["json", "yaml"])
    with start(hostname=NODE, concurrency=1):
        assert app.control.ping(timeout=30, limit=1) == [{NODE: {"ok": "pong"}}]


@ONE_STORE
def test_answers_that_are_not_data_are_shown_as_text(app: Celery, worker: Any, commands: None) -> None:
    class Thing:
        def __repr__(self) -> str:
            return "<a thing>"

    @inspect_command()
    def thing(state: Any) -> Any:
        return {1: Thing(), "set": {1}}

    @inspect_command()
    def circle(state: Any) -> Any:
        found: list[Any] = []
        found.append(found)
        return found

    assert app.control.broadcast("thing", reply=True, timeout=30, limit=1) == [{NODE: {"1": "<a thing>", "set": [1]}}]
    assert app.control.broadcast("circle", reply=True, timeout=0.3) == []
    assert app.control.ping(timeout=30, limit=1)


@pytest.mark.parametrize("error", [WorkerShutdown(), WorkerTerminate(), SystemExit(3)])
def test_a_command_can_end_the_worker(app: Celery, worker: Any, commands: None, error: SystemExit) -> None:
    @control_command()
    def leave(state: Any) -> None:
        raise error

    app.control.broadcast("leave")
    assert worker.wait_stopped(30)


@ONE_STORE
def test_the_state_of_commands_is_a_map_too(app: Celery, worker: Any, commands: None) -> None:
    @inspect_command()
    def look(state: Any) -> Any:
        assert state["consumer"] is state.consumer
        assert state["app"] is state.app
        assert "nothing" not in dir(state)
        try:
            state["nothing"]
        except KeyError:
            return state["hostname"]

    assert app.control.broadcast("look", reply=True, timeout=30, limit=1) == [{NODE: NODE}]


@ONE_STORE
def test_commands_may_be_added_as_of_old(app: Celery, worker: Any, commands: None) -> None:
    @Panel.register
    def plain(state: Any) -> str:
        """Added without options."""
        return "plain"

    @control_command(type="inspect", name="other")
    def named(state: Any) -> str:
        return "named"

    assert app.control.broadcast("plain", reply=True, timeout=30, limit=1) == [{NODE: "plain"}]
    assert app.control.broadcast("other", reply=True, timeout=30, limit=1) == [{NODE: "named"}]
    assert (Panel.meta["plain"].type, Panel.meta["plain"].help) == ("control", "Added without options.")
    assert Panel.meta["other"].type == "inspect"


def test_the_mailbox_has_the_names_of_kombus(app: Celery, worker: Any) -> None:
    mailbox = app.control.mailbox
    assert mailbox(None) is mailbox
    assert (mailbox.namespace, mailbox.type) == ("celery", "fanout")
    assert (str(mailbox.exchange), str(mailbox.reply_exchange)) == ("celery.pidbox", "reply.celery.pidbox")
    pong = [{NODE: {"ok": "pong"}}]
    assert mailbox.call(NODE, "ping", timeout=30) == pong
    assert mailbox.call([NODE], "ping", timeout=30) == pong
    assert mailbox.multi_call("ping", timeout=30, limit=1) == pong
    assert mailbox.cast([NODE], "ping") is None
    assert mailbox.abcast("ping") is None


def test_fleets_with_another_exchange_do_not_meet(app: Celery, worker: Any) -> None:
    other = Celery("other", broker=app.conf.broker_url)
    other.conf.control_exchange = "aside"
    with other:
        assert other.control.ping(timeout=0.2) == []
    assert app.control.ping(timeout=30, limit=1)


def test_a_serializer_that_does_not_exist_is_said(app: Celery) -> None:
    app.conf.task_serializer = "nosj"
    with pytest.raises(EncodeError, match="nosj"):
        app.control.ping(timeout=0.1)


ODD_VALUES: list[Any] = [
    None, 0, -1, 1e308, "", [], {}, "x", True, [NODE], {"a": 1}, NODE, "\ud800", "é" * 10, float("nan"), [[[]]],
    {"exchange": "reply.celery.pidbox", "routing_key": "k"},
]  # fmt: skip


def odd_request(random: Random) -> bytes:
    """An envelope with some of its parts replaced."""

    def maybe(value: Any, chance: float = 0.1, instead: list[Any] = ODD_VALUES) -> Any:
        return random.choice(instead) if random.random() < chance else value

    names = ("arguments", "destination", "pattern", "matcher", "ticket", "reply_to")
    body = {name: random.choice(ODD_VALUES) for name in names if random.random() < 0.7}
    body["method"] = maybe(random.choice(["ping", "clock", "report", "query_task"]), 0.3)
    headers = {name: random.choice(ODD_VALUES) for name in ("clock", "expires", "compression") if random.random() < 0.3}
    types = ["application/x-yaml", "application/x-msgpack", "application/x-python-serialize", "x/y", None, 3]
    envelope = {
        "body": maybe(base64.b64encode(json.dumps(maybe(body)).encode()).decode()),
        "content-type": maybe("application/json", 0.3, types),
        "content-encoding": maybe("utf-8", 0.3, ["binary", "nope", None, 3]),
        "headers": maybe(headers),
        "properties": maybe({"body_encoding": maybe("base64"), "delivery_info": maybe({})}),
    }
    return json.dumps(maybe(envelope, 0.02)).encode()


@ONE_STORE
def test_random_requests(app: Celery, worker: Any, said: Heard) -> None:
    random = Random(5)
    for _ in range(2000):
        app.broker.bus().publish(app.control.mailbox.exchange, odd_request(random))
    assert app.control.ping(timeout=30, limit=1) == [{NODE: {"ok": "pong"}}]
    assert said.lines
