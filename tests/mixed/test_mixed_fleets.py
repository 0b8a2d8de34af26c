"""Original Celery and ours on one broker: who sends, who runs and who reads the result does not matter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mixed.conftest import Mixed, brokers
from rig.original import Party
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
senders = pytest.mark.parametrize("sender", ["ours", "theirs"])
SHOW = "import json\ndef show(value):\n    print(json.dumps(value))\n"


def roles(mixed: Mixed, sender: str) -> tuple[Party, Party]:
    """Who sends, and a party of the other kind, whose worker consumes."""
    producer, consumer = (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)
    consumer.worker()
    return producer, consumer


def answer(party: Party, code: str) -> Any:
    """What *code* has shown last."""
    return json.loads(party.run(SHOW + code).splitlines()[-1])


@brokers
@senders
def test_arguments_and_headers_arrive(mixed: Mixed, sender: str) -> None:
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "plain = add.delay(1, 2)\n"
        "named = echo.apply_async((1, [2, None]), {'a': 'é', 'b': {'c': 2.5}})\n"
        "sent = app.send_task('fleet_app.add', (3,), {'y': 4})\n"
        "full = facts.apply_async(task_id='full', priority=3, headers={'custom': 'x'}, expires=3600, time_limit=60,\n"
        "                         soft_time_limit=50, root_id='root', parent_id='parent')\n"
        "show([r.get(timeout=60) for r in (plain, named, sent, full)])\n",
    )
    assert seen[:3] == [3, [[1, [2, None]], {"a": "é", "b": {"c": 2.5}}], 7]
    facts = seen[3]
    assert {
        name: facts[name] for name in ("id", "task", "priority", "custom", "timelimit", "root_id", "parent_id")
    } == {
        "id": "full",
        "task": "fleet_app.facts",
        "priority": 3,
        "custom": "x",
        "timelimit": [60, 50],
        "root_id": "root",
        "parent_id": "parent",
    }
    assert facts["correlation_id"] == "full"
    assert facts["expires"] is not None


@brokers
@senders
def test_times_are_kept(mixed: Mixed, sender: str) -> None:
    """Not before its time; and in the meantime others are run."""
    producer, _ = roles(mixed, sender)
    soon, at, between = answer(
        producer,
        "import time, datetime as dt\n"
        "now = time.time()\n"
        "soon = facts.apply_async(countdown=4)\n"
        "at = facts.apply_async(eta=dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=4))\n"
        "between = facts.delay()\n"
        "show([r.get(timeout=60)['started'] - now for r in (soon, at, between)])\n",
    )
    assert soon >= 4
    assert at >= 3.99
    assert between < min(soon, at)


@senders
def test_what_has_expired_is_not_run(mixed: Mixed, sender: str) -> None:
    """RabbitMQ drops it by itself, whoever sends it, and nobody stores a result."""
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "import datetime as dt\n"
        "late = add.apply_async((1,), expires=dt.datetime.now(dt.timezone.utc) - dt.timedelta(seconds=1))\n"
        "late.get(timeout=60, propagate=False)\n"
        "show(late.state)\n",
    )
    assert seen == "REVOKED"


@brokers
@senders
def test_retries_go_round(mixed: Mixed, sender: str) -> None:
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "first = flaky.delay(2)\n"
        "second = autoretried.delay()\n"
        "second.get(timeout=60, propagate=False)\n"
        "show([first.get(timeout=60), second.state, str(second.result)])\n",
    )
    assert seen == [2, "FAILURE", "the disk is on fire"]
    assert Counter(mixed.lines()) == {"tried 0": 1, "tried 1": 1, "tried 2": 1, "tried": 3}


@brokers
@senders
def test_links_are_followed(mixed: Mixed, sender: str) -> None:
    producer, consumer = roles(mixed, sender)
    answer(
        producer,
        "add.apply_async((1, 2), link=log.s('linked'))\n"
        "add.apply_async((1, 2), link=[log.si('one'), log.si('two')])\n"
        "fail.apply_async(('oh',), task_id='f1', link_error=sign.s())\n"
        "fail.apply_async(('no',), task_id='f2', link_error=mourn.s())\n"
        "show(None)\n",
    )
    consumer.wait(lambda: len(mixed.lines()) == 5)
    assert sorted(mixed.lines()) == sorted(["3 linked", "one", "two", "failed f1 ValueError ('oh', 7)", "mourned f2"])


@brokers
@senders
def test_chains_and_groups_are_run(mixed: Mixed, sender: str) -> None:
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "from celery import chain, group\n"
        "line = chain(add.s(1, 2), add.s(3), add.s(4)).apply_async()\n"
        "many = group(add.s(n, n) for n in range(10)).apply_async()\n"
        "broken = chain(fail.s('stop'), add.s(1)).apply_async()\n"
        "broken.get(timeout=60, propagate=False)\n"
        "parents = [line.parent.parent.get(timeout=60), line.parent.get(timeout=60), line.get(timeout=60)]\n"
        "show([parents, many.get(timeout=60), str(broken.result), broken.parent.state])\n",
    )
    assert seen[:2] == [[3, 6, 10], [2 * number for number in range(10)]]
    assert "stop" in seen[2]
    assert seen[3] == "FAILURE"


@brokers
@senders
def test_chords_are_run(mixed: Mixed, sender: str) -> None:
    """Also with a header of one, in a chain, and with a part that fails: its body is told."""
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "from celery import chain, chord, group\n"
        "plain = chord([add.s(n, n) for n in range(10)])(total.s())\n"
        "single = chord([add.s(1, 1)])(total.s())\n"
        "inside = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(100)).apply_async()\n"
        "broken = chord([add.s(1, 1), fail.s('part')])(total.s())\n"
        "broken.get(timeout=60, propagate=False)\n"
        "show([plain.get(timeout=60), single.get(timeout=60), inside.get(timeout=60), broken.state,\n"
        "      type(broken.result).__name__])\n",
    )
    assert seen == [90, 2, 107, "FAILURE", "ChordError"]


@senders
def test_priorities_are_kept(mixed: Mixed, sender: str) -> None:
    """0 is served first, as on the original's Redis transport; what has none counts as 0."""
    producer, consumer = (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)
    answer(
        producer,
        "for number, priority in enumerate((9, 6, 3, 0, 5, None, 9, 0)):\n"
        "    mark.apply_async((number,), priority=priority)\n"
        "show(None)\n",
    )
    consumer.worker("-P", "solo", concurrency=1)
    consumer.wait(lambda: len(mixed.lines()) == 8)
    assert mixed.lines() == [f"ran {number}" for number in (3, 5, 7, 2, 4, 1, 0, 6)]


