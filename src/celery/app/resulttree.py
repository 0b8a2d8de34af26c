"""What results have in common: where they stand in a workflow. What is above them, and what hangs below them.

Results are read in bulk wherever a backend can (`read`): a tree costs a request a level, not one a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from celery import states
from celery.exceptions import IncompleteStream
from celery.utils.graph import DependencyGraph, GraphFormatter

WINDOW = 64
"""How many of the tasks before a result are looked at in one step: those that run now are among the first."""


class ResultBase:
    """What all results have in common: an id, and the result of what comes before it in its workflow."""

    id: Any = None
    parent: ResultBase | None = None

    def as_tuple(self) -> tuple[Any, Any]:
        """This result, and what is before it, as plain data; `result_from_tuple` is the inverse."""
        # A chain of thousands is no deeper than this loop; what encodes the tuple may still mind.
        data: Any = None
        for result in reversed([self, *ancestors(self)]):
            data = result._as_tuple(data)
        return cast("tuple[Any, Any]", data)

    def _as_tuple(self, parent: Any) -> tuple[Any, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no tuple form.")

    def as_list(self) -> list[str]:
        """The ids of the tasks of this result and of those before it, backwards; of a group, those of its members."""
        found: dict[str, None] = {}
        for result in [self, *ancestors(self)]:
            found.update(dict.fromkeys(result._ids()))
        return list(found)

    def _ids(self) -> list[str]:
        return [self.id]


class ResultTree(ResultBase):
    """A result below which there may be others: those of the tasks that its task has sent, or of its members."""

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this result and for all below it, yielding `(result, value)`; *kwargs* as for `get`."""
        for _, result in self.iterdeps(intermediate=intermediate):
            yield result, result.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result that this one led to."""
        value = None
        for _, result in self.iterdeps():
            value = result.get()
        return value

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield `(parent, result)` of this result and all below it, level by level.

        Raises `IncompleteStream` at a result that is not there yet, or passes it over with *intermediate*.
        """
        level: list[tuple[Any, Any]] = [(None, self)]
        while level:
            if len(level) > 1:
                look([node for _, node in level])
            below: list[tuple[Any, Any]] = []
            for parent, node in level:
                yield parent, node
                if node.ready():
                    below.extend((node, child) for child in node.children or ())
                elif not intermediate:
                    raise IncompleteStream(f"Task {node.id} has not ended: what it will send is not known yet.")
            level = below

    def build_graph(self, intermediate: bool = False, formatter: GraphFormatter | None = None) -> DependencyGraph:
        """The graph of this result and all below it."""
        graph: DependencyGraph = DependencyGraph(formatter=formatter or ResultFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """The graph of this result and all below it; built once."""
        if "_graph" not in self.__dict__:
            self.__dict__["_graph"] = self.build_graph()
        return cast("DependencyGraph", self.__dict__["_graph"])


STATE_COLOURS = {
    "success": "fill:#d3f2d6,stroke:#2f8f46,color:#123",
    "failure": "fill:#fbd5d5,stroke:#b42318,color:#311",
    "revoked": "fill:#eee3f7,stroke:#7a4fa3,color:#213",
    "running": "fill:#d9e8fb,stroke:#2962a8,color:#123",
    "pending": "fill:#f3f3f3,stroke:#8a8a8a,color:#333",
}
"""How Mermaid draws tasks, by `kind_of` their states."""


def kind_of(state: str) -> str:
    """Which of `STATE_COLOURS` stands for a state."""
    known = state.lower()
    if known in STATE_COLOURS:
        return known
    return "pending" if state in {states.PENDING, states.RECEIVED, states.IGNORED} else "running"


class ResultFormatter(GraphFormatter):
    """Draws results: ids in DOT; in Mermaid with what is known here of the task, for which nothing is read."""

    kind_scheme = STATE_COLOURS

    def text(self, obj: Any) -> str:
        meta = getattr(obj, "_cache", None) or {}
        return "\n".join(str(part) for part in (meta.get("name"), obj, meta.get("status")) if part)

    def kind(self, obj: Any) -> str:
        meta = getattr(obj, "_cache", None)
        return kind_of(meta["status"]) if meta else ""


def ancestors(result: Any) -> Iterator[Any]:
    """The results before *result* in its workflow, the nearest first."""
    parent = result.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def leaves(results: Iterable[Any]) -> Iterator[Any]:
    """The results of tasks among *results* and in the groups among them, in order."""
    stack = [iter(results)]
    while stack:
        for result in stack[-1]:
            members = getattr(result, "results", None)
            if members is not None:
                stack.append(iter(members))
                break
            yield result
        else:
            stack.pop()


def look(results: Iterable[Any]) -> set[int]:
    """Read those of *results* that are not known to have ended, in one step where the backend can.

    Which of them have not ended, by `id()`; without those whose backend has to be asked one by one.
    """
    unread: dict[int, list[Any]] = {}
    for result in leaves(results):
        if result._cache is None and not result.ignored:
            unread.setdefault(id(result.backend), []).append(result)
    running: set[int] = set()
    for found in unread.values():
        read = getattr(found[0].backend, "read", None)
        if read is None:
            continue
        for result, meta in zip(found, read([result.id for result in found]), strict=True):
            result._maybe_set_cache(meta)
        running.update(id(result) for result in found if result._cache is None)
    return running


def forget(results: Iterable[Any]) -> None:
    """Delete the stored results of tasks, and of what is before them in their chains, in one step where possible."""
    stored: dict[int, tuple[Any, dict[str, None]]] = {}
    seen: set[int] = set()
    stack = list(results)
    while stack:
        result = stack.pop()
        if id(result) in seen:
            continue
        seen.add(id(result))
        if result.parent is not None:
            stack.append(result.parent)
        members = getattr(result, "results", None)
        if members is not None:
            stack.extend(members)
        elif result.stored:
            result._cache = None
            stored.setdefault(id(result.backend), (result.backend, {}))[1][result.id] = None
    for backend, ids in stored.values():
        forget_many = getattr(backend, "forget_many", None)
        if forget_many is not None:
            forget_many(list(ids))
        else:
            for task_id in ids:
                backend.forget(task_id)


class FailureBefore:
    """Looks, when it is called, whether a task before a result in its chain has failed; raises what that raised.

    The tasks of a chain end one after the other, so it looks at those that may be running now.  Members of a group are
    passed over: when one of those has failed, what follows the group ends with `ChordError`.
    """

    def __init__(self, result: ResultBase) -> None:
        before = [found for found in ancestors(result) if getattr(found, "results", None) is None]
        self._waiting = before[::-1]

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def nearest(self) -> Any:
        """The one that ends last, None where all have ended."""
        return self._waiting[-1] if self._waiting else None

    def __call__(self) -> None:
        while self._waiting:
            window = self._waiting[:WINDOW]
            running = look(window)
            for result in window:
                if id(result) not in running:
                    result.maybe_throw()
            ended = next((at for at, result in enumerate(window) if not _has_ended(result)), len(window))
            del self._waiting[:ended]
            if ended < WINDOW:
                return


def _has_ended(result: Any) -> bool:
    return result._cache is not None and result._cache["status"] in states.READY_STATES


__all__ = [
    "STATE_COLOURS",
    "WINDOW",
    "FailureBefore",
    "ResultBase",
    "ResultFormatter",
    "ResultTree",
    "ancestors",
    "forget",
    "kind_of",
    "leaves",
    "look",
]
