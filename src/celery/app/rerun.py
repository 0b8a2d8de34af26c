"""Running again what failed of a workflow, and what depended on it: `celery workflow retry`.

What succeeded is not run again: its results are taken from the result store.  Tasks keep their ids, so that whoever
waits for the result of the workflow gets the new one; only what was revoked by its id gets another, under which it may
run.  A chord whose header is not complete is sent with the parts that failed, and with the built-in task
`celery.accumulate` in the place of each that succeeded, which gives its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from celery import states
from celery.app.resulttree import forget
from celery.app.workflow import Node, Workflow
from celery.canvas import chain, chord, group, record
from celery.canvas.ids import new_id
from celery.exceptions import CeleryError

TIMES = frozenset({"countdown", "eta", "expires"})
"""Options of the first time, which are not for a later one."""


class CannotRerun(CeleryError):
    """A workflow, or a part of it, cannot be run again; says why, and what to do."""


class Given(msgspec.Struct):
    """What is given to a step from outside: arguments in front of its own, and options."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}


class Done(msgspec.Struct):
    """A part that has succeeded, with what it gave."""

    value: Any


class Todo(msgspec.Struct):
    """A part that is to run again, as the signature to send."""

    signature: Any


def rerun(workflow: Workflow, node_id: str | None = None) -> list[str]:
    """Send again what failed of *workflow*, and what depends on it; with *node_id*, that task or part and what follows.

    The ids of the tasks that run again; empty where all have succeeded.  Blocks for the result store and the broker.
    Raises `CannotRerun`.
    """
    if workflow.recorded is None:
        raise CannotRerun(
            f"{workflow.id} cannot be run again: nothing was recorded of what it consists of (see the setting"
            " workflow_records), and its results do not say with which arguments its tasks are called."
        )
    rebuild = Rebuild(workflow, _forced(workflow, node_id))
    recorded = workflow.recorded
    given = Given(tuple(recorded.args), recorded.kwargs, _lasting(recorded.options))
    found = rebuild.part(workflow.root, given)
    if isinstance(found, Done):
        return []
    return rebuild.send(found.signature)


def _forced(workflow: Workflow, node_id: str | None) -> set[int]:
    """The tasks that are run again whatever became of them, by `id()`."""
    if node_id is None:
        return set()
    found = next((node for node in workflow.root.everything() if node.id == node_id), None)
    leaves = {id(leaf) for leaf in found.leaves() if leaf.signature is not None} if found is not None else set()
    if leaves:
        return leaves
    if found is not None:
        raise CannotRerun(f"{node_id} was sent by a task of the workflow while it ran: name that task with --from.")
    raise CannotRerun(f"{node_id} is no part of the workflow {workflow.id}: see celery workflow show {workflow.id}.")


