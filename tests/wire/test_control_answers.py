"""What our workers answer to remote control, field for field beside what the original answered (`golden/control`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.worker import start_worker
from rig.original import Party, ending
from wire.control_cases import BUSY, IDLE, LAST, NODE, Case, make_busy

HERE = Path(__file__).parent
GOLDEN = {path.stem: json.loads(path.read_text()) for path in (HERE / "golden" / "control").glob("*.json")}

NAMES = {"total", "query_task"}
"""Maps whose keys are names: any of them stands for all."""
CASES = [*IDLE, *BUSY, *LAST]
OTHERWISE = {
    "objgraph": "the package is not installed beside us, but was beside the original",
    "shutdown": "the original leaves without an answer, and its command line says that nobody replied",
    "revoke_by_stamped_headers-text": "the original fails on a text, taken letter by letter; `name=value` is plain",
    "conf": "has settings that were given, and the original counts `include` and two more among them",
    "conf-with-defaults": "we have more settings, and mask less than what has `database` in its name",
}
"""Where our answer has another shape, and why."""


def shape(value: Any, key: str = "") -> Any:
    """Keys and kinds: what a reader of the answer relies on."""
    if isinstance(value, dict):
        if key in NAMES:
            return {"*": [shape(item) for item in value.values()][:1]}
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        kinds: list[Any] = []
        for item in value:
            if (found := shape(item)) not in kinds:
                kinds.append(found)
        return kinds
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number"


def alike(one: Any, other: Any) -> bool:
    """Whether two shapes may be of the same answer: a list that is empty now says nothing of its items."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(alike, one, other))
    return one == other or [] in (one, other)


@pytest.fixture(scope="module")
def url(redis_server: Any) -> str:
    redis_server.command("FLUSHALL")
    return str(redis_server.url(5))


@pytest.fixture(scope="module")
def asked(url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of a prefork worker of ours to all cases, in their order."""
    folder = tmp_path_factory.mktemp("control")
    settings = {"broker_url": url, "result_backend": url}
    ours = Party("ours", sys.executable, HERE / "control_app.py", folder, {"CONTROL_SETTINGS": json.dumps(settings)})
    with ending(ours), Celery("asker", broker=url, backend=url) as app:
        ours.worker("-n", NODE, concurrency=1)
        found = {case.name: ask(app, case) for case in IDLE}
        running = make_busy(load(settings), folder)
        asker = app.control.inspect([NODE], timeout=30)
        for kind in (asker.active, asker.reserved, asker.scheduled):
            ours.wait(lambda kind=kind: kind()[NODE])
        found |= {case.name: ask(app, case) for case in BUSY}
        running()
        found |= {case.name: ask(app, case) for case in LAST}
    return found


def ask(app: Celery, case: Case) -> Any:
    answers = app.control.broadcast(case.command, case.arguments, destination=[NODE], reply=True, timeout=30)
    return [answer[NODE] for answer in answers]


def load(settings: dict[str, Any]) -> Celery:
    app = Celery("sender", **settings)
    app.conf.task_default_queue = "golden"
    app.task(lambda path, **anything: None, name="golden.held", shared=False)
    return app


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in OTHERWISE], ids=lambda case: case.name)
def test_answers_as_the_original_does(case: Case, asked: dict[str, Any]) -> None:
    ours, theirs = (shape(answers[case.name], case.name) for answers in (asked, GOLDEN["prefork"]))
    assert alike(ours, theirs), f"{ours} is not like {theirs}"


LETTERS = [
    "ping", "query_task", "registered", "registered-items", "hello-myself", "add_consumer", "cancel_consumer",
    "revoke", "revoke-terminate-unknown", "busy-revoke-terminate", "time_limit", "time_limit-unknown", "pool_grow",
    "pool_shrink", "nothing_such",
]  # fmt: skip


@pytest.mark.parametrize("name", LETTERS)
def test_these_answers_are_the_same_to_the_letter(name: str, asked: dict[str, Any]) -> None:
    assert asked[name] == GOLDEN["prefork"][name]


def test_what_is_known_of_a_request(asked: dict[str, Any]) -> None:
    [[ours]], [[theirs]] = asked["busy-active"], GOLDEN["prefork"]["busy-active"]
    volatile = {"args", "time_start", "worker_pid"}
    assert {k: v for k, v in ours.items() if k not in volatile} == {
        k: v for k, v in theirs.items() if k not in volatile
    }
    [[safe]] = asked["busy-active-safe"]
    assert safe["kwargs"] == "{'key': 'value'}"


def test_queues_are_described_alike(asked: dict[str, Any]) -> None:
    assert asked["active_queues"] == GOLDEN["prefork"]["active_queues"]
    assert asked["active_queues-more"] == GOLDEN["prefork"]["active_queues-more"]


def test_settings_have_the_names_and_kinds_of_the_original(asked: dict[str, Any]) -> None:
    for case in ("conf", "conf-with-defaults"):
        [ours], [theirs] = asked[case], GOLDEN["prefork"][case]
        missing = set(theirs) - set(ours)
        assert missing <= {"deprecated_settings", "include", "worker_disable_prefetch"}
    assert alike(shape(ours["task_queues"]), shape(theirs["task_queues"]))
    assert ours["result_expires"] == theirs["result_expires"]


def test_an_objgraph_says_what_it_needs(asked: dict[str, Any]) -> None:
    [answer] = asked["objgraph"]
    assert "filename" in answer or "pip install objgraph" in answer["error"]


def test_a_shutdown_is_answered(asked: dict[str, Any]) -> None:
    assert asked["shutdown"] == [{"ok": "shutting down"}]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_pools_are_described_alike(pool: str, url: str, tmp_path: Path) -> None:
    with (
        Celery("pools", broker=url, backend=url) as app,
        start_worker(app, pool=pool, concurrency=1, hostname=NODE, perform_ping_check=False),
    ):
        [answer] = ask(app, Case("stats", "stats", {}))
    theirs = GOLDEN[pool]["stats"][0]
    assert set(answer) == set(theirs)
    assert set(theirs["pool"]) <= set(answer["pool"])
    assert answer["pool"]["implementation"] == theirs["pool"]["implementation"]
    assert alike(shape(answer["broker"]), shape(theirs["broker"]))
