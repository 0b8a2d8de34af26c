"""`celery workflow`: what a workflow consists of and how far it is; running again what failed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from celery import Celery, chain, chord, group, states
from celery.app.rerun import CannotRerun, rerun
from celery.app.workflow import Node, find_workflow, tree_of
from celery.canvas import record
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import result_from_tuple

PATIENCE = 30.0
Worker = Callable[[], AbstractContextManager[Any]]


class World:
    """What the tasks of the test see: which calls fail, what was called, what is held."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.held = threading.Event()
        self.go_on = threading.Event()


@pytest.fixture
def world() -> World:
    return World()


def build_app(place: str, world: World) -> Celery:
    app = TestApp(broker=place, backend=place)

    @app.task(name="step", shared=False)
    def step(*args: Any, name: str, more: int = 1) -> int:
        """Adds up what it is given; fails while it is broken."""
        world.calls[name] += 1
        if name in world.broken:
            raise ValueError(name)
        return sum(sum(arg) if isinstance(arg, list) else arg for arg in args) + more

    @app.task(name="hold", shared=False)
    def hold(*args: Any) -> int:
        world.held.set()
        assert world.go_on.wait(PATIENCE)
        return 1

    @app.task(name="send", shared=False)
    def send(*args: Any) -> int:
        step.delay(1, name="sent alone")
        group(step.s(1, name="sent 1"), step.s(1, name="sent 2")).delay()
        chain(step.s(1, name="first of chain"), step.s(name="last of chain")).delay()
        return 1

    @app.task(name="quiet", shared=False, ignore_result=True)
    def quiet(*args: Any) -> int:
        return 1

    return app


@pytest.fixture
def app(place: str, world: World) -> Iterator[Celery]:
    with build_app(place, world) as app:
        yield app


@pytest.fixture
def worker(place: str, world: World) -> Worker:
    def start() -> AbstractContextManager[Any]:
        return start_worker(
            build_app(place, world), pool="threads", concurrency=3, perform_ping_check=False, loglevel="CRITICAL",
            shutdown_timeout=PATIENCE,
        )  # fmt: skip

    return start