class Rebuild:
    """The signature of what is left to do of one workflow. The tasks in *forced* are to run whatever became of them."""

    def __init__(self, workflow: Workflow, forced: set[int]) -> None:
        self.workflow = workflow
        self.app = workflow.app
        self.forced = forced
        self.again: list[tuple[Node, Any]] = []
        """The tasks that are to run, and the signatures by which they are sent."""

    def part(self, node: Node, given: Given | None, *, after: bool = False, whole: bool = False) -> Done | Todo:
        """What is left of *node*; *given* is None where what it is given comes of tasks that will run before it.

        *after*: it follows something that runs again, so that all of it does.  *whole*: it is in the header of a
        chord, so that the results of all its tasks are needed, not only of those that run again.
        """
        if not after and _is_complete(node) and not any(id(leaf) in self.forced for leaf in node.leaves()):
            return Done(_value(node))
        match node.kind:
            case "chain":
                return self._chain(node, given, after=after, whole=whole)
            case "group":
                members, _ = self._members(node.parts, given, after=after, whole=whole)
                return Todo(group(members, app=self.app))
            case "chord":
                return self._chord(node, given, after=after, whole=whole)
        return self._task(node, given, after=after)

    def _task(self, node: Node, given: Given | None, *, after: bool) -> Todo:
        state = node.meta["status"]
        if not after and id(node) not in self.forced and state not in states.READY_STATES:
            raise CannotRerun(
                f"The task {node.name} ({node.id}) is {state}: it runs, or waits to, or its result was not kept. Wait"
                f" until the workflow has ended, or run it again from there: --from {node.id}"
            )
        signature = node.signature.clone(given.args, given.kwargs) if given is not None else node.signature.clone()
        for name in TIMES:
            signature.options.pop(name, None)
        if given is not None:
            signature.set(**given.options)
        self.again.append((node, signature))
        return Todo(signature)

    def _chain(self, node: Node, given: Given | None, *, after: bool, whole: bool) -> Todo:
        todo: list[Any] = []
        steps = node.parts
        if not after:
            # From the last step that is complete on: of those before it, results need not have been kept.
            for number in range(len(steps) - 1, -1, -1):
                before = [id(leaf) for step in steps[: number + 1] for leaf in step.leaves()]
                if _is_complete(steps[number]) and not self.forced.intersection(before):
                    given, steps = Given((_value(steps[number]),)), steps[number + 1 :]
                    break
        for step in steps:
            found = self.part(step, given, after=after or bool(todo), whole=whole)
            assert isinstance(found, Todo)
            todo.append(found.signature)
            given = None
        return Todo(todo[0] if len(todo) == 1 else chain(todo, app=self.app))

    def _chord(self, node: Node, given: Given | None, *, after: bool, whole: bool) -> Done | Todo:
        header, values = self._members(node.header, given, after=after, whole=True)
        if values is not None:
            return self.part(node.body, Given((values,)), after=after, whole=whole)
        body = self.part(node.body, None, after=True, whole=whole)
        assert isinstance(body, Todo)
        return Todo(chord(header, body.signature, app=self.app))

    def _members(
        self, parts: Sequence[Node], given: Given | None, *, after: bool, whole: bool
    ) -> tuple[list[Any], list[Any] | None]:
        """What is to be sent of tasks beside each other, and their results if all are there."""
        signatures: list[Any] = []
        values: list[Any] | None = []
        for part in parts:
            found = self.part(part, given, after=after, whole=whole)
            if isinstance(found, Todo):
                signatures.append(found.signature)
                values = None
                continue
            spread = found.value if _ends_in_group(part) else [found.value]
            if whole:
                signatures += [self._constant(value) for value in spread]
            if values is not None:
                values += spread
        return signatures, values

    def _constant(self, value: Any) -> Any:
        """A task that gives *value*."""
        return self.app.signature("celery.accumulate", (value,), {"index": 0}, immutable=True)

    def send(self, signature: Any) -> list[str]:
        """Forget the old results of what runs again, and send it. The ids of the tasks."""
        app, recorded = self.app, self.workflow.recorded
        assert recorded is not None
        root_id = next(self.workflow.root.leaves()).id
        if self._rename_revoked() and app.store is not None:
            app.store.put(record.records_of(app, recorded))
        ids = [str(node.id) for node, _ in self.again]
        forget([app.AsyncResult(id) for id in ids])
        signature.apply_async(root_id=root_id)
        return ids

    def _rename_revoked(self) -> bool:
        """Give new ids to tasks that were revoked by theirs; whether there were such."""
        revoked = set(self.app.broker.revoked())
        renamed = False
        for node, signature in self.again:
            if node.id in revoked:
                node.id = node.signature.options["task_id"] = signature.options["task_id"] = new_id()
                renamed = True
        return renamed


def _is_complete(node: Node) -> bool:
    """Whether what *node* gives is there."""
    match node.kind:
        case "chain":
            return not node.parts or _is_complete(node.parts[-1])
        case "chord":
            return _is_complete(node.body)
        case "group":
            return all(_is_complete(part) for part in node.parts)
    return bool(node.meta["status"] == states.SUCCESS)


def _value(node: Node) -> Any:
    match node.kind:
        case "chain":
            return _value(node.parts[-1]) if node.parts else None
        case "chord":
            return _value(node.body)
        case "group":
            return [_value(part) for part in node.parts]
    return node.meta["result"]


def _ends_in_group(node: Node) -> bool:
    while node.kind in {"chain", "chord"} and node.parts:
        node = node.parts[-1]
    return node.kind == "group"


def _lasting(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in TIMES}


__all__ = ["CannotRerun", "rerun"]
