"""Messages and their addresses, beside those of the original Celery."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast
from kombu.exceptions import EncodeError

from celery import Celery
from celery.app.amqp import task_message
from celery.app.queues import Queues
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from celery.signals import after_task_publish, before_task_publish, task_sent
from celery.utils.clock import FakeClock
from celery.wire import message as wire
from celery.wire.message import Outgoing
from celery.wire.protocol import Message, decode_envelope, load_body, split_body

GOLDEN = Path(__file__).parents[1] / "wire" / "golden"
NOW = 1_700_000_000.0
STAMP = datetime.fromtimestamp(NOW, UTC)


@pytest.fixture
def app() -> Celery:
    app = Celery("amqp", broker="memory://amqp", set_as_current=False)
    app.broker.clock = FakeClock(NOW)
    return app


def sent(app: Celery, *args: Any, **options: Any) -> tuple[Outgoing, Message]:
    outgoing = app.amqp.outgoing("proj.add", *args, **options)
    return outgoing, decode_envelope(outgoing.envelope)


class TestBesideTheOriginal:
    """Golden files hold what the original puts into Redis."""

    def golden(self, case: str) -> dict[str, Any]:
        return dict(json.loads((GOLDEN / f"{case}.json").read_text()))

    def test_the_same_headers_and_properties(self, app: Celery) -> None:
        original = self.golden("plain")
        _, ours = sent(app, (1,), {"y": 2})
        assert set(ours.headers) == set(original["headers"])
        assert set(ours.properties) == set(original["properties"])
        same = {"lang", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "parent_id"}
        same |= {"replaced_task_nesting", "stamped_headers", "stamps"}
        assert {key: ours.headers[key] for key in same} == {key: original["headers"][key] for key in same}
        for key in ("delivery_mode", "priority", "body_encoding"):
            assert ours.properties[key] == original["properties"][key]
        assert (ours.content_type, ours.content_encoding) == (
            original["content-type"], original["content-encoding"],
        )  # fmt: skip

    def test_protocol_1(self, app: Celery) -> None:
        raw = (GOLDEN / "protocol1-plain.json").read_bytes()
        original = decode_envelope(raw)
        app.conf.task_protocol = 1
        _, ours = sent(app, (1,), {"y": 2}, group_id="g")
        assert ours.headers == original.headers == {}
        assert set(load_body(ours)) == set(load_body(original))
        assert load_body(ours)["taskset"] == "g"


class TestMessages:
    def test_plain(self, app: Celery) -> None:
        outgoing, message = sent(app, (1, 2), {"a": "b"}, task_id="abc")
        assert outgoing.task_id == "abc"
        assert (outgoing.exchange, outgoing.routing_key) == ("", "celery")
        assert (outgoing.due, outgoing.expires, outgoing.priority) == (None, None, 0)
        head = message.headers
        assert (head["task"], head["id"], head["root_id"], head["parent_id"]) == ("proj.add", "abc", "abc", None)
        assert (head["argsrepr"], head["kwargsrepr"]) == ("(1, 2)", "{'a': 'b'}")
        assert head["origin"].startswith("gen")
        assert split_body(message) == (
            [1, 2], {"a": "b"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
        )  # fmt: skip
        assert message.properties["reply_to"] == app.thread_oid

    def test_countdown_and_eta(self, app: Celery) -> None:
        outgoing, message = sent(app, countdown=90)
        assert outgoing.due == NOW + 90
        assert message.headers["eta"] == (STAMP + timedelta(seconds=90)).isoformat(timespec="microseconds")
        outgoing, message = sent(app, eta=STAMP + timedelta(hours=1))
        assert outgoing.due == NOW + 3600
        outgoing, message = sent(app, eta="2030-01-01T00:00:00+02:00")
        assert outgoing.due == datetime(2029, 12, 31, 22, tzinfo=UTC).timestamp()

    def test_a_naive_eta_is_in_the_zone_of_the_app(self, app: Celery) -> None:
        app.conf.timezone = "Europe/Berlin"
        outgoing, message = sent(app, eta=datetime(2030, 7, 1, 12))  # noqa: DTZ001 - naive on purpose
        assert message.headers["eta"] == "2030-07-01T12:00:00+02:00"
        assert outgoing.due == datetime(2030, 7, 1, 10, tzinfo=UTC).timestamp()

    def test_expires(self, app: Celery) -> None:
        outgoing, message = sent(app, expires=10)
        assert outgoing.expires == NOW + 10
        assert message.properties["expiration"] == "10000"
        assert message.headers["expires"] == (STAMP + timedelta(seconds=10)).isoformat(timespec="microseconds")
        outgoing, message = sent(app, expires=STAMP + timedelta(seconds=90))
        assert (outgoing.expires, message.properties["expiration"]) == (NOW + 90, "90000")
        outgoing, message = sent(app, expires=timedelta(seconds=5))
        assert (outgoing.expires, message.properties["expiration"]) == (NOW + 5, "5000")

    def test_what_has_expired_is_sent_and_warned_of(self, app: Celery, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            outgoing, message = sent(app, expires=-5)
        assert outgoing.expires == NOW - 5
        assert message.properties["expiration"] == "0"
        assert "expired 5.0 seconds ago" in caplog.text

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"countdown": "soon"}, TypeError, "countdown must be a number of seconds"),
            ({"countdown": 1e15}, ValueError, "countdown is out of range"),
            ({"eta": "tomorrow"}, ValueError, "eta must be"),
            ({"expires": "x"}, ValueError, "expires must be"),
            ({"delivery_mode": 7}, ImproperlyConfigured, "no delivery mode"),
        ],
    )
    def test_impossible_options(self, app: Celery, options: dict[str, Any], error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            sent(app, **options)

    def test_codecs(self, app: Celery) -> None:
        _, message = sent(app, (1,), serializer="yaml", compression="zlib")
        assert message.content_type == "application/x-yaml"
        assert message.headers["compression"] == "application/x-gzip"
        assert split_body(message)[0] == [1]
        app.conf.task_serializer = "msgpack"
        assert sent(app, (1,))[1].content_type == "application/x-msgpack"
        with pytest.raises(EncodeError, match="nope"):
            sent(app, (1,), serializer="nope")
        with pytest.raises(EncodeError, match="nope"):
            sent(app, (1,), compression="nope")

    def test_headers_stamps_and_properties_of_the_user(self, app: Celery) -> None:
        _, message = sent(app, headers={"trace": "t"}, stamped_headers=["order"], order=7, custom="c", priority=4)
        assert message.headers["trace"] == "t"
        assert (message.headers["stamped_headers"], message.headers["stamps"]) == (["order"], {"order": 7})
        assert message.properties["custom"] == "c"
        assert "order" not in message.properties
        assert message.properties["priority"] == 4

    def test_the_messages_of_the_public_api(self, app: Celery) -> None:
        message = app.amqp.as_task_v2(
            "id", "proj.add", (1,), callbacks=[{"task": "x"}], countdown=1, create_sent_event=True
        )
        assert isinstance(message, task_message)
        assert message.headers["id"] == "id"
        assert message.headers["ignore_result"] is False
        assert message.properties == {"correlation_id": "id", "reply_to": ""}
        assert message.body[2]["callbacks"] == [{"task": "x"}]
        assert message.sent_event is not None
        assert message.sent_event["uuid"] == "id"
        old = app.amqp.as_task_v1("id", "proj.add", (1,), {"a": 1})
        assert old.headers == {}
        assert old.body["kwargs"] == {"a": 1}
        assert app.amqp.create_task_message("id", "n").headers["task"] == "n"

    @pytest.mark.parametrize("protocol", [1, 2])
    def test_a_message_of_the_public_api_is_sent(self, app: Celery, protocol: int) -> None:
        app.conf.task_protocol = protocol
        told, queue = [], f"protocol-{protocol}"

        def note(sender: str, **values: Any) -> None:
            told.append((sender, values.get("routing_key"), values.get("task_id")))

        for signal in (before_task_publish, after_task_publish, task_sent):
            signal.connect(note)
        message = app.amqp.create_task_message("id", "proj.add", (1,), {"y": 2}, countdown=60)
        app.amqp.send_task_message(None, "proj.add", message, queue=queue, priority=3, headers={"mine": 1}, custom="c")
        for signal in (before_task_publish, after_task_publish, task_sent):
            signal.disconnect(note)
        assert told == [("proj.add", queue, None), ("proj.add", queue, None), ("proj.add", None, "id")]
        (entry,) = app.broker.entries("delayed", [queue])
        assert entry.due == NOW + 60
        sent = decode_envelope(entry.envelope)
        assert (sent.properties["priority"], sent.properties["custom"], sent.headers["mine"]) == (3, "c", 1)
        body = load_body(sent)
        assert (body if protocol == 1 else dict(zip(("args", "kwargs"), body, strict=False)))["kwargs"] == {"y": 2}


class TestAddresses:
    @pytest.fixture
    def app(self, app: Celery) -> Celery:
        app.conf.task_queues = [
            Queue("celery"),
            Queue("topical", Exchange("tex", "topic"), routing_key="a.#"),
            Queue("direct", Exchange("dex"), routing_key="dkey"),
        ]
        return app

    @pytest.mark.parametrize(
        ("options", "address"),
        [
            ({}, ("", "celery")),
            ({"queue": "topical"}, ("tex", "a.#")),
            ({"queue": "topical", "routing_key": "a.b"}, ("tex", "a.b")),
            ({"queue": "direct"}, ("", "direct")),
            ({"queue": "unknown"}, ("", "unknown")),
            ({"exchange": "dex", "routing_key": "dkey"}, ("dex", "dkey")),
            ({"exchange": Exchange("fan", "fanout")}, ("fan", "celery")),
            ({"routing_key": "ignored"}, ("", "celery")),
            ({"queue": Queue("given", Exchange("gex", "topic"), routing_key="g")}, ("gex", "g")),
        ],
    )
    def test_where_messages_go(self, app: Celery, options: dict[str, Any], address: tuple[str, str]) -> None:
        outgoing, message = sent(app, **options)
        assert (outgoing.exchange, outgoing.routing_key) == address
        info = message.properties["delivery_info"]
        assert (info["exchange"], info["routing_key"]) == address

    def test_unknown_queues_can_be_refused(self, app: Celery) -> None:
        app.conf.update(task_create_missing_queues=False)
        with pytest.raises(QueueNotFound, match="'nope' missing from task_queues"):
            sent(app, queue="nope")

    def test_routes(self, app: Celery) -> None:
        app.conf.update(task_routes={"proj.*": {"queue": "topical", "priority": 7}})
        outgoing, _ = sent(app)
        assert (outgoing.exchange, outgoing.priority) == ("tex", 7)
        assert sent(app, queue="direct", priority=1)[0].routing_key == "direct"
        assert sent(app, exchange="dex", routing_key="dkey")[0].exchange == "dex"
        app.conf.update(task_routes=None)
        assert sent(app)[0].routing_key == "celery"

    def test_routers_are_asked_for_every_message(self, app: Celery) -> None:
        def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **rest: Any) -> Any:
            return {"queue": f"user-{args[0]}"} if args else None

        app.conf.update(task_routes=(route,))
        assert sent(app, (1,))[0].routing_key == "user-1"
        assert sent(app, (2,))[0].routing_key == "user-2"
        assert sent(app)[0].routing_key == "celery"

    def test_the_default_queue_can_be_changed(self, app: Celery) -> None:
        app.conf.update(task_queues=None, task_default_queue="mine")
        assert sent(app)[0].routing_key == "mine"
        assert app.amqp.default_queue.name == "mine"


class TestQueues:
    def test_what_users_give(self) -> None:
        queues = Queues(
            {"one": {"exchange": "ex", "exchange_type": "topic", "routing_key": "k"}, "two": {"binding_key": "b"}},
            default_exchange=Exchange("default"),
            max_priority=9,
        )
        one, two = queues.wire("one"), queues.wire("two")
        assert (one.exchange.name, one.exchange.type, one.routing_key, one.max_priority) == ("ex", "topic", "k", 9)
        assert (two.exchange.name, two.routing_key) == ("default", "b")
        assert isinstance(queues["one"], Queue)
        assert queues["one"].exchange.type == "topic"
        with pytest.raises(ImproperlyConfigured, match="task_queues"):
            Queues([42])

    def test_missing_ones(self) -> None:
        queues = Queues([], create_missing_queue_type="quorum", create_missing_queue_exchange_type="topic")
        assert queues["new"].queue_arguments == {"x-queue-type": "quorum"}
        assert queues["new"].exchange.type == "topic"
        with pytest.raises(KeyError):
            Queues([], create_missing=False)["new"]

    def test_selection(self) -> None:
        queues = Queues([Queue("a"), Queue("b"), Queue("c")])
        assert set(queues.consume_from) == {"a", "b", "c"}
        queues.deselect("a")
        assert set(queues.consume_from) == {"b", "c"}
        queues.select("a,d")
        assert [queue.name for queue in queues.consuming()] == ["a", "d"]
        queues.select_add("e", exchange="ex", routing_key="k")
        assert set(queues.consume_from) == {"a", "d", "e"}
        assert queues.format(indent=2).splitlines()[0].startswith("  .> a")
        assert len(queues) == 5
        del queues["e"]
        assert "e" not in queues


# -- aliases and bindings of queues ------------------------------------------------------------------------------------


def test_a_queue_is_found_by_its_alias() -> None:
    given = Broadcast("news")
    queues = Queues([given, "mail"])
    assert queues["news"] is given
    assert queues.wire("news").name == given.name
    assert set(queues) == {given.name, "mail"}
    queues.select("news")
    assert list(queues.consume_from) == [given.name]
    queues.deselect("news")
    assert list(queues.consume_from) == []


def test_bindings_may_be_given_in_every_form() -> None:
    ways = [
        binding(Exchange("a", "topic"), "x.#"),
        {"exchange": "b", "exchange_type": "fanout"},
        ("c", "key"),
        wire.Binding(wire.Exchange("d"), "key"),
    ]
    queues = Queues({"q": {"exchange": "main", "routing_key": "q", "bindings": ways}})
    found = [(one.exchange.name, one.exchange.type, one.routing_key) for one in queues.apart()]
    assert found == [
        ("main", "direct", "q"), ("a", "topic", "x.#"), ("b", "fanout", ""), ("c", "direct", "key"),
        ("d", "direct", "key"),
    ]  # fmt: skip
    assert len(queues["q"].bindings) == 4
    with pytest.raises(ImproperlyConfigured, match="binding"):
        Queues({"q": {"bindings": ["nonsense"]}})


def test_pairs_of_a_name_and_options_are_queues() -> None:
    queues = Queues([("q", {"exchange": "e", "exchange_type": "topic", "routing_key": "a.*"})])
    found = queues.wire("q")
    assert (found.exchange.name, found.exchange.type, found.routing_key) == ("e", "topic", "a.*")
