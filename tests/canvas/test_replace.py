"""`Task.replace`: what takes the place of a task has its id, and goes on where that would have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery import Celery, chain, chord, group
from celery.app.context import Context
from celery.app.trace import build_tracer
from celery.canvas import StampingVisitor
from celery.exceptions import ImproperlyConfigured
from celery.states import FAILURE, IGNORED
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, split_body
from celery.wire.serialization import accept_types


class Stamp(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"by": "swap"}


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid4()}"
    with Celery("replace", broker=place, backend=place, set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int = 0, y: int = 0) -> int:
            return x + y

        @app.task(name="total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        new = {
            "task": lambda: add.s(1, 100),
            "chain": lambda: chain(add.s(1, 100), add.s(1)),
            "group": lambda: group(add.s(1, 100), add.s(1, 200)),
            "chord": lambda: chord([add.s(1), add.s(2)], total.s()),
            "chain to group": lambda: chain(add.s(1, 100), group(add.s(1), add.s(2))),
            "nothing": chain,
            "linked": lambda: add.s(1, 100).set(link=[total.s()], task_id="mine"),
        }

        @app.task(name="swap", bind=True)
        def swap(self: Any, kind: str) -> Any:
            return self.replace(new[kind]())

        @app.task(name="swap stamped", bind=True)
        def swap_stamped(self: Any, kind: str) -> Any:
            return self.replace(new[kind](), visitor=Stamp())

        app.finalize()
        yield app


def execute(app: Celery, kind: str, name: str = "swap", **fields: Any) -> tuple[Any, list[Outgoing]]:
    """As a worker does: how it ended, and what it sends."""
    task = app.tasks[name]
    outbox: list[Outgoing] = []
    request = Context({
        "id": "mine", "root_id": "root", "args": [kind], "kwargs": {}, "called_directly": False, "outbox": outbox,
        "effects": [], **fields,
    })  # fmt: skip
    traced = build_tracer(task.name, task, app=app)("mine", (kind,), {}, request)
    return traced.info, outbox


def read(message: Outgoing) -> tuple[dict[str, Any], Any]:
    decoded = decode_envelope(message.envelope)
    return decoded.headers, split_body(decoded, accept_types(["json"]))


def plain(signature: Any) -> Any:
    return json.loads(json.dumps(signature))


def test_a_task(app: Celery) -> None:
    info, (message,) = execute(app, "task", replaced_task_nesting=2)
    headers, (args, _, _) = read(message)
    assert info.state == IGNORED
    assert (headers["task"], headers["id"], args) == ("add", "mine", [1, 100])
    assert (headers["root_id"], headers["parent_id"], headers["replaced_task_nesting"]) == ("root", "mine", 3)
    assert not app.broker.entries("ready", ["celery"])


@pytest.mark.parametrize("kind", ["task", "chain", "group", "chord", "chain to group"])
def test_what_follows_the_task_follows_what_replaces_it(app: Celery, kind: str) -> None:
    """The last task of it has the id, the callbacks, and the place in chains and chords."""
    add, total = app.tasks["add"], app.tasks["total"]
    later = plain([add.s(9).set(task_id="last"), add.s(8).set(task_id="next")])
    callbacks, errbacks = plain([total.s()]), plain([total.s(1)])
    body = plain(total.s().set(task_id="body"))
    fields = {"callbacks": callbacks, "errbacks": errbacks, "chord": body, "group": "g", "group_index": 3}
    for more in (fields, {**fields, "chain": later}):
        _, outbox = execute(app, kind, **more)
        (end,) = [step for message in outbox[:1] for step in ends(message) if step["id"] == "mine"]
        assert end["link"] == callbacks
        assert end["link_error"] == errbacks
        assert (end["group_id"], end["group_index"]) == ("g", 3)
        assert end["chord"]["options"]["task_id"] == "body"
        assert [step["options"]["task_id"] for step in end["chain"] or ()] == ["last", "next"][: 2 * ("chain" in more)]


def ends(message: Outgoing) -> Iterator[dict[str, Any]]:
    """The task of a message, and those it carries, with what follows each."""
    headers, (_, _, embed) = read(message)
    yield {
        "id": headers["id"], "link": embed["callbacks"], "link_error": embed["errbacks"], "group_id": headers["group"],
        "group_index": headers["group_index"], "chord": embed["chord"], "chain": embed["chain"],
    }  # fmt: skip
    yield from _carried(embed["chain"], embed["chord"])


def _carried(chain: Any, chord: Any) -> Iterator[dict[str, Any]]:
    steps = [*(chain or ())]
    for place, step in enumerate(steps):
        yield from _end(step, steps[:place])
    if chord:
        yield from _end(chord, chord["options"].get("chain") or [])


def _end(step: dict[str, Any], rest: list[Any]) -> Iterator[dict[str, Any]]:
    if step["subtask_type"] == "chord":
        yield from _end(step["kwargs"]["body"], rest or step["options"].get("chain") or [])
    elif step["subtask_type"] == "chain":
        *_, last = step["kwargs"]["tasks"]
        yield from _end(last, rest)
    elif step["subtask_type"] is None:
        options = step["options"]
        names = ("link", "link_error", "group_id", "group_index", "chord")
        yield {"id": options["task_id"], "chain": rest, **{name: options.get(name) for name in names}}


def test_several_results_become_one(app: Celery) -> None:
    """A group has no result that could be the task's: that of `celery.accumulate` is the list of all."""
    _, outbox = execute(app, "group")
    assert len(outbox) == 2
    for message in outbox:
        _, (_, _, embed) = read(message)
        assert embed["chord"]["task"] == "celery.accumulate"
        assert embed["chord"]["options"]["task_id"] == "mine"
        assert embed["chord"]["chord_size"] == 2


def test_a_repeated_execution_sends_the_same(app: Celery) -> None:
    for kind in ("chain", "group", "chord", "chain to group"):
        first, second = (execute(app, kind)[1] for _ in range(2))
        assert [message.task_id for message in first] == [message.task_id for message in second]
        retried = execute(app, kind, retries=1)[1]
        assert [message.task_id for message in first] != [message.task_id for message in retried]


def test_an_empty_chain_replaces_nothing(app: Celery) -> None:
    info, outbox = execute(app, "nothing")
    assert info.state == FAILURE
    assert isinstance(info.retval, ImproperlyConfigured)
    assert outbox == []


def test_a_visitor_stamps_it(app: Celery) -> None:
    for message in execute(app, "group", "swap stamped")[1]:
        assert read(message)[0]["stamps"] == {"by": "swap"}


def test_its_own_callbacks_stay(app: Celery) -> None:
    _, (message,) = execute(app, "linked", callbacks=plain([app.tasks["add"].s(5)]))
    _, (_, _, embed) = read(message)
    assert [callback["task"] for callback in embed["callbacks"]] == ["total", "add"]


def test_a_hook_of_the_task_is_asked(app: Celery) -> None:
    class Kept(app.Task):  # type: ignore[name-defined, misc]
        name = "kept"

        def run(self) -> Any:
            return self.replace(app.tasks["add"].s(1, 1))

        def on_replace(self, sig: Any) -> Any:
            return f"instead of {sig.task}"

    app.register_task(Kept())
    task = app.tasks["kept"]
    traced = build_tracer("kept", task, app=app)("mine", (), {}, Context(id="mine", called_directly=False))
    assert traced.retval == "instead of add"


def test_outside_of_a_chord_nothing_is_added_to_one(app: Celery) -> None:
    with pytest.raises(ValueError, match="header of no chord"):
        app.tasks["add"].add_to_chord(app.tasks["add"].s(1))
