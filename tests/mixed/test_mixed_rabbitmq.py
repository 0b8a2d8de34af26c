"""Original Celery and ours on one RabbitMQ node, results in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mixed.conftest import Mixed
from rig.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


@pytest.mark.parametrize("sender", ["ours", "theirs"])
def test_who_sends_and_who_runs_does_not_matter(
    make_mixed: Callable[..., Mixed], rabbitmq_url: str, sender: str
) -> None:
    mixed = make_mixed(broker_url=rabbitmq_url)
    producer, consumer = (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)
    consumer.worker()
    code = (
        "import json\n"
        "plain = add.delay(1, 2)\n"
        "named = echo.apply_async((1, [2, None]), {'a': 'é', 'b': {'c': 2.5}})\n"
        "late = add.apply_async((3, 4), countdown=1)\n"
        "full = facts.apply_async(task_id='full', priority=3, headers={'custom': 'x'}, expires=3600, time_limit=60,\n"
        "                         soft_time_limit=50, root_id='root', parent_id='parent')\n"
        "tried = flaky.delay(2)\n"
        "print(json.dumps([r.get(timeout=40) for r in (plain, named, late, full, tried)]))\n"
    )
    seen: list[Any] = json.loads(producer.run(code, timeout=120).splitlines()[-1])
    assert seen[:3] == [3, [[1, [2, None]], {"a": "é", "b": {"c": 2.5}}], 7]
    assert seen[4] == 2
    facts = seen[3]
    wanted = {"id": "full", "priority": 3, "custom": "x", "timelimit": [60, 50], "root_id": "root"}
    assert {name: facts[name] for name in wanted} == wanted
    assert facts["correlation_id"] == "full"


@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_who_asks_a_worker_does_not_matter(make_mixed: Callable[..., Mixed], rabbitmq_url: str, asker: str) -> None:
    mixed = make_mixed(broker_url=rabbitmq_url)
    client, asked = (mixed.ours, mixed.theirs) if asker == "ours" else (mixed.theirs, mixed.ours)
    asked.worker()
    assert "pong" in client.celery("inspect", "--timeout", "10", "ping")


DELAYED = "celery_delayed"


def declared(node: RabbitMQ, vhost: str) -> tuple[set[str], set[str], set[str]]:
    """What stands there for delays: queues, exchanges and the bindings between them."""

    def rows(*words: str) -> set[str]:
        return set(node.control(words[0], "-p", vhost, "--no-table-headers", *words[1:]).splitlines())

    queues = rows("list_queues", "name", "durable", "auto_delete", "arguments")
    exchanges = rows("list_exchanges", "name", "type", "durable", "auto_delete", "internal")
    bindings = rows("list_bindings", "source_name", "destination_name", "destination_kind", "routing_key")
    ours = {row for row in bindings if all(name.startswith(DELAYED) for name in row.split("\t")[:2])}
    return (
        {row for row in queues if row.startswith(DELAYED)},
        {row for row in exchanges if row.startswith(DELAYED)},
        ours,
    )


def test_delays_are_declared_as_the_original_declares_them(
    make_mixed: Callable[..., Mixed], rabbitmq_server: RabbitMQ, rabbitmq_vhosts: Any
) -> None:
    theirs, ours = next(rabbitmq_vhosts), next(rabbitmq_vhosts)
    settings = {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"}
    settings["worker_detect_quorum_queues"] = True  # type: ignore[assignment]
    mixed = make_mixed(broker_url=rabbitmq_server.url(theirs), **settings)
    mixed.theirs.worker()
    mixed.theirs.end()
    mine = make_mixed(broker_url=rabbitmq_server.url(ours), **settings)
    mine.ours.run("add.apply_async((1, 2), countdown=60)")
    found = declared(rabbitmq_server, ours)
    assert len(found[0]) == 28
    assert found == declared(rabbitmq_server, theirs)
