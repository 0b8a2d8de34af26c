"""Workflows that were sent: what they consist of, how far they are, and how they hang together.

The tree comes from the record that was stored when the workflow was sent (`celery.canvas.record`), the states from the
results of its tasks.  Where there is no record, the tree is what results say of it: which tasks a task has sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.resulttree import STATE_COLOURS, kind_of
from celery.canvas import record
from celery.result import result_from_tuple
from celery.utils.graph import DependencyGraph, GraphFormatter

if TYPE_CHECKING:
    from celery.app.base import Celery

BATCH = 1000
"""Results that are read in one step."""
DEEPEST = 10_000
"""Tasks that are gone through, at most, from one to the first of its workflow."""
PENDING: Mapping[str, Any] = {"status": states.PENDING, "result": None}


class Node:
    """A task (`kind` "task"), or a chain, group or chord of them. The body of a chord is its last part."""

    def __init__(self, kind: str, id: str | None, name: str = "", signature: Any = None) -> None:
        self.kind = kind
        self.id = id
        self.name = name
        self.signature = signature
        self.parts: list[Node] = []
        self.sent: list[Node] = []
        """What a task has sent while it ran, beyond what the workflow was made of."""
        self.meta: Mapping[str, Any] = PENDING

    @property
    def header(self) -> list[Node]:
        """The parts of a chord before its body."""
        return self.parts[:-1]

    @property
    def body(self) -> Node:
        """The body of a chord."""
        return self.parts[-1]

    def leaves(self) -> Iterator[Node]:
        """The tasks it is made of."""
        if self.kind == "task":
            yield self
        for part in self.parts:
            yield from part.leaves()

    def everything(self) -> Iterator[Node]:
        """It, and all below it, also what its tasks have sent."""
        yield self
        for below in (*self.parts, *self.sent):
            yield from below.everything()

    @property
    def state(self) -> str:
        """The state of a task; of what is made of several, what they come to."""
        if self.kind == "task":
            return str(self.meta["status"])
        found = self.counts()
        if not found:
            return states.SUCCESS
        if len(found) == 1:
            return next(iter(found))
        for state in (states.FAILURE, states.REVOKED):
            if found[state]:
                return state
        return states.STARTED

    def counts(self) -> Counter[str]:
        """How many of its tasks are in which state."""
        return Counter(str(leaf.meta["status"]) for leaf in self.leaves())

    @property
    def error(self) -> BaseException | None:
        """What a task raised."""
        result = self.meta.get("result")
        return result if isinstance(result, BaseException) else None

    def as_dict(self) -> dict[str, Any]:
        """It, and all below it, as JSON has it."""
        said: dict[str, Any] = {"kind": self.kind, "id": self.id, "name": self.name or None, "state": self.state}
        if self.kind == "task":
            meta = self.meta
            said |= {"date_done": meta.get("date_done"), "worker": meta.get("worker"), "retries": meta.get("retries")}
            if self.error is not None:
                said["error"] = repr(self.error)
        if self.kind == "chord":
            said |= {"header": [part.as_dict() for part in self.header], "body": self.body.as_dict()}
        elif self.parts:
            said["parts"] = [part.as_dict() for part in self.parts]
        if self.sent:
            said["sent"] = [node.as_dict() for node in self.sent]
        return said


class Workflow:
    """One workflow: its `id` is that of its result. `recorded` is what was stored of it when it was sent."""

    def __init__(self, app: Celery, id: str, root: Node, recorded: record.Recorded | None) -> None:
        self.app = app
        self.id = id
        self.root = root
        self.recorded = recorded

    def refresh(self) -> None:
        """Read how far it is."""
        leaves = [node for node in self.root.everything() if node.kind == "task"]
        for leaf, meta in zip(leaves, read(self.app, [leaf.id for leaf in leaves]), strict=True):
            leaf.meta = meta
            if not leaf.name:
                leaf.name = meta.get("name") or ""
        _infer(self.root)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        counts = dict(sorted(self.root.counts().items()))
        return {"id": self.id, "state": self.root.state, "recorded": self.recorded is not None, "tasks": counts,
                "tree": self.root.as_dict()}  # fmt: skip

    def graph(self) -> DependencyGraph:
        """Which task gives its result to which: a picture of it is `graph().to_mermaid()`."""
        graph: DependencyGraph = DependencyGraph(formatter=NodeFormatter(root=self.id))
        _connect(graph, self.root)
        return graph


class NodeFormatter(GraphFormatter):
    """Draws tasks by name, with their ids and states."""

    kind_scheme = STATE_COLOURS

    def label(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, Node) else obj

    def text(self, obj: Any) -> str:
        return "\n".join(part for part in (obj.name, obj.id, obj.state) if part)

    def kind(self, obj: Any) -> str:
        return kind_of(obj.state)


IGNORED: Mapping[str, Any] = {"status": states.IGNORED, "result": None}


def _infer(node: Node) -> None:
    """What ran before something that has a state has run, even where its result was not kept."""
    for part in node.parts:
        _infer(part)
    if node.kind not in {"chain", "chord"}:
        return
    begun = False
    for part in reversed(node.parts):
        if node.kind == "chord" and part is not node.body and not begun:
            return
        if begun:
            for leaf in part.leaves():
                if leaf.meta is not IGNORED and leaf.meta["status"] == states.PENDING:
                    leaf.meta = IGNORED
        begun = begun or any(leaf.meta["status"] in _BEGUN for leaf in part.leaves())


_BEGUN = frozenset({states.SUCCESS, states.STARTED, states.RETRY, states.IGNORED})


def find_workflow(app: Celery, id: str) -> Workflow | None:
    """The workflow that the task, group or result *id* belongs to, with its states; None where nothing is known of it.

    Of the tasks of a workflow those can be found that have begun, and its result.
    """
    recorded = record.find(app, id)
    top = id
    if recorded is None:
        recorded, top = _climb(app, id)
    if recorded is not None:
        found = Workflow(app, recorded.id, tree_of(recorded.canvas), recorded)
    elif app.backend.get_task_meta(top)["status"] != states.PENDING:
        found = Workflow(app, top, Node("task", top), None)
    else:
        group = _saved_group(app, id)
        if group is None:
            return None
        found = Workflow(app, id, group, None)
    found.refresh()
    _add_sent(app, found.root)
    return found


def tree_of(signature: Any) -> Node:
    """The tree of a frozen canvas."""
    kind, kwargs = signature.get("subtask_type"), signature["kwargs"]
    id = signature["options"].get("task_id")
    if kind == "chord":
        node = Node(kind, id, signature=signature)
        node.parts = [tree_of(part) for part in (*record.members(signature), kwargs["body"])]
    elif kind in {"chain", "group"}:
        node = Node(kind, id, signature=signature)
        node.parts = [tree_of(part) for part in kwargs["tasks"]]
    else:
        node = Node("task", id, _name_of(signature), signature)
    return node


def _name_of(signature: Any) -> str:
    """The name of a task; of a built-in one that calls another, the other's too."""
    inner = signature["kwargs"].get("task") if signature.get("subtask_type") else None
    name = str(signature["task"])
    return f"{name}({inner['task']})" if isinstance(inner, Mapping) and "task" in inner else name


