"""Original Celery and ours over transports of kombu that have no driver of their own here, results in Redis."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

from mixed.conftest import Mixed, files

pytestmark = [pytest.mark.crash, pytest.mark.timeout(400)]
CODE = (
    "import json\n"
    "plain = add.delay(1, 2)\n"
    "named = echo.apply_async((1, [2, None]), {'a': 'é', 'b': {'c': 2.5}})\n"
    "late = add.apply_async((3, 4), countdown=1)\n"
    "full = facts.apply_async(task_id='full', priority=3, headers={'custom': 'x'}, expires=3600, time_limit=60,\n"
    "                         soft_time_limit=50, root_id='root', parent_id='parent')\n"
    "tried = flaky.delay(2)\n"
    "print(json.dumps([r.get(timeout=60) for r in (plain, named, late, full, tried)]))\n"
)


@pytest.fixture(params=["files", "sql"])
def mixed(request: pytest.FixtureRequest, bridged: Callable[..., Mixed]) -> Mixed:
    return bridged(request.param)


@pytest.mark.parametrize("sender", ["ours", "theirs"])
def test_who_sends_and_who_runs_does_not_matter(mixed: Mixed, sender: str) -> None:
    producer, consumer = (mixed.ours, mixed.theirs) if sender == "ours" else (mixed.theirs, mixed.ours)
    consumer.worker()
    seen: list[Any] = json.loads(producer.run(CODE, timeout=120).splitlines()[-1])
    assert seen[:3] == [3, [[1, [2, None]], {"a": "é", "b": {"c": 2.5}}], 7]
    assert seen[4] == 2
    facts = seen[3]
    wanted = {"id": "full", "priority": 3, "custom": "x", "timelimit": [60, 50], "root_id": "root"}
    assert {name: facts[name] for name in wanted} == wanted
    assert facts["correlation_id"] == "full"


@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_who_asks_a_worker_does_not_matter(make_mixed: Callable[..., Mixed], tmp_path: Path, asker: str) -> None:
    mixed = make_mixed(**files(tmp_path))
    client, asked = (mixed.ours, mixed.theirs) if asker == "ours" else (mixed.theirs, mixed.ours)
    asked.worker()
    node = f"{asked.name}0@{gethostname()}"
    assert "pong" in client.celery("inspect", "--timeout", "30", "-d", node, "ping")


def test_messages_say_the_same(make_mixed: Callable[..., Mixed], tmp_path: Path) -> None:
    """Two files, one of each kind: but for what names the sender, the moment and the message, they say the same."""
    mixed = make_mixed(**files(tmp_path))
    code = "echo.apply_async((1, 2), {'y': 3}, task_id='same', priority=3, expires=60, headers={'custom': 'x'})"
    found = []
    for party in (mixed.ours, mixed.theirs):
        party.run(code)
        [path] = (tmp_path / "data").iterdir()
        found.append(json.loads(path.read_bytes()))
        path.unlink()
    ours, theirs = found
    assert list(ours) == list(theirs)
    bodies = [json.loads(base64.b64decode(message.pop("body"))) for message in found]  # ours has no blanks
    assert bodies[0] == bodies[1]
    for name in ("origin", "expires"):
        assert type(ours["headers"].pop(name)) is type(theirs["headers"].pop(name))
    for name in ("delivery_tag", "reply_to", "expiration"):
        assert type(ours["properties"].pop(name, None)) is type(theirs["properties"].pop(name, None)), name
    assert ours == theirs
