"""`celery graph`: pictures in DOT, for `dot -Tpng`."""

from __future__ import annotations

import sys
from typing import Any

import click

from celery.bin.base import CeleryCommand, CommandError, handle_preload_options
from celery.utils.graph import DependencyGraph, GraphFormatter
from celery.worker.banner import masked
from celery.worker.services import CONSUMER, WORKER

MOST = 8
"""So many threads of a worker are drawn; how many more there are is said."""


class Node:
    """A point of the picture: two of the same name are different ones."""

    def __init__(self, label: str, kind: str) -> None:
        self.name = label
        self.kind = kind

    def __repr__(self) -> str:
        return self.name


class Formatter(GraphFormatter):
    """Draws workers, threads, brokers and stores each in its own way."""

    kinds: dict[str, dict[str, Any]] = {
        "worker": {},
        "broker": {"shape": "circle", "fillcolor": "cadetblue3", "color": "cadetblue4", "height": 1},
        "backend": {"shape": "folder", "fillcolor": "peachpuff3", "color": "black", "width": 2, "height": 1},
        "thread": {"shape": "oval", "fillcolor": "lightcyan4", "fontcolor": "yellow", "color": "black", "width": 0.3},
        "step": {"shape": "box", "fillcolor": "lightgoldenrod1"},
    }

    def node(self, obj: Any, **attrs: Any) -> str:
        return super().node(obj, **{**attrs, **self.kinds.get(obj.kind, {})})

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        return super().terminal_node(obj, **{**attrs, **self.kinds.get(obj.kind, {})})


def draw(edges: list[tuple[Node, Node]], alone: list[Node], formatter: type[GraphFormatter] = Formatter) -> None:
    """Write the picture to standard output."""
    graph: Any = DependencyGraph(formatter=formatter())
    for node in [*alone, *(end for edge in edges for end in edge)]:
        if node not in graph:
            graph.add_arc(node)
    for source, target in edges:
        graph.add_edge(source, target)
    graph.to_dot(sys.stdout)


@click.group()
@click.pass_context
def graph(ctx: click.Context) -> None:
    """Draw the parts of a worker, or the workers there are."""


@graph.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def bootsteps(ctx: click.Context) -> None:
    """Draw the services of a worker and what each of them needs, with the steps that the application adds."""
    nodes: dict[str, Node] = {}

    def node(name: str, kind: str = "worker") -> Node:
        return nodes.setdefault(name, Node(name, kind))

    edges = [
        (node(name), node(needed)) for services in (WORKER, CONSUMER) for name, needs in services for needed in needs
    ]
    for owner, steps in (("Worker", ctx.obj.app.steps["worker"]), ("Consumer", ctx.obj.app.steps["consumer"])):
        for step in sorted(steps, key=lambda step: step.__name__):
            own = node(step.__name__, "step")
            needs = [str(getattr(needed, "__name__", needed)).rpartition(":")[2] for needed in step.requires or ()]
            edges += [(own, node(needed)) for needed in needs] or [(own, node(owner))]
    draw(edges, [])


@graph.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.pass_context
@handle_preload_options
def workers(ctx: click.Context) -> None:
    """Draw workers, their slots, the broker and the result store: those that answer, or those that are named.

    \b
    $ celery -A proj graph workers | dot -Tpng -o workers.png
    $ celery -A proj graph workers nodes:a,b,c threads:2,3,1 backend:redis://host
    """
    app = ctx.obj.app
    given = dict(word.partition(":")[::2] for word in ctx.args)
    unknown = given.keys() - {"nodes", "threads", "backend", "broker"}
    if unknown:
        raise CommandError(f"What is {min(unknown)!r}? Give nodes:, threads:, broker: or backend:.")
    names, slots = _workers(app, given)
    broker = Node(given.get("broker") or masked(app.broker.url), "broker")
    store = given.get("backend") or getattr(app.backend, "url", None)
    backend = Node(masked(store), "backend") if store and not str(store).startswith("disabled") else None
    edges: list[tuple[Node, Node]] = []
    for name in names:
        worker = Node(name, "worker")
        edges.append((worker, broker))
        if backend is not None:
            edges.append((worker, backend))
        count = slots.get(name, 0)
        labels = [f"{name} {number + 1}" for number in range(min(count, MOST))]
        if count > MOST:
            labels.append(f"{name}: {count - MOST} more")
        edges += [(Node(label, "thread"), worker) for label in labels]
    draw(edges, [broker] if backend is None else [broker, backend])


def _workers(app: Any, given: dict[str, str]) -> tuple[list[str], dict[str, int]]:
    """Names, and how many slots each has."""
    if "nodes" in given:
        named = [name for name in given["nodes"].split(",") if name]
        counts = [int(count) for count in given.get("threads", "").split(",") if count.isdecimal()]
        return named, dict(zip(named, counts, strict=False))
    stats = app.control.inspect().stats() or {}
    if not stats:
        raise CommandError("No worker answers: start some, or name them: nodes:a,b threads:2,3.")
    return sorted(stats), {name: int(said["pool"].get("max-concurrency") or 0) for name, said in stats.items()}
