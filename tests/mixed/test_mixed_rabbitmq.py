"""Original Celery and ours on one RabbitMQ node, results in Redis: what Redis has no form of, and what each declares.

What holds on both brokers is in the other files, which run on both.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from mixed.conftest import Mixed, on_rabbitmq
from rig.original import Party
from rig.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
senders = pytest.mark.parametrize("sender", ["ours", "theirs"])
QUORUM = {"task_default_queue_type": "quorum", "worker_detect_quorum_queues": True}
KINDS = pytest.mark.parametrize("kind", [{}, QUORUM], ids=["classic", "quorum"])
SHOP: dict[str, Any] = {
    "task_queues": {
        "celery": {"exchange": "celery", "routing_key": "celery"},
        "orders": {
            "exchange": "shop",
            "exchange_type": "topic",
            "routing_key": "order.#",
            "queue_arguments": {"x-message-ttl": 3_600_000, "x-dead-letter-exchange": "graveyard"},
        },
        "all": {"exchange": "shop", "exchange_type": "topic", "routing_key": "#", "message_ttl": 60, "expires": 600},
        "urgent": {"exchange": "urgent", "routing_key": "urgent", "max_priority": 9},
    }
}
NEWS: dict[str, Any] = {
    "task_queues": {
        "celery": {"exchange": "celery", "routing_key": "celery"},
        "news": {"exchange": "news", "exchange_type": "fanout", "auto_delete": True},
    }
}
TOPIC = {"task_default_exchange_type": "topic", **QUORUM}


def roles(mixed: Mixed, sender: str) -> tuple[Party, Party]:
    """Who sends, and the party of the other kind."""
    return (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)


def show(party: Party, code: str) -> Any:
    """What *code* has made `seen`."""
    return json.loads(party.run(f"import json, time\n{code}\nprint(json.dumps(seen))", timeout=150).splitlines()[-1])


# -- who sends and who runs ----------------------------------------------------------------------------------------


def send(task: str, first: int, end: int) -> str:
    return f"for n in range({first}, {end}):\n    {task}.delay(n)\n"


@on_rabbitmq
@KINDS
@pytest.mark.parametrize("task", ["mark", "mark_late"])
def test_both_kinds_share_a_queue(
    make_mixed: Callable[..., Mixed], left: Callable[[str], set[str]], kind: dict[str, Any], task: str
) -> None:
    """600 tasks, half of them sent by each kind, each run once by whoever takes it."""
    mixed, count = make_mixed(**kind), 300
    # Without confirms the original's last messages may go with its process, on their way.
    mixed.theirs.run(f"app.conf.broker_transport_options = {{'confirm_publish': True}}\n{send(task, count, 2 * count)}")
    mixed.ours.run(send(task, 0, count))
    mixed.theirs.worker()
    mixed.ours.worker()
    mixed.wait_for_lines(2 * count, 200)
    for party in (mixed.ours, mixed.theirs):
        show(party, f"seen = [{task}.delay(n).get(timeout=60) for n in range(9000, 9010)]")
    ran = Counter(line for line in mixed.lines() if int(line.split()[1]) < 9000)
    assert ran == {f"ran {number}": 1 for number in range(2 * count)}


@on_rabbitmq
@senders
def test_queues_of_a_topic_exchange(make_mixed: Callable[..., Mixed], sender: str) -> None:
    """What goes to two queues is run from both; what waits for its time, or is tried again, comes the same way."""
    mixed = make_mixed(**SHOP)
    producer, consumer = roles(mixed, sender)
    consumer.worker("-Q", "orders,all,urgent")
    show(
        producer,
        "to = dict(exchange='shop')\n"
        "log.apply_async(('new',), routing_key='order.new', **to)\n"
        "log.apply_async(('old',), routing_key='parcel.old', **to)\n"
        "log.apply_async(('late',), routing_key='parcel.late', countdown=2, **to)\n"
        "first = add.apply_async((1, 2), queue='urgent', priority=5)\n"
        "tried = flaky.apply_async((1,), queue='urgent')\n"
        "seen = [first.get(timeout=60), tried.get(timeout=60)]",
    )
    consumer.wait(lambda: len(mixed.lines()) >= 6, 60)
    assert sorted(mixed.lines()) == ["late", "new", "new", "old", "tried 0", "tried 1"]


@on_rabbitmq
@senders
def test_a_queue_that_goes_with_its_last_listener(
    make_mixed: Callable[..., Mixed], left: Callable[[str], set[str]], sender: str
) -> None:
    """Nothing is left of it, and nothing that its worker had beside it."""
    mixed = make_mixed(**NEWS)
    producer, consumer = roles(mixed, sender)
    worker = consumer.worker("-Q", "celery,news")
    for start in (0, 30):
        producer.run(f"for n in range({start}, {start + 30}):\n    mark.apply_async((n,), exchange='news')\n")
        consumer.wait(lambda start=start: len(mixed.lines()) >= start + 30, 60)  # type: ignore[misc]
    assert Counter(mixed.lines()) == {f"ran {number}": 1 for number in range(60)}
    worker.terminate()
    assert worker.wait(60) == 0
    consumer.wait(lambda: left("news") == set(), 30)


@on_rabbitmq
@senders
def test_higher_priorities_go_first(make_mixed: Callable[..., Mixed], sender: str) -> None:
    """9 before 0, in a queue that has priorities; what has none counts as 0."""
    mixed = make_mixed(task_queue_max_priority=10, worker_prefetch_multiplier=1)
    producer, consumer = roles(mixed, sender)
    producer.run(
        "for number, priority in enumerate((0, 3, 6, 9, 5, None, 0, 9)):\n"
        "    mark.apply_async((number,), priority=priority)\n"
    )
    consumer.worker("-P", "solo", concurrency=1)
    consumer.wait(lambda: len(mixed.lines()) == 8, 60)
    assert mixed.lines() == [f"ran {number}" for number in (3, 7, 2, 4, 1, 0, 5, 6)]


@on_rabbitmq
@KINDS
def test_what_waits_is_run_by_whoever_is_there_then(make_mixed: Callable[..., Mixed], kind: dict[str, Any]) -> None:
    """Sent by both kinds with a time, with workers of both: each once and not before."""
    mixed = make_mixed(**kind)
    mixed.theirs.worker()
    mixed.ours.worker()
    for producer in (mixed.ours, mixed.theirs):
        seen = show(
            producer,
            "now = time.time()\n"
            "sent = [facts.apply_async(countdown=2) for _ in range(10)] + [flaky.delay(2) for _ in range(5)]\n"
            "seen = [r.get(timeout=60) for r in sent]\n"
            "seen = [found['started'] - now for found in seen[:10]] + seen[10:]",
        )
        assert all(2 <= seconds < 40 for seconds in seen[:10])
        assert seen[10:] == [2] * 5
    assert Counter(mixed.lines()) == {"tried 0": 10, "tried 1": 10, "tried 2": 10}


@on_rabbitmq
@senders
def test_what_waits_in_a_topology_of_the_other_kind_comes(make_mixed: Callable[..., Mixed], sender: str) -> None:
    """Native delayed delivery of both: quorum queues on a topic exchange, which the original declares too."""
    mixed = make_mixed(**TOPIC)
    producer, consumer = roles(mixed, sender)
    consumer.worker()
    seen = show(
        producer,
        "now = time.time()\n"
        "sent = [facts.apply_async(countdown=seconds) for seconds in (1, 2, 5)]\n"
        "seen = [r.get(timeout=60)['started'] - now for r in sent]",
    )
    assert all(wanted - 0.01 <= found < wanted + 40 for found, wanted in zip(seen, (1, 2, 5), strict=True))


# -- what is declared ----------------------------------------------------------------------------------------------

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LISTED = """
    V = <<"{vhost}">>,
    Put = fun(What, Rows) -> [io:format("~s ~0p~n", [What, [Value || {{_, Value}} <- Row]]) || Row <- Rows] end,
    Put("queue", rabbit_amqqueue:info_all(V, [name, durable, auto_delete, exclusive, arguments])),
    Put("exchange", rabbit_exchange:info_all(V, [name, type, durable, auto_delete, internal, arguments])),
    Put("binding", rabbit_binding:info_all(V,
        [source_name, destination_kind, destination_name, routing_key, arguments])),
    ok.
