"""A graph of what depends on what, its order, and pictures of it in DOT and Mermaid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError as _Cycle
from graphlib import TopologicalSorter
from itertools import chain
from typing import IO, Any


class CycleError(Exception):
    """The graph has a cycle."""


class DOT:
    """The words of the DOT language."""

    HEAD = "{IN}{type} {id} {{\n{INp}graph [{attrs}]"
    ATTR = "{name}={value}"
    ATTRSEP = ", "
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    NODE = '{INp}"{0}" [{attrs}]'
    TAIL = "{IN}}}"
    DIRS = {"graph": "--", "digraph": "->"}


class GraphFormatter:
    """Writes nodes and edges in DOT. Subclasses change the schemes, `label`, and `node`, `edge` and so on.

    In Mermaid, nodes are what `text` and `kind` say of them.
    """

    scheme: dict[str, Any] = {"shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue"}
    edge_scheme: dict[str, Any] = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": 0.7}
    node_scheme: dict[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: dict[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: dict[str, Any] = {"bgcolor": "mintcream"}
    kind_scheme: dict[str, str] = {}
    """How Mermaid draws the nodes of a kind."""

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = DOT.DIRS[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = dict(self.scheme, **scheme)
        self.graph_scheme = dict(self.graph_scheme, root=self.label(self.root))

    def attr(self, name: str, value: Any) -> str:
        return DOT.ATTR.format(name=name, value=f'"{value}"')

    def attrs(self, d: dict[str, Any], scheme: dict[str, Any] | None = None) -> str:
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return DOT.ATTRSEP.join(self.attr(name, value) for name, value in merged.items())

    def head(self, **attrs: Any) -> str:
        return self.FMT(DOT.HEAD, id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme))

    def tail(self) -> str:
        return self.FMT(DOT.TAIL)

    def label(self, obj: Any) -> Any:
        return obj

    def text(self, obj: Any) -> str:
        """What Mermaid writes into the node, in one or more lines."""
        return str(self.label(obj))

    def kind(self, obj: Any) -> str:
        """The kind of node in Mermaid, one of `kind_scheme`; "" for none."""
        return ""

    def node(self, obj: Any, **attrs: Any) -> str:
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        return self.draw_edge(a, b, **attrs)

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> str:  # noqa: N802 - the public name
        return fmt.format(*args, **{"IN": self.IN, "INp": self.INp, **kwargs})

    def draw_edge(
        self, a: Any, b: Any, scheme: dict[str, Any] | None = None, attrs: dict[str, Any] | None = None
    ) -> str:
        drawn = self.attrs(attrs or {}, self.edge_scheme if scheme is None else scheme)
        return self.FMT(DOT.EDGE, self.label(a), self.label(b), dir=self.direction, attrs=drawn)

    def draw_node(self, obj: Any, scheme: dict[str, Any] | None = None, attrs: dict[str, Any] | None = None) -> str:
        return self.FMT(DOT.NODE, self.label(obj), attrs=self.attrs(attrs or {}, scheme))


def _mermaid_text(text: str) -> str:
    for sign, word in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", "<br/>")):
        text = text.replace(sign, word)
    return text


class DependencyGraph:
    """Objects and what each of them depends on."""

    def __init__(self, it: Iterable[tuple[Any, Iterable[Any]]] | None = None, formatter: Any = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add an object that depends on nothing yet."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:  # noqa: N803 - the public name
        """Say that *A* depends on *B*."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Add another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Any, Iterable[Any]]] | Any) -> None:
        """Add objects with what they depend on."""
        pairs = [(obj, list(needs)) for obj, needs in (it.items() if hasattr(it, "items") else it)]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, needs in pairs:
            for need in needs:
                self.add_edge(obj, need)

    def topsort(self) -> list[Any]:
        """The objects, each after what it depends on; raises `CycleError` that names a cycle."""
        try:
            return list(TopologicalSorter(self.adjacent).static_order())
        except _Cycle as exc:
            raise CycleError(f"These depend on one another: {' -> '.join(map(str, exc.args[1]))}.") from exc

    def valency_of(self, obj: Any) -> int:
        """How many objects *obj* depends on, directly or not, each path counted."""
        return sum(1 + self.valency_of(need) for need in self.adjacent.get(obj, ()))

    def edges(self) -> list[Any]:
        """The objects that depend on something."""
        return [obj for obj, needs in self.adjacent.items() if needs]

    def to_dot(self, fh: IO[str], formatter: Any = None) -> None:
        """Write the graph to a file in DOT."""
        draw = formatter or self.formatter
        lines = [draw.head()]
        for obj, needs in self.adjacent.items():
            lines.append(draw.node(obj) if needs else draw.terminal_node(obj))
            lines += [draw.edge(obj, need) for need in needs]
        fh.write("\n".join([*lines, draw.tail()]) + "\n")

    def to_mermaid(self, formatter: Any = None) -> str:
        """The graph as a Mermaid flowchart, which GitHub and many editors draw."""
        draw = formatter or self.formatter
        names: dict[Any, str] = {}
        for obj in chain.from_iterable((obj, *needs) for obj, needs in self.adjacent.items()):
            names.setdefault(obj, f"n{len(names)}")
        kinds = {obj: draw.kind(obj) for obj in names}
        lines = ["flowchart TD"]
        for obj, name in names.items():
            mark = f":::{kinds[obj]}" if kinds[obj] else ""
            lines.append(f'    {name}["{_mermaid_text(draw.text(obj))}"]{mark}')
        for obj, needs in self.adjacent.items():
            lines += [f"    {names[obj]} --> {names[need]}" for need in dict.fromkeys(needs)]
        used = dict.fromkeys(kind for kind in kinds.values() if kind)
        lines += [f"    classDef {kind} {draw.kind_scheme[kind]}" for kind in used if kind in draw.kind_scheme]
        return "\n".join(lines) + "\n"

    def format(self, obj: Any) -> Any:
        return self.formatter.label(obj) if self.formatter else obj

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """The object and everything below it, one a line."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        lines += [" " * 5 * level + self.repr_node(need, level + 1) for need in self.adjacent.get(obj, ())]
        return "\n".join(lines)

    def items(self) -> Any:
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)


__all__ = ["DOT", "CycleError", "DependencyGraph", "GraphFormatter"]
