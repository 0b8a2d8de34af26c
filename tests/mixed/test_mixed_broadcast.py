"""kombu's `Broadcast` in a fleet of both kinds of Celery: every worker runs the task once, whoever sends it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from mixed.conftest import Mixed, brokers

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
SEND = "log.apply_async(({!r},), queue='news', declare=[app.amqp.queues['news'].exchange])"
"""On Redis the original takes an exchange that its process has not declared for a direct one."""
ASK = "import json; print(json.dumps(app.control.inspect(timeout=10).active_queues()))"


@brokers
def test_workers_of_both_kinds_run_it_once(make_mixed: Callable[..., Mixed]) -> None:
    mixed = make_mixed(result_backend="disabled://")
    for party in (mixed.ours, mixed.theirs):
        party.env["MIXED_BROADCAST"] = "news"
        party.worker(concurrency=1)
    mixed.wait_for_theirs()
    mixed.ours.run(SEND.format("from-ours"))
    mixed.theirs.run(SEND.format("from-theirs"))
    deadline = time.monotonic() + 60.0
    wanted = ["from-ours"] * 2 + ["from-theirs"] * 2
    while len(mixed.lines()) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(mixed.lines()) == wanted
    queues = json.loads(mixed.ours.run(ASK))
    [ours], [theirs] = (next(q for node, q in queues.items() if node.startswith(kind)) for kind in ("ours", "theirs"))
    for queue in (ours, theirs):
        assert queue.pop("name") == queue.pop("queue")
    assert ours == theirs
    assert (ours["alias"], ours["exchange"]["type"], ours["auto_delete"]) == ("news", "fanout", True)