RESULTS = """
done = add.apply_async((1, 2), task_id="success")
fail.apply_async(("no é",), task_id="failure")
retry_later.apply_async(task_id="retry")
progress.apply_async(task_id="progress")
reject.apply_async(task_id="rejected")
add.apply_async((1,), task_id="ignored", ignore_result=True)
add.apply_async((2,), task_id="last").get(timeout=60)
show(None)
"""
READ = """
import time
from celery.result import AsyncResult
names = ("success", "failure", "retry", "progress", "rejected", "ignored")
read = {name: AsyncResult(name, app=app) for name in names}
deadline = time.monotonic() + 60
while {read[name].state for name in names[:stored]} & {"PENDING"} and time.monotonic() < deadline:
    time.sleep(0.05)
found = {name: r.state for name, r in read.items()}
found["value"] = read["success"].get(timeout=60)
found["date"] = read["success"].date_done is not None
try:
    read["failure"].get(timeout=60)
except ValueError as error:
    found["error"] = list(error.args)
found["traceback"] = "in fail" in str(read["failure"].traceback)
found["retried"] = repr(read["retry"].result)
found["info"] = read["progress"].info
read["success"].forget()
found["forgotten"] = AsyncResult("success", app=app).state
show(found)
"""


@brokers
@senders
def test_results_are_read_by_the_other_kind(mixed: Mixed, sender: str) -> None:
    """Sent and read by one kind, run and stored by the other. Of rejected tasks only the original stores something."""
    producer, _ = roles(mixed, sender)
    answer(producer, RESULTS)
    stored = 5 if sender == "ours" else 4  # of the names
    assert answer(producer, f"stored = {stored}\n{READ}") == {
        "success": "SUCCESS",
        "failure": "FAILURE",
        "retry": "RETRY",
        "progress": "PROGRESS",
        "rejected": "FAILURE" if sender == "ours" else "PENDING",
        "ignored": "PENDING",
        "value": 3,
        "date": True,
        "error": ["no é", 7],
        "traceback": True,
        "retried": "KeyError('not yet')",
        "info": {"done": 3, "of": 10},
        "forgotten": "PENDING",
    }


