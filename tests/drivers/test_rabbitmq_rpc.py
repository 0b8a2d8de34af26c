"""Results over `rpc://`: what is on the wire, who gets what, and what broken connections, forks and threads change."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import amqp
import pytest

from celery import Celery, group
from celery.amqp.replies import RabbitReplies
from celery.backends import rpc
from celery.backends.rpc import Inbox
from celery.contrib.testing.worker import start_worker
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ
from rig.rpc import rpc_app

SOON = 30.0
MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app(rabbitmq_url: str) -> Iterator[MakeApp]:
    """`make_app(**settings)`: an app, in which nothing works unless `work` has been called."""
    with ExitStack() as stack:

        def made(url: str = rabbitmq_url, **settings: Any) -> Celery:
            app = rpc_app(url, **settings)
            stack.callback(app.close)
            return app

        yield made


@pytest.fixture
def work(rabbitmq_url: str) -> Iterator[Celery]:
    """An app with a worker."""
    app = rpc_app(rabbitmq_url)
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        yield app
    app.close()


class Reader:
    """A queue of an original client, read message by message."""

    def __init__(self, node: RabbitMQ, vhost: str, name: str) -> None:
        self.connection = amqp.Connection(f"127.0.0.1:{node.port}", virtual_host=vhost)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.name = name
        self.channel.queue_declare(name, durable=True, auto_delete=True, arguments={"x-expires": 86_400_000})
        self.came: list[Any] = []
        self.channel.basic_consume(name, no_ack=True, callback=self.came.append)

    def read(self, count: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The bodies and properties of that many messages."""
        while len(self.came) < count:
            self.connection.drain_events(timeout=SOON)
        return [(json.loads(message.body), message.properties) for message in self.came]

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def reader(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> Iterator[Reader]:
    made = Reader(rabbitmq_server, rabbitmq_vhost, "client")
    yield made
    made.close()


def test_results_are_messages_as_the_original_sends_them(work: Celery, reader: Reader) -> None:
    sent = work.tasks["add"].apply_async((1, 2), reply_to="client")
    [(body, properties)] = reader.read(1)
    done = body.pop("date_done")
    assert done.endswith("+00:00")
    assert body == {
        "status": "SUCCESS", "result": 3, "traceback": None, "children": [], "task_id": sent.id,
    }  # fmt: skip
    assert properties == {
        "content_type": "application/json", "content_encoding": "utf-8", "application_headers": {}, "delivery_mode": 1,
        "priority": 0, "correlation_id": sent.id,
    }  # fmt: skip


def test_every_state_is_sent(work: Celery, reader: Reader) -> None:
    work.tasks["steps"].apply_async(reply_to="client")
    assert [body["status"] for body, _ in reader.read(3)] == ["STARTED", "PROGRESS", "SUCCESS"]
    work.tasks["again"].apply_async(reply_to="client")
    assert [body["status"] for body, _ in reader.read(6)[3:]] == ["RETRY", "RETRY", "SUCCESS"]
    work.tasks["fail"].apply_async(reply_to="client")
    body = reader.read(7)[6][0]
    assert body["result"] == {"exc_type": "ValueError", "exc_message": ["no", 7], "exc_module": "builtins"}
    assert "ValueError: ('no', 7)" in body["traceback"]


def test_result_persistent_makes_them_durable(make_app: MakeApp, reader: Reader) -> None:
    app = make_app(result_persistent=True)
    with start_worker(app, pool="solo", perform_ping_check=False):
        app.tasks["add"].apply_async((1, 2), reply_to="client")
        assert reader.read(1)[0][1]["delivery_mode"] == 2


def test_a_task_that_nobody_claims_any_more_has_a_result_too(work: Celery, reader: Reader) -> None:
    work.tasks["add"].apply_async((1,), reply_to="client", expires=-10)
    assert reader.read(1)[0][0]["status"] == "REVOKED"
    work.send_task("nobody", reply_to="client")
    body = reader.read(2)[1][0]
    assert (body["status"], body["result"]["exc_type"]) == ("FAILURE", "NotRegistered")


def test_what_came_while_the_connection_was_broken_is_there(
    work: Celery, make_app: MakeApp, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str
) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        app = make_app(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}", broker_heartbeat=2)
        first = app.tasks["add"].delay(1, 1)
        assert first.get(timeout=SOON) == 2
        proxy.refuse()
        proxy.reset()
        sent = [work.tasks["add"].apply_async((number,), reply_to=app.backend.oid) for number in range(5)]
        started, values = threading.Event(), []

        def wait() -> None:
            started.set()
            values.extend(app.AsyncResult(result.id).get(timeout=SOON) for result in sent)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert started.wait(SOON)
        proxy.heal()
        waiting.join(SOON)
        assert values == list(range(5))
        assert app.tasks["add"].delay(5, 5).get(timeout=SOON) == 10
        app.close()


def test_a_connection_that_breaks_as_soon_as_it_is_made_again_is_made_once_more(
    work: Celery, make_app: MakeApp, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before whoever has made it has said that it stands."""
    with Proxy(rabbitmq_server.port) as proxy:
        app = make_app(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}")
        assert app.tasks["add"].delay(1, 1).get(timeout=SOON) == 2
        listen, broken, ended = RabbitReplies._listen, threading.Event(), threading.Event()

        def unlucky(replies: RabbitReplies, name: str) -> None:
            listen(replies, name)
            if not broken.is_set():
                broken.set()
                assert replies._channel is not None
                connection = replies._channel.connection
                proxy.reset()
                connection._thread.join(SOON)
                ended.set()

        monkeypatch.setattr(RabbitReplies, "_listen", unlucky)
        proxy.reset()
        assert ended.wait(SOON)
        sent = work.tasks["add"].apply_async((2, 2), reply_to=app.backend.oid)
        assert app.AsyncResult(sent.id).get(timeout=SOON) == 4
        app.close()


def test_a_client_that_has_gone_is_no_trouble(
    work: Celery, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, reader: Reader
) -> None:
    work.tasks["add"].apply_async((1,), reply_to="gone")
    work.tasks["add"].apply_async((1,), reply_to="client")
    reader.read(1)
    assert "gone" not in {row[0] for row in rabbitmq_server.queues("name", vhost=rabbitmq_vhost)}


def test_its_queue_goes_with_the_app(make_app: MakeApp, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str) -> None:
    app = make_app()
    app.tasks["add"].delay(1)
    oid = app.backend.oid
    rows = rabbitmq_server.queues("name", "durable", "auto_delete", "arguments", "consumers", vhost=rabbitmq_vhost)
    assert [oid, "true", "false", '[{"x-expires",600000}]', "1"] in rows
    app.close()
    assert oid not in {row[0] for row in rabbitmq_server.queues("name", vhost=rabbitmq_vhost)}


@pytest.mark.parametrize("backend", ["rpc://", "rpc"])
def test_in_memory_too_for_tests(backend: str) -> None:
    app = rpc_app("memory://rpc-in-memory", result_backend=backend)
    with start_worker(app, pool="threads", perform_ping_check=False):
        assert group(app.tasks["add"].s(number, 1) for number in range(5)).delay().get(timeout=SOON) == [1, 2, 3, 4, 5]
        with ThreadPoolExecutor(3) as pool:
            sent = list(pool.map(app.tasks["add"].delay, range(9)))
        assert [result.get(timeout=SOON) for result in sent] == list(range(9))
        with pytest.raises(ValueError, match="no"):
            app.tasks["fail"].delay().get(timeout=SOON)
    app.close()


# -- what has come ----------------------------------------------------------------------------------------------------


def meta(task_id: str, status: str, result: Any = None) -> dict[str, Any]:
    return {"task_id": task_id, "status": status, "result": result}


@pytest.mark.parametrize(
    ("first", "then", "stays"),
    [
        ("STARTED", "RETRY", "RETRY"), ("STARTED", "SUCCESS", "SUCCESS"), ("SUCCESS", "FAILURE", "SUCCESS"),
        ("SUCCESS", "STARTED", "SUCCESS"), ("FAILURE", "STARTED", "FAILURE"), ("FAILURE", "SUCCESS", "SUCCESS"),
    ],
)  # fmt: skip
def test_an_end_is_final(first: str, then: str, stays: str) -> None:
    inbox = Inbox()
    inbox.take("a", meta("a", first), 1)
    inbox.take("a", meta("a", then), 1)
    kept = inbox.get("a")
    assert kept is not None
    assert kept["status"] == stays


def test_what_nobody_asks_for_is_dropped_in_time_and_what_is_waited_for_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rpc, "MOST_KEPT", 1000)
    inbox, seen = Inbox(), []
    inbox.tell(["0"], lambda task_id, meta: seen.append(task_id))
    for number in range(30):
        inbox.take(str(number), meta(str(number), "SUCCESS"), 100)
    assert [number for number in range(30) if inbox.get(str(number)) is not None] == [0, *range(21, 30)]
    assert seen == ["0"]
    assert len([record for record in caplog.records if "ignore_result" in record.message]) == 1
    inbox.forget("0")
    inbox.forget("0")
    inbox.take("30", meta("30", "SUCCESS"), 100)
    assert inbox.get("21") is not None, "what is forgotten makes room"