"""


def declared(node: RabbitMQ, vhost: str, *words: str) -> set[str]:
    """What is there but for what is there in every vhost: queues, exchanges, bindings, with all that they have.

    With *words* only what has one of them in it.
    """
    said = node.control("eval", LISTED.format(vhost=vhost)).replace(f'<<"{vhost}">>', "VHOST")
    rows = {UUID.sub("UUID", line) for line in said.splitlines()[:-1]}
    rows = {row for row in rows if '<<"amq.' not in row and "exchange,<<>>}" not in row}
    return {row for row in rows if not words or any(word in row for word in words)}


def ours_alone(rows: set[str]) -> set[str]:
    """Queues of ours; and the way by which a queue that expires (`all`) gets what was delayed for one before it."""
    last, found = '<<"celery_delayed_delivery">>', {row for row in rows if '<<"celeriac.' in row}
    way = {row for row in rows if row.startswith(f'binding [{last},queue,<<"all">>')}
    return found | way | {row for row in rows if way and f"exchange,{last}}}" in row}


@contextmanager
def alive(party: Party, *arguments: str) -> Iterator[None]:
    """A worker, somebody who listens to events, and somebody who waits for an answer."""
    with ExitStack() as stack:
        for code in (
            "app.control.ping(destination=['nobody@host'], timeout=250)",
            "app.events.Receiver(app.connection(), handlers={}).capture(wakeup=False)",
        ):
            command = [party.python, "-c", f"from {party.file.stem} import *\n{code}"]
            process = subprocess.Popen(command, env=party.env, cwd=party.folder)
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
        stack.callback(party.end)
        party.worker("-n", "node@host", *arguments)
        yield


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, ()),
        (SHOP, ("-Q", "orders,all,urgent,celery")),
        (TOPIC, ()),
        ({"task_queue_max_priority": 5}, ("-Q", "new")),
        (NEWS, ("-Q", "celery,news")),
    ],
    ids=["default", "shop", "quorum-topic", "created", "news"],
)
def test_workers_and_clients_declare_what_those_of_the_original_do(
    make_mixed: Callable[..., Mixed],
    rabbitmq_server: RabbitMQ,
    rabbitmq_vhosts: Iterator[str],
    settings: dict[str, Any],
    arguments: tuple[str, ...],
) -> None:
    """Then each begins where the other has been, finds what it wants, and runs a task there."""
    found: dict[str, set[str]] = {}
    vhosts = {name: next(rabbitmq_vhosts) for name in ("ours", "theirs")}
    for name, vhost in vhosts.items():
        mixed = make_mixed(broker_url=rabbitmq_server.url(vhost), **settings)
        party = mixed.ours if name == "ours" else mixed.theirs
        words = ("reply.celery.pidbox", "celeryev.UUID", "node@host.celery.pidbox")
        with alive(party, "--gossip" if name == "ours" else "-Ofair", *arguments):

            def listens(vhost: str = vhost, words: tuple[str, ...] = words) -> bool:
                rows = declared(rabbitmq_server, vhost)
                return all(any(row.startswith("binding") and word in row for row in rows) for word in words)

            party.wait(listens, 90)
            found[name] = declared(rabbitmq_server, vhost)
    assert {row for row in found["ours"] - found["theirs"] if row not in ours_alone(found["ours"])} == set()
    assert found["theirs"] - found["ours"] == set()

    for name, vhost in vhosts.items():
        mixed = make_mixed(broker_url=rabbitmq_server.url(vhost), **settings)
        party = mixed.theirs if name == "ours" else mixed.ours
        (party.folder / f"{party.name}0.log").unlink()  # in which its worker in the other vhost was ready
        gone = "node@host", '<<"news">>'
        party.wait(lambda vhost=vhost, gone=gone: not declared(rabbitmq_server, vhost, *gone), 60)  # type: ignore[misc]
        party.worker("-n", "node@host", *arguments)
        queue = arguments[-1].rpartition(",")[2] if arguments else "celery"
        assert show(party, f"seen = add.apply_async((1, 2), queue={queue!r}).get(timeout=60)") == 3
        assert "pong" in party.celery("inspect", "ping", "-d", "node@host", "-t", "20")
        assert "PRECONDITION_FAILED" not in party.said
        party.end()


@pytest.mark.parametrize("settings", [{}, SHOP, TOPIC], ids=["default", "shop", "quorum-topic"])
def test_producers_declare_what_those_of_the_original_do(
    make_mixed: Callable[..., Mixed],
    rabbitmq_server: RabbitMQ,
    rabbitmq_vhosts: Iterator[str],
    settings: dict[str, Any],
) -> None:
    found = {}
    for name in ("ours", "theirs"):
        vhost = next(rabbitmq_vhosts)
        mixed = make_mixed(broker_url=rabbitmq_server.url(vhost), **settings)
        party = mixed.ours if name == "ours" else mixed.theirs
        party.run("add.delay(1, 2)")
        found[name] = declared(rabbitmq_server, vhost)
    assert found["ours"] == found["theirs"]


def test_delays_are_declared_as_the_original_declares_them(
    make_mixed: Callable[..., Mixed], rabbitmq_server: RabbitMQ, rabbitmq_vhosts: Iterator[str]
) -> None:
    theirs, ours = next(rabbitmq_vhosts), next(rabbitmq_vhosts)
    mixed = make_mixed(broker_url=rabbitmq_server.url(theirs), **TOPIC)
    mixed.theirs.worker()
    mixed.theirs.end()
    mine = make_mixed(broker_url=rabbitmq_server.url(ours), **TOPIC)
    mine.ours.run("add.apply_async((1, 2), countdown=60)")
    ends = re.compile(r"(celery_delayed_\w+|celeriac\.due\.\w+)")

    def between_levels(vhost: str) -> set[str]:
        rows = declared(rabbitmq_server, vhost, "celery_delayed_")
        return {row for row in rows if not row.startswith("binding") or len(ends.findall(row)) == 2}

    found = between_levels(ours)
    assert sum(row.startswith("queue") for row in found) == 28
    assert {row for row in found if row not in ours_alone(found)} == between_levels(theirs)