@pytest.mark.parametrize("extended", [{"result_extended": True}, {"result_compression": "gzip"}], ids=str)
@senders
def test_other_forms_of_results_are_read_by_the_other_kind(
    make_mixed: Callable[..., Mixed], sender: str, extended: dict[str, Any]
) -> None:
    mixed = make_mixed(**extended)
    producer, _ = roles(mixed, sender)
    seen = answer(
        producer,
        "big = echo.apply_async(('x' * 5000,), task_id='big')\n"
        "bad = fail.apply_async(('no',), task_id='bad')\n"
        "bad.get(timeout=60, propagate=False)\n"
        "show([len(big.get(timeout=60)[0][0]), bad.state, list(bad.result.args), big.name])\n",
    )
    assert seen == [5000, "FAILURE", ["no", 7], "fleet_app.echo" if "result_extended" in extended else None]


@pytest.mark.parametrize(
    "options",
    [
        {"global_keyprefix": "shop:"},
        {"sep": "|", "priority_steps": [0, 2, 4, 6, 8], "queue_order_strategy": "priority"},
    ],
    ids=["prefix", "steps"],
)
def test_the_options_of_the_transport_mean_the_same(make_mixed: Callable[..., Mixed], options: dict[str, Any]) -> None:
    mixed = make_mixed(broker_transport_options=options, result_backend_transport_options=options)
    mixed.theirs.worker("-Q", "theirs")
    mixed.ours.worker("-Q", "ours")
    for producer, queue in ((mixed.ours, "theirs"), (mixed.theirs, "ours")):
        seen = answer(
            producer,
            f"sent = [add.apply_async((n, 1), queue={queue!r}, priority=n) for n in range(10)]\n"
            "show([r.get(timeout=60) for r in sent])\n",
        )
        assert seen == list(range(1, 11))


@pytest.mark.timeout(500)
@pytest.mark.parametrize("task", ["mark", "mark_late"])
def test_both_kinds_share_a_queue(mixed: Mixed, redis_server: RedisServer, task: str) -> None:
    """2,000 tasks, half of them sent by each kind, each run once by whoever takes it."""
    count = 1000
    for party, start in ((mixed.ours, 0), (mixed.theirs, count)):
        answer(party, f"for n in range({start}, {start + count}):\n    {task}.delay(n)\nshow(None)\n")
    mixed.theirs.worker()
    mixed.ours.worker()
    mixed.wait_for_lines(2 * count, 240)
    for party in (mixed.ours, mixed.theirs):
        answer(party, f"show([{task}.delay(n).get(timeout=60) for n in range(9000, 9010)])\n")
    ran = Counter(line for line in mixed.lines() if int(line.split()[1]) < 9000)
    assert ran == {f"ran {number}": 1 for number in range(2 * count)}
    # The original acknowledges a late task when its result is there.
    mixed.ours.wait(lambda: redis_server.ask("LLEN", "celery") == redis_server.ask("HLEN", "unacked") == 0)


@brokers
def test_both_kinds_run_the_parts_of_one_chord(mixed: Mixed) -> None:
    """Whoever ends a part counts it where the other kind does, or the body would never run."""
    mixed.theirs.worker()
    mixed.ours.worker()
    for producer in (mixed.theirs, mixed.ours):
        seen = answer(
            producer,
            "from celery import chord\n"
            "made = [chord([add.s(n, n) for n in range(20)])(total.s()) for _ in range(10)]\n"
            "show([body.get(timeout=60) for body in made])\n",
        )
        assert seen == [380] * 10


@brokers
def test_delayed_tasks_wait_for_whoever_comes(mixed: Mixed) -> None:
    """Tasks of ours that are due later reach workers of the original although only those are there."""
    mixed.theirs.worker()
    seen = answer(
        mixed.ours,
        "import time\n"
        "now = time.time()\n"
        "sent = [facts.apply_async(countdown=1.5) for _ in range(20)]\n"
        "show([r.get(timeout=60)['started'] - now for r in sent])\n",
    )
    assert all(1.5 <= seconds < 25 for seconds in seen)
