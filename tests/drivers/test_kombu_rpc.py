"""Results over `rpc://` and transports of kombu: queues that come and go, and stores that are away for a while."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from celery.brokers.answers import Reply
from celery.brokers.kombu import KombuBroker
from celery.contrib.testing.worker import start_worker
from celery.exceptions import BrokerError, ImproperlyConfigured
from celery.wire.message import Outgoing
from celery.wire.protocol import Message, encode_envelope
from rig.rpc import rpc_app
from rig.sqs import SQS

SOON = 30.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def queues(sqs: SQS, prefix: str) -> set[str]:
    client = boto3.client(
        "sqs", "us-east-1", endpoint_url=sqs.endpoint, aws_access_key_id="key", aws_secret_access_key="secret"
    )
    found = client.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])
    client.close()
    return {url.rpartition("/")[2].removeprefix(prefix) for url in found}


@pytest.mark.timeout(400)  # the first one makes an environment
def test_queues_of_sqs_are_those_of_clients_that_are_there(sqs: SQS) -> None:
    prefix = sqs.prefix()
    options = {**sqs.options, "queue_name_prefix": prefix}
    work, client, other = (rpc_app(sqs.url, broker_transport_options=options) for _ in range(3))
    name = client.thread_oid
    with start_worker(work, pool="threads", concurrency=2, perform_ping_check=False):
        client.tasks["add"].apply_async((1,), reply_to="gone")
        assert client.tasks["add"].delay(1, 2).get(timeout=SOON) == 3
        assert name in queues(sqs, prefix)
        client.close()
        # The worker knows the queue, which has gone meanwhile.
        other.tasks["steps"].apply_async(reply_to=name)
        assert other.tasks["add"].delay(3, 3).get(timeout=SOON) == 6
        wait_until(lambda: not any(stats.ready or stats.leased for stats in work.broker.stats(["celery"])))
        assert not {"gone", name} & queues(sqs, prefix)
        assert work.broker.stats(["celery"])[0].dead == 0
    for app in (work, other):
        app.close()


def test_where_all_queues_are_listed_there_are_none_for_replies(sqs: SQS) -> None:
    url = f"{sqs.endpoint}/123456789012/listed"
    app = rpc_app(sqs.url, broker_transport_options={**sqs.options, "predefined_queues": {"celery": {"url": url}}})
    with pytest.raises(ImproperlyConfigured, match="set result_backend to a store"):
        app.tasks["add"].delay(1)
    app.close()


def test_a_transport_that_knows_its_queues_drops_what_is_for_nobody() -> None:
    app = rpc_app("drivers.own_transport:Transport://localhost/rpc")
    name = app.thread_oid
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
        app.tasks["add"].apply_async((1,), reply_to="gone")
        assert app.tasks["add"].delay(1, 2).get(timeout=SOON) == 3
        app.backend.close()
        app.broker.publish([Outgoing(reply("late"), name, reply=True)])
        assert [stats.ready for stats in app.broker.stats(["gone", name])] == [0, 0]
    app.close()


def reply(task_id: str) -> bytes:
    return encode_envelope(Message({}, {"correlation_id": task_id}, b"{}", "application/json", "utf-8"))


def test_all_queues_are_read_again_when_the_store_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    options = {"data_folder_in": str(data), "data_folder_out": str(data), "control_folder": str(tmp_path / "control")}
    broker = KombuBroker("filesystem://", options={**options, "polling_interval": 0.02, "timeout": 0.5})
    came: list[str] = []

    def take(given: Reply) -> None:
        came.append(given.task_id)
        if given.task_id == "bad":
            raise RuntimeError("it cannot be taken in")

    replies = broker.replies(take, None)
    assert replies is not None
    replies.open("first")
    replies.open("second")
    broker.publish([Outgoing(reply("bad"), "first", reply=True), Outgoing(reply("good"), "first", reply=True)])
    wait_until(lambda: came == ["bad", "good"])
    assert "first cannot be taken in, and is dropped" in caplog.text
    shutil.move(data, tmp_path / "away")
    wait_until(lambda: "Trying again" in caplog.text)
    with pytest.raises(BrokerError):
        broker.publish([Outgoing(reply("early"), "first", reply=True)])
    shutil.move(tmp_path / "away", data)
    broker.publish([Outgoing(reply(name), name, reply=True) for name in ("first", "second")])
    wait_until(lambda: len(came) == 4)
    assert sorted(came[2:]) == ["first", "second"]
    replies.close()
    broker.publish([Outgoing(reply("left"), name, reply=True) for name in ("first", "second")])
    for name in ("second", "first"):
        replies.open(name)
    wait_until(lambda: len(came) == 6)
    replies.close()
    replies.close()
    assert [path.name for path in data.iterdir()] == []
    assert [stats.ready for stats in broker.stats(["first", "second"])] == [0, 0]
    broker.close()
