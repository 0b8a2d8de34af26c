"""Original Celery and ours on one broker, with results over `rpc://`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mixed.conftest import Mixed, brokers
from rig.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


@brokers
@pytest.mark.parametrize("client", ["ours", "theirs"])
def test_results_reach_clients_of_the_other_kind(
    make_mixed: Callable[..., Mixed], broker_url: str, client: str
) -> None:
    mixed = make_mixed(broker_url=broker_url, result_backend="rpc://", task_track_started=True)
    reach(mixed, client)


@pytest.mark.parametrize("place", ["files", "sql"])
@pytest.mark.parametrize("client", ["ours", "theirs"])
def test_results_reach_clients_of_the_other_kind_over_kombu(
    bridged: Callable[..., Mixed], place: str, client: str
) -> None:
    reach(bridged(place, result_backend="rpc://", task_track_started=True), client)


def reach(mixed: Mixed, client: str) -> None:
    """Have a client of one kind read all kinds of results of a worker of the other one."""
    producer, consumer = (mixed.ours, mixed.theirs) if client == "ours" else (mixed.theirs, mixed.ours)
    consumer.worker()
    code = (
        "import json\n"
        "from celery import group\n"
        "seen = []\n"
        "plain = add.delay(1, 2)\n"
        "tried = flaky.delay(2)\n"
        "chained = (add.s(1, 1) | add.s(10)).delay()\n"
        "many = group(add.s(number, 0) for number in range(20)).delay()\n"
        "broken = fail.delay('no')\n"
        "found = [plain.get(timeout=40), tried.get(timeout=40), chained.get(timeout=40)]\n"
        "found += [chained.parent.get(timeout=40), many.get(timeout=40)]\n"
        "error = broken.get(timeout=40, propagate=False, on_message=lambda meta: seen.append(meta['status']))\n"
        "found += [type(error).__name__, list(error.args), broken.state, 'ValueError' in broken.traceback]\n"
        "slow = slow_add.delay(1, 1)\n"
        "slow.get(timeout=40, on_message=lambda meta: seen.append(meta['status']))\n"
        "found += [sorted(set(seen))]\n"
        "print(json.dumps(found))\n"
    )
    found: list[Any] = json.loads(producer.run(code, timeout=150).splitlines()[-1])
    assert found[:9] == [3, 2, 12, 2, list(range(20)), "ValueError", ["no", 7], "FAILURE", True]
    assert set(found[9]) <= {"FAILURE", "STARTED", "SUCCESS"}
    assert "SUCCESS" in found[9]


@pytest.mark.parametrize("place", ["rabbitmq", "files"])
def test_states_are_the_same_messages(
    make_mixed: Callable[..., Mixed], bridged: Callable[..., Mixed], request: pytest.FixtureRequest, place: str
) -> None:
    """What a worker sends for a task is, but for times and processes, what one of the other kind sends for it."""
    sent: dict[str, list[Any]] = {}
    code = (
        "import json, kombu\n"
        "connection = kombu.Connection(app.conf.broker_url, transport_options=app.conf.broker_transport_options)\n"
        "queue = kombu.Queue('client', durable=False, auto_delete=True, exchange='')\n"
        "came = []\n"
        "def on_message(body, message):\n"
        "    message.properties.pop('delivery_tag', None)\n"
        "    came.append([json.loads(message.body), message.properties, message.headers, message.content_type,\n"
        "                 message.content_encoding])\n"
        "with connection, connection.Consumer(queue, callbacks=[on_message], no_ack=True):\n"
        "    for name, args in (('add', (1, 2)), ('fail', ('no',)), ('progress', ()), ('flaky', (1,))):\n"
        "        before = len(came)\n"
        "        wanted = {'add': 2, 'fail': 2, 'progress': 2, 'flaky': 4}[name]\n"
        "        app.send_task('fleet_app.' + name, args, task_id=name, reply_to='client')\n"
        "        while len(came) < before + wanted:\n"
        "            connection.drain_events(timeout=30)\n"
        "print(json.dumps(came))\n"
    )
    for kind in ("theirs", "ours"):
        settings: dict[str, Any] = {"result_backend": "rpc://", "task_track_started": True}
        if place == "rabbitmq":
            server: RabbitMQ = request.getfixturevalue("rabbitmq_server")
            url = server.url(next(request.getfixturevalue("rabbitmq_vhosts")))
            mixed = make_mixed(broker_url=url, **settings)
        else:
            mixed = bridged(place, **settings)
        party = getattr(mixed, kind)
        party.worker()
        came = json.loads(party.run(code, timeout=120).splitlines()[-1])
        party.end()
        for body, *_ in came:
            assert bool(body.pop("date_done")) == (body["status"] in {"SUCCESS", "FAILURE", "REVOKED"})
            body.pop("parent_id", None)  # of a retry the original says that it is its own parent
            text = body.pop("traceback")
            body["has_traceback"] = bool(text)
            if body["status"] == "STARTED":
                assert set(body["result"]) == {"pid", "hostname"}
                del body["result"]
        if place == "files":  # a folder gives out in no order what was put there within a millisecond
            came.sort(key=lambda message: json.dumps(message[0], sort_keys=True))
        sent[kind] = came
    assert sent["ours"] == sent["theirs"]