def read(app: Celery, ids: Sequence[Any]) -> list[Mapping[str, Any]]:
    """What is known of tasks."""
    backend = app.backend
    many = getattr(backend, "read", None)
    if many is None:
        return [backend.get_task_meta(id) for id in ids]
    return [meta for start in range(0, len(ids), BATCH) for meta in many(ids[start : start + BATCH])]


def _climb(app: Celery, id: str) -> tuple[record.Recorded | None, str]:
    """The record of the workflow that a task is in, found by what was before it; else the first task it leads to."""
    for _ in range(DEEPEST):
        meta = app.backend.get_task_meta(id)
        group, parent = meta.get("group_id"), meta.get("parent_id")
        for place in (group, parent):
            recorded = record.find(app, place) if place else None
            if recorded is not None:
                return recorded, id
        if not parent or app.backend.get_task_meta(parent)["status"] == states.PENDING:
            break
        id = parent
    return None, id


def _saved_group(app: Celery, id: str) -> Node | None:
    """The tree of a group that was saved."""
    group = app.backend.restore_group(id)
    return None if group is None else _node_of(group)


def _node_of(result: Any) -> Node:
    members = getattr(result, "results", None)
    node = Node("task" if members is None else "group", result.id)
    node.parts = [_node_of(member) for member in members or ()]
    return node


def _add_sent(app: Celery, root: Node) -> None:
    """Add to every task what it has sent beyond what is known of it, and to those what they have sent."""
    known = {node.id for node in root.everything()}
    level = [node for node in root.everything() if node.kind == "task"]
    while level:
        below: list[Node] = []
        for node, made in _sent_by(app, level):
            new = {leaf.id for leaf in made.leaves()} - known
            if new:
                known |= new | {made.id}
                node.sent.append(made)
                below.extend(made.leaves())
        for leaf, meta in zip(below, read(app, [leaf.id for leaf in below]), strict=True):
            leaf.meta, leaf.name = meta, leaf.name or meta.get("name") or ""
        level = below


def _sent_by(app: Celery, tasks: Iterable[Node]) -> Iterator[tuple[Node, Node]]:
    """Every task with what it has sent, one by one: as it was recorded, or as far as its result tells."""
    sent = [(node, result_from_tuple(child, app)) for node in tasks for child in node.meta.get("children") or ()]
    recorded = record.find_many(app, [result.id for _, result in sent])
    for node, result in sent:
        if result.id in recorded:
            made = tree_of(recorded[result.id].canvas)
            for below in made.everything():
                below.signature = None  # it is a workflow of its own
        else:
            made = _node_of(result)
        yield node, made


def _connect(graph: DependencyGraph, node: Node, before: Iterable[Node] = ()) -> list[Node]:
    """Add a node behind those that give it their results; those that give on its own."""
    before = list(before)
    if node.kind == "task":
        graph.add_arc(node)
        for giver in before:
            graph.add_edge(giver, node)
        for sent in node.sent:
            _connect(graph, sent, [node])
        return [node]
    if node.kind == "chain":
        for part in node.parts:
            before = _connect(graph, part, before)
        return before
    if node.kind == "chord":
        header = [last for part in node.header for last in _connect(graph, part, before)]
        return _connect(graph, node.body, header or before)
    return [last for part in node.parts for last in _connect(graph, part, before)]


__all__ = ["Node", "NodeFormatter", "Workflow", "find_workflow", "read", "tree_of"]
