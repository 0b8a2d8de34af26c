"""Remote control between both kinds of Celery on one broker: who asks and who answers does not matter."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mixed.conftest import Mixed, brokers
from rig.original import Party
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
OURS, THEIRS = "ours@host", "theirs@host"
BOTH = f"{OURS},{THEIRS}"
ASK = """
import json
found = {}
inspect = app.control.inspect(["ours@host", "theirs@host"], timeout=10)
for name in ("ping", "active", "reserved", "scheduled", "revoked", "registered", "active_queues", "stats", "conf",
             "clock", "report"):
    found[name] = getattr(inspect, name)()
found["query_task"] = inspect.query_task("nobody")
found["hello"] = inspect.hello("somebody@host", {})
found["glob"] = app.control.ping(pattern="our*", matcher="glob", timeout=10, limit=1)
found["pcre"] = app.control.ping(pattern="the.rs@", matcher="pcre", timeout=10, limit=1)
print(json.dumps(found))
"""


@pytest.fixture
def fleet(mixed: Mixed) -> Mixed:
    """A worker of each kind."""
    for party in (mixed.ours, mixed.theirs):
        party.worker("-n", f"{party.name}@host", "--without-mingle", concurrency=1)
    mixed.wait_for_theirs()
    return mixed


def roles(mixed: Mixed, asker: str) -> tuple[Party, str, Party]:
    """Who asks, and the node and the party of the other kind."""
    if asker == "ours":
        return mixed.ours, THEIRS, mixed.theirs
    return mixed.theirs, OURS, mixed.ours


@brokers
@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_both_kinds_answer_alike(fleet: Mixed, asker: str, left: Callable[[str], set[str]]) -> None:
    party = roles(fleet, asker)[0]
    found = json.loads(party.run(ASK).splitlines()[-1])
    pong = {"ok": "pong"}
    assert found.pop("glob") == [{OURS: pong}]
    assert found.pop("pcre") == [{THEIRS: pong}]
    for name, answers in found.items():
        assert set(answers) == {OURS, THEIRS}, name
        assert type(answers[OURS]) is type(answers[THEIRS]), name
    assert found["ping"] == {OURS: pong, THEIRS: pong}
    assert found["registered"][OURS] == found["registered"][THEIRS]
    assert found["active_queues"][OURS] == found["active_queues"][THEIRS]
    for part in ((), ("pool",), ("broker",)):
        ours, theirs = (_inside(found["stats"][node], part) for node in (OURS, THEIRS))
        assert set(ours) == set(theirs)
    # What was asked for is gone again: no list, no binding, no queue.
    party.wait(lambda: left("reply") == set())


def _inside(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@brokers
@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_command_lines_steer_workers_of_the_other_kind(fleet: Mixed, asker: str) -> None:
    party, node, other = roles(fleet, asker)

    def ask(*words: str) -> Any:
        return json.loads(party.celery("inspect", *words, "-d", node, "-t", "10", "--json"))[node]

    def tell(*words: str) -> Any:
        [answer] = json.loads(party.celery("control", *words, "-d", node, "-t", "10", "--json"))
        return answer[node]

    assert json.loads(party.celery("inspect", "ping", "-d", BOTH, "-t", "10", "--json")) == {
        OURS: {"ok": "pong"},
        THEIRS: {"ok": "pong"},
    }
    assert tell("add_consumer", "extra") == {"ok": "add consumer extra"}
    assert [queue["name"] for queue in ask("active_queues")] == ["celery", "extra"]
    assert party.run("print(add.apply_async((1, 2), queue='extra').get(timeout=60))") == "3"
    assert tell("cancel_consumer", "extra") == {"ok": "no longer consuming from extra"}
    assert [queue["name"] for queue in ask("active_queues")] == ["celery"]
    assert tell("time_limit", "fleet_app.add", "30", "60") == {"ok": "time limits set successfully"}
    assert tell("revoke", "some-id") == {"ok": "tasks {'some-id'} flagged as revoked"}
    assert "some-id" in ask("revoked")
    seconds, code = ("1", 69) if asker == "ours" else ("20", 0)  # the original does not answer this
    party.celery("control", "shutdown", "-d", node, "-t", seconds, code=code)
    assert other.workers[0].wait(60) == 0


@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_answers_survive_other_prefixes_and_serializers(
    make_mixed: Callable[..., Mixed], asker: str, redis_server: RedisServer
) -> None:
    options = {"global_keyprefix": "shop:", "sep": "|", "fanout_prefix": "/to{db}."}
    settings = {"task_serializer": "pickle", "accept_content": ["json", "pickle"], "control_exchange": "shop"}
    mixed = make_mixed(broker_transport_options=options, **settings)
    party, node, other = roles(mixed, asker)
    other.worker("-n", node, "--without-mingle", concurrency=1)
    if other is mixed.theirs:
        mixed.wait_for_theirs()
    assert json.loads(party.run(f"import json; print(json.dumps(app.control.ping(['{node}'], timeout=10)))")) == [
        {node: {"ok": "pong"}}
    ]
    assert redis_server.keys("*reply*") == set()


@brokers
@pytest.mark.parametrize("asker", ["ours", "theirs"])
def test_tasks_are_revoked_and_ended_by_the_other_kind(fleet: Mixed, asker: str) -> None:
    """One that waits behind another is not run, one that runs is ended; both are known as revoked to who asked."""
    party, node, other = roles(fleet, asker)
    first = party.workers.pop()
    first.terminate()
    first.wait(60)
    said = party.run(
        "import json, time\n"
        "running = mark_late.apply_async((1, 120))\n"
        "waiting = [add.delay(n) for n in range(2)]\n"
        f"asked = app.control.inspect(['{node}'], timeout=10)\n"
        "until = time.monotonic() + 60\n"
        "while not asked.active()[" + repr(node) + "] and time.monotonic() < until:\n"
        "    time.sleep(0.05)\n"
        "waiting[0].revoke()\n"
        f"told = app.control.revoke([running.id], terminate=True, reply=True, destination=['{node}'], timeout=10)\n"
        "states = []\n"
        "for result in (running, waiting[0], waiting[1]):\n"
        "    result.get(timeout=60, propagate=False)\n"
        "    states.append(result.state)\n"
        f"known = asked.revoked()['{node}']\n"
        "print(json.dumps([len(told), states, {running.id, waiting[0].id} <= set(known)]))\n",
        timeout=150,
    )
    assert json.loads(said.splitlines()[-1]) == [1, ["REVOKED", "REVOKED", "SUCCESS"], True]
    assert fleet.lines() == []
    assert other.workers[0].poll() is None


@brokers
def test_a_broadcast_task_reaches_workers_of_both_kinds(fleet: Mixed) -> None:
    said = fleet.ours.run("print(sorted(app.broadcast(add, (1, 2), timeout=20, limit=2).get(timeout=60)))")
    assert said == "[3, 3]"
