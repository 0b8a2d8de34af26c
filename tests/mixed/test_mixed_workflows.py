"""Workflows in fleets of both kinds: whoever builds them, whoever runs their tasks, every body is run once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mixed.conftest import Mixed
from rig.original import Party
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
senders = pytest.mark.parametrize("sender", ["ours", "theirs"])
SHOW = (
    "import json\n"
    "from celery import chain, chord, group, signature\n"
    "def show(value):\n"
    "    print(json.dumps(value))\n"
    "def error(result):\n"
    "    return repr(result.get(timeout=60, propagate=False))\n"
)


def answer(party: Party, code: str) -> Any:
    """What *code* has shown last."""
    return json.loads(party.run(SHOW + code, timeout=120).splitlines()[-1])


def roles(mixed: Mixed, sender: str) -> Party:
    """Who sends; a worker of the other kind consumes."""
    producer, consumer = (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)
    consumer.worker()
    return producer


@senders
def test_chords_of_one_kind_run_on_workers_of_the_other(mixed: Mixed, sender: str) -> None:
    producer = roles(mixed, sender)
    seen = answer(
        producer,
        "plain = chord([add.s(n, n) for n in range(10)])(total.s())\n"
        "one = chord([add.s(1, 1)])(total.s())\n"
        "empty = chord([])(total.s())\n"
        "line = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(100)).apply_async()\n"
        "nested = chord([chord([add.s(1), add.s(2)], total.s()), add.s(10), add.s(1) | add.s(2)])(total.s())\n"
        "body = chord([add.s(1), add.s(2)], total.s() | add.s(10)).apply_async()\n"
        "show([r.get(timeout=60) for r in (plain, one, empty, line, nested, body)])\n",
    )
    assert seen == [90, 2, 0, 107, 16, 13]


@senders
def test_errors_reach_the_bodies_of_the_other_kind(mixed: Mixed, sender: str) -> None:
    producer = roles(mixed, sender)
    seen = answer(
        producer,
        "body = total.s().on_error(sign.s()).on_error(mourn.s()).set(task_id='body')\n"
        "plain = chord([add.s(1, 1), fail.s('no').set(task_id='part'), add.s(2, 2)])(body)\n"
        "chained = chord([chain(fail.s('first'), add.s(1)), add.s(1)])(total.s())\n"
        "broken = chain(add.s(1, 1), fail.s(), add.s(1)).apply_async()\n"
        "show([error(r) for r in (plain, chained, broken)])\n",
    )
    assert seen[0] == "ChordError(\"Dependency part raised ValueError('no', 7)\")"
    assert seen[1].startswith("ChordError(")
    assert "ValueError('first', 7)" in seen[1]
    assert seen[2] == "ValueError(2, 7)"
    mixed.ours.wait(lambda: len(mixed.lines()) == 2)
    assert sorted(mixed.lines()) == [
        "failed body ChordError Dependency part raised ValueError('no', 7)",
        "mourned body",
    ]


@senders
def test_results_of_both_kinds_have_the_same_children(mixed: Mixed, sender: str) -> None:
    """`collect` follows what the workers of the other kind have noted."""
    producer = roles(mixed, sender)
    seen = answer(
        producer,
        "linked = add.apply_async((1, 1), link=[add.s(10), add.s(20)])\n"
        "linked.get(timeout=60)\n"
        "import time\n"
        "deadline = time.monotonic() + 60\n"
        "while not linked.children and time.monotonic() < deadline:\n"
        "    time.sleep(0.02)\n"
        "values = sorted(child.get(timeout=60) for child in linked.children[0].results)\n"
        "line = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()).apply_async()\n"
        "line.get(timeout=60)\n"
        "first = line.parent.parent\n"
        "value = first.get(timeout=60)\n"  # its children are stored with it, perhaps after they have run
        "show([len(linked.children), values, [type(c).__name__ for c in first.children], value])\n",
    )
    assert seen == [1, [12, 22], ["GroupResult"], 2]


@pytest.mark.parametrize("kinds", ["one of each", "two of ours", "compressed"])
def test_header_tasks_of_one_chord_run_on_workers_of_both_kinds(
    make_mixed: Callable[..., Mixed], redis_server: RedisServer, kinds: str
) -> None:
    """30 chords of 12 tasks, half of them sent by each kind. The body notes what it was given: once, and all of it."""
    mixed = make_mixed(**({"result_compression": "gzip"} if kinds == "compressed" else {}))
    chords, size = 15, 12
    ids: list[str] = []

    def send() -> None:
        for sender in (mixed.ours, mixed.theirs):
            ids.extend(
                answer(
                    sender,
                    "sent = []\n"
                    f"for number in range({len(ids)}, {len(ids) + chords}):\n"
                    f"    parts = [slow_add.s(number, n) for n in range({size})]\n"
                    "    sent.append(chord(parts)(log.s('body', number)))\n"
                    "show([r.id for r in sent])\n",
                )
            )

    def both_had_a_part() -> bool:
        return all(party.said.count("slow_add") > chords for party in (mixed.ours, mixed.theirs))

    send()
    mixed.theirs.worker()
    mixed.ours.worker()
    if kinds == "two of ours":
        mixed.ours.worker("-P", "threads")
    mixed.wait_for_lines(len(ids), 90)
    if not both_had_a_part():  # the first worker was done before the other one had started
        send()
        mixed.wait_for_lines(len(ids), 90)
    assert both_had_a_part()
    states = answer(mixed.ours, f"show([app.AsyncResult(id).get(timeout=60) for id in {ids!r}])")
    assert states == [None] * len(ids)
    expected = {f"{[number + n for n in range(size)]} body {number}": 1 for number in range(len(ids))}
    assert Counter(mixed.lines()) == expected
    assert redis_server.ask("LLEN", "celery") == 0
    live = [key for key in redis_server.keys("celery-taskset-meta-*") if redis_server.ask("TTL", key) == -1]
    assert live == [], "what is left of a chord that is complete ends by itself"


def test_chords_with_failing_parts_on_workers_of_both_kinds(mixed: Mixed) -> None:
    mixed.theirs.worker()
    mixed.ours.worker()
    for sender in (mixed.ours, mixed.theirs):
        seen = answer(
            sender,
            "sent = []\n"
            "for number in range(15):\n"
            "    parts = [add.s(1, n) for n in range(8)] + [fail.s(number)] + [add.s(2, n) for n in range(8)]\n"
            "    sent.append(chord(parts)(log.s('never').on_error(mourn.s())))\n"
            "show([error(r) for r in sent])\n",
        )
        assert all(text.startswith("ChordError(") and f"ValueError({n}, 7)" in text for n, text in enumerate(seen))
    mixed.ours.wait(lambda: len(mixed.lines()) >= 30)
    assert all(count == 1 and line.startswith("mourned") for line, count in Counter(mixed.lines()).items())


def test_tasks_that_add_to_a_chord_run_on_workers_of_both_kinds(mixed: Mixed) -> None:
    mixed.theirs.worker()
    mixed.ours.worker()
    for sender in (mixed.ours, mixed.theirs):
        seen = answer(
            sender,
            "sent = [chord([grow.s(1), grow.s(2), add.s(3)])(total.s()) for _ in range(10)]\n"
            "show([r.get(timeout=60) for r in sent])\n",
        )
        assert seen == [206] * 10