def s(app: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
    return app.tasks["step"].s(*args, name=name, **kwargs)


def said(app: Celery, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    app.start(["workflow", *args])
    return capsys.readouterr().out


def by_name(node: Node) -> dict[str, Node]:
    """The tasks of a workflow by the name of the call."""
    return {node.signature["kwargs"]["name"]: node for node in node.leaves() if "name" in node.signature["kwargs"]}


def found(app: Celery, id: str) -> Any:
    workflow = find_workflow(app, id)
    assert workflow is not None
    return workflow


# -- running again -----------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[Celery], Any]] = {
    "chain": lambda app: chain(s(app, "a", 1), s(app, "b"), s(app, "c")),
    "group": lambda app: group(s(app, "a", 1), s(app, "b", 2), s(app, "c", 3)),
    "chord": lambda app: chord([s(app, "a", 1), s(app, "b", 2)], s(app, "c")),
    "chain with a group at its end": lambda app: chain(s(app, "a", 1), group(s(app, "b"), s(app, "c"))),
    "chain with a chord in it": lambda app: chain(
        s(app, "a", 1), group(s(app, "b"), s(app, "c")), s(app, "d"), s(app, "e")
    ),
    "chord of chains": lambda app: chord(
        [chain(s(app, "a", 1), s(app, "b")), s(app, "c", 5)], chain(s(app, "d"), s(app, "e"))
    ),
    "chord of chords": lambda app: chord(
        [chord([s(app, "a", 1), s(app, "b", 2)], s(app, "c")), s(app, "d", 7)], s(app, "e")
    ),
    "chord whose header ends in a group": lambda app: chord(
        [chain(s(app, "a", 1), group(s(app, "b"), s(app, "c"))), s(app, "d", 1)], s(app, "e")
    ),
    "group of chains": lambda app: group(chain(s(app, "a", 1), s(app, "b")), chain(s(app, "c", 2), s(app, "d"))),
    "immutable": lambda app: chain(s(app, "a", 1), s(app, "b", 10).set(immutable=True), s(app, "c")),
    "chord with a group as its body": lambda app: chord([s(app, "a", 1)], group(s(app, "b"), s(app, "c"))),
}


def should_be(app: Celery, shape: str) -> Any:
    """What the workflow gives when nothing fails: what it gives when it is run here."""
    app.conf.task_always_eager = True
    try:
        return SHAPES[shape](app).apply_async().get()
    finally:
        app.conf.task_always_eager = False


def names_in(canvas: Any) -> list[str]:
    """The names of the calls in it."""
    canvas.freeze()
    return sorted(leaf.signature["kwargs"]["name"] for leaf in tree_of(canvas).leaves())


def settled(app: Celery, result: Any) -> Any:
    """The workflow, when every task of it has ended."""
    leaves = [app.AsyncResult(leaf.id) for leaf in found(app, result.id).root.leaves()]
    app.ResultSet(leaves).get(timeout=PATIENCE, propagate=False)
    return found(app, result.id)


def anew(app: Celery, result: Any) -> Any:
    """The result as somebody has it who has not waited for it yet."""
    return result_from_tuple(result.as_tuple(), app)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_failed_and_what_follows_it_runs_again(app: Celery, worker: Worker, world: World, shape: str) -> None:
    value = should_be(app, shape)
    with worker():
        for broken in names_in(SHAPES[shape](app)):
            world.broken = {broken}
            result = SHAPES[shape](app).apply_async()
            with pytest.raises((ValueError, ChordError)):
                result.get(timeout=PATIENCE)
            tasks = by_name(settled(app, result).root)
            failed = {name for name, node in tasks.items() if node.state == states.FAILURE}
            assert broken in failed

            world.broken, world.calls = set(), Counter()
            again = rerun(found(app, result.id))
            assert sorted(again) == sorted(str(tasks[name].id) for name in failed)
            assert anew(app, result).get(timeout=PATIENCE) == value
            assert world.calls == Counter(failed)
            assert found(app, result.id).root.state == states.SUCCESS
            assert rerun(found(app, result.id)) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_a_task_and_what_follows_it_runs_again_although_it_succeeded(
    app: Celery, worker: Worker, world: World, shape: str
) -> None:
    value = should_be(app, shape)
    with worker():
        result = SHAPES[shape](app).apply_async()
        assert result.get(timeout=PATIENCE) == value
        for name in names_in(SHAPES[shape](app)):
            node = by_name(found(app, result.id).root)[name]
            world.calls = Counter()
            again = rerun(found(app, result.id), node.id)
            assert node.id in again
            assert anew(app, result).get(timeout=PATIENCE) == value
            settled(app, result)
            assert world.calls[name] == 1
            assert sum(world.calls.values()) == len(again)


def test_a_part_of_several_tasks_runs_again(app: Celery, worker: Worker, world: World) -> None:
    with worker():
        result = SHAPES["chain with a chord in it"](app).apply_async()
        value = result.get(timeout=PATIENCE)
        world.calls = Counter()
        chord_node = found(app, result.id).root.parts[1]
        rerun(found(app, result.id), chord_node.id)
        assert anew(app, result).get(timeout=PATIENCE) == value
        assert world.calls == {"b": 1, "c": 1, "d": 1, "e": 1}


def test_arguments_and_options_of_the_last_moment_are_given_again(app: Celery, worker: Worker, world: World) -> None:
    world.broken = {"a", "c"}
    with worker():
        results = [
            chain(s(app, "a"), s(app, "b")).apply_async((5,), {"more": 3}, countdown=0.01, expires=60),
            group(s(app, "a"), s(app, "c")).apply_async((5,), {"more": 3}, priority=3),
            chord([s(app, "a"), s(app, "b")], s(app, "d")).apply_async((5,), {"more": 3}),
        ]
        for result in results:
            settled(app, result)
        world.broken = set()
        for result in results:
            rerun(found(app, result.id))
        values = [anew(app, result).get(timeout=PATIENCE) for result in results]
        assert values == [9, [8, 8], 17]


def test_a_task_that_was_revoked_runs_again_under_another_id(app: Celery, worker: Worker, world: World) -> None:
    result = chain(s(app, "a", 1), s(app, "b")).apply_async()
    first = result.parent
    first.revoke()
    with worker():
        with pytest.raises(TaskRevokedError):
            result.get(timeout=PATIENCE)
        assert settled(app, result).root.state == states.REVOKED
        again = rerun(found(app, result.id))
        assert first.id not in again
        assert result.id in again
        assert anew(app, app.AsyncResult(result.id)).get(timeout=PATIENCE) == 3
        assert found(app, result.id).root.state == states.SUCCESS


def test_what_runs_is_not_run_again(app: Celery, worker: Worker, world: World) -> None:
    world.broken = {"a"}
    with worker():
        result = chord([app.tasks["hold"].s(), s(app, "a", 1)], s(app, "b")).apply_async()
        with pytest.raises(ValueError, match="a"):
            app.AsyncResult(result.parent[1].id).get(timeout=PATIENCE)
        assert world.held.wait(PATIENCE)
        with pytest.raises(CannotRerun, match=r"The task hold .* runs, or waits to"):
            rerun(found(app, result.id))
        world.go_on.set()
        settled(app, result)
        world.broken = set()
        rerun(found(app, result.id))
        assert anew(app, result).get(timeout=PATIENCE) == 4


def test_results_that_were_not_kept(app: Celery, worker: Worker, world: World) -> None:
    quiet = app.tasks["quiet"]
    world.broken = {"b"}
    with worker():
        result = chain(quiet.s(), s(app, "a"), s(app, "b")).apply_async()
        workflow = settled_but(app, result, 1)
        assert [part.state for part in workflow.root.parts] == [states.IGNORED, states.SUCCESS, states.FAILURE]
        direct = chain(quiet.s(), s(app, "b")).apply_async()
        settled_but(app, direct, 1)
        world.broken = set()
        rerun(workflow)
        assert anew(app, result).get(timeout=PATIENCE) == 3
        with pytest.raises(CannotRerun, match="its result was not kept"):
            rerun(found(app, direct.id))
        first = found(app, direct.id).root.parts[0].id
        rerun(found(app, direct.id), first)
        assert anew(app, direct).get(timeout=PATIENCE) == 2


def settled_but(app: Celery, result: Any, unkept: int) -> Any:
    """The workflow, when every task of it but the first *unkept* has ended."""
    leaves = [app.AsyncResult(leaf.id) for leaf in found(app, result.id).root.leaves()]
    app.ResultSet(leaves[unkept:]).get(timeout=PATIENCE, propagate=False)
    return found(app, result.id)


def test_what_cannot_run_again(app: Celery, worker: Worker, world: World) -> None:
    app.conf.workflow_records = False
    world.broken = {"a"}
    with worker():
        result = chain(s(app, "a", 1), s(app, "b")).apply_async()
        with pytest.raises(ValueError, match="a"):
            result.get(timeout=PATIENCE)
        with pytest.raises(CannotRerun, match="nothing was recorded"):
            rerun(found(app, result.parent.id))
        app.conf.workflow_records = True
        result = group(app.tasks["send"].s(), s(app, "b", 1)).apply_async()
        result.get(timeout=PATIENCE)
        with pytest.raises(CannotRerun, match="is no part of the workflow"):
            rerun(found(app, result.id), "nothing")
        sent = found(app, result.id).root.parts[0].sent[0]
        with pytest.raises(CannotRerun, match="was sent by a task of the workflow"):
            rerun(found(app, result.id), sent.id)


# -- looking -----------------------------------------------------------------------------------------------------------


def test_a_workflow_is_found_by_every_task_that_has_begun(app: Celery, worker: Worker, world: World) -> None:
    with worker():
        for make in SHAPES.values():
            result = make(app).apply_async()
            assert found(app, result.id).id == result.id
            result.get(timeout=PATIENCE)
            done = found(app, result.id)
            assert done.root.state == states.SUCCESS
            for leaf in done.root.leaves():
                assert found(app, str(leaf.id)).id == result.id


def test_the_tree_as_text(app: Celery, worker: Worker, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.broken = {"c"}
    with worker():
        result = SHAPES["chain with a chord in it"](app).apply_async()
        assert "5 tasks: " in said(app, capsys, "show", result.id)
        settled(app, result)
    lines = said(app, capsys, "show", result.id).splitlines()
    ids = {name: node.id for name, node in by_name(found(app, result.id).root).items()}
    assert lines[0] == f"workflow {result.id}  FAILURE  5 tasks: 2 SUCCESS, 3 FAILURE"
    columns = [(line[:16].rstrip(), line.split()[-1] if "Error" in line else "") for line in lines[1:]]
    assert [label for label, _ in columns] == [
        "chain", "├─ step", "├─ chord", "│  ├─ step", "│  ├─ step", "│  └─ body step", "└─ step",
    ]  # fmt: skip
    assert ids["c"] in lines[5]
    assert "FAILURE" in lines[5]
    assert lines[5].endswith("ValueError('c')")
    assert "ChordError" in lines[6]
    places = {line.index(word) for line in lines[1:] for word in ("SUCCESS", "FAILURE") if word in line}
    assert len(places) == 1
    assert "\x1b" not in "".join(lines)


def test_large_groups_are_shortened(
    app: Celery, worker: Worker, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.broken = {"bad"}
    with worker():
        tasks = [s(app, "bad" if number == 50 else "good", number) for number in range(100)]
        result = group(tasks).apply_async()
        settled(app, result)
    lines = said(app, capsys, "show", result.id, "-n", "5").splitlines()
    assert lines[0].endswith("100 tasks: 99 SUCCESS, 1 FAILURE")
    shown = [line.split()[1] for line in lines[2:]]
    assert shown == ["step", "step", "…", "step", "…", "step"]
    assert lines[4].split()[1:4] == ["…", "48", "more"]
    assert "ValueError('bad')" in lines[5]
    assert len(said(app, capsys, "show", result.id, "-n", "100").splitlines()) == 102
    assert len(json.loads(said(app, capsys, "show", result.id, "--json"))["tree"]["parts"]) == 100


def test_the_tree_as_json(app: Celery, worker: Worker, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.broken = {"b"}
    with worker():
        result = SHAPES["chord"](app).apply_async()
        settled(app, result)
    tree = json.loads(said(app, capsys, "show", result.id, "--json"))
    assert (tree["id"], tree["state"], tree["recorded"]) == (result.id, "FAILURE", True)
    assert tree["tasks"] == {"FAILURE": 2, "SUCCESS": 1}
    header, body = tree["tree"]["header"], tree["tree"]["body"]
    assert (tree["tree"]["kind"], [part["state"] for part in header]) == ("chord", ["SUCCESS", "FAILURE"])
    assert header[1]["error"] == "ValueError('b')"
    assert header[1]["date_done"]
    assert (body["id"], body["name"], body["state"]) == (result.id, "step", "FAILURE")


def test_the_flow_as_mermaid(app: Celery, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    with worker():
        result = SHAPES["chain with a chord in it"](app).apply_async()
        result.get(timeout=PATIENCE)
    lines = said(app, capsys, "show", result.id, "--mermaid").splitlines()
    assert lines[0] == "flowchart TD"
    assert sum("SUCCESS" in line and ":::success" in line for line in lines) == 5
    assert [line.strip() for line in lines if "-->" in line] == [
        "n0 --> n1", "n0 --> n2", "n1 --> n3", "n2 --> n3", "n3 --> n4",
    ]  # fmt: skip


def test_what_tasks_have_sent_is_shown(app: Celery, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    with worker():
        result = chain(app.tasks["send"].s(1), s(app, "b")).apply_async()
        result.get(timeout=PATIENCE)
        sender = found(app, result.id).root.parts[0]
        assert [node.kind for node in sender.sent] == ["task", "group", "chain"]
        for node in sender.sent:
            app.ResultSet([app.AsyncResult(leaf.id) for leaf in node.leaves()]).get(timeout=PATIENCE)
        text = said(app, capsys, "show", result.id)
        for words in ("sent group", "sent chain"):
            assert words in text
        assert text.count("step") >= 5
        # Each of them is a workflow too, which can be shown by itself.
        assert found(app, sender.sent[1].id).root.state == states.SUCCESS
        assert found(app, sender.sent[2].parts[1].id).id == sender.sent[2].id


def test_without_a_record(app: Celery, worker: Worker, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    app.conf.workflow_records = False
    with worker():
        result = chain(s(app, "a", 1), s(app, "b"), group(s(app, "c"), s(app, "d"))).apply_async()
        result.get(timeout=PATIENCE)
        for id in (result[1].id, result.parent.id, result.parent.parent.id):
            workflow = found(app, id)
            assert (workflow.recorded, workflow.id) == (None, result.parent.parent.id)
            assert {leaf.id for leaf in workflow.root.everything()} >= {member.id for member in result}
        text = said(app, capsys, "show", result[0].id)
        assert "not recorded" in text
        assert find_workflow(app, result.id) is None
        result.save()
        assert found(app, result.id).root.counts() == {states.SUCCESS: 2}
    with pytest.raises(Exception, match="Nothing is known of nothing"):
        app.start(["workflow", "show", "nothing"])


def test_retry_by_command(app: Celery, worker: Worker, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.broken = {"b"}
    with worker():
        result = SHAPES["chain"](app).apply_async()
        settled(app, result)
        world.broken = set()
        assert said(app, capsys, "retry", result.id).startswith("Sent again: 2 of 3 tasks.")
        assert anew(app, result).get(timeout=PATIENCE) == 4
        assert said(app, capsys, "retry", result.id).startswith("Nothing to do: all 3 tasks")
        first = result.parent.parent.id
        assert said(app, capsys, "retry", result.id, "--from", first).startswith("Sent again: 3 of 3 tasks.")
        assert anew(app, result).get(timeout=PATIENCE) == 4
        with pytest.raises(Exception, match="is no part of the workflow"):
            app.start(["workflow", "retry", result.id, "--from", "nothing"])


# -- records -----------------------------------------------------------------------------------------------------------


def test_one_request_records_a_workflow_and_single_tasks_are_none(app: Celery, worker: Worker) -> None:
    store = app.store
    assert store is not None
    put, requests = store.put, []

    def counting(records: Any) -> Any:
        requests.append([entry.key for entry in records if record.PREFIX in entry.key])
        return put(records)

    store.put = counting  # type: ignore[method-assign]
    s(app, "a", 1).delay()
    assert requests == []
    result = SHAPES["chain with a chord in it"](app).apply_async()
    first = result.parent.parent.parent
    assert [keys for keys in requests if keys] == [[record.key_of(app, result.id), record.key_of(app, first.id)]]
    requests.clear()
    result = SHAPES["group of chains"](app).apply_async()
    begins = [result.id, *(member.parent.id for member in result)]
    assert [keys for keys in requests if keys] == [[record.key_of(app, id) for id in begins]]


def test_records_are_small_and_survive(app: Celery) -> None:
    canvas = chain(
        s(app, "a", 1), group(*(s(app, "b", number) for number in range(3000)), s(app, "b").set(queue="x")),
        s(app, "c").set(immutable=True, link=s(app, "d")), chord([s(app, "e")], s(app, "f")),
    )  # fmt: skip
    result = canvas.apply_async((5,), queue="y")
    stored = app.backend.get(record.key_of(app, result.id))
    assert len(stored) < 3005 * 60
    recorded = record.find(app, result.id)
    assert recorded is not None
    packed = record.pack(recorded.canvas)
    assert record.pack(app.signature(record.unpack(packed))) == packed
    assert (recorded.args, recorded.options["queue"]) == ([5], "y")
    leaves = list(tree_of(recorded.canvas).leaves())
    assert [leaf.signature["kwargs"]["name"] for leaf in leaves] == ["a", *["b"] * 3001, "c", "e", "f"]
    assert [leaf.signature["args"] for leaf in leaves[:3]] == [[1], [0], [1]]
    assert leaves[3001].signature["options"]["queue"] == "x"
    assert leaves[3002].signature["immutable"]
    assert leaves[3002].signature["options"]["link"]["kwargs"] == {"name": "d"}
    assert len({leaf.id for leaf in leaves}) == 3005
