"""Pictures of what depends on what: DOT as the original writes it, and Mermaid."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, states
from celery.app.context import Context
from celery.utils import uuid
from celery.utils.graph import DependencyGraph, GraphFormatter

BY_THE_ORIGINAL = """\
digraph dependencies {
    graph [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", bgcolor="mintcream", root="root"]
    "root" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", fillcolor="palegreen3", color="palegreen4"]
    "root" -> "mid" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
    "root" -> "leaf2" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
    "mid" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", fillcolor="palegreen3", color="palegreen4"]
    "mid" -> "grp" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
    "leaf2" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", fillcolor="palegreen1", color="palegreen2"]
    "grp" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", fillcolor="palegreen3", color="palegreen4"]
    "grp" -> "leaf" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
    "grp" -> "leaf2" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", color="darkseagreen4", arrowcolor="black", arrowsize="0.7"]
    "leaf" [shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue", fillcolor="palegreen1", color="palegreen2"]
}
"""  # noqa: E501


@pytest.fixture
def app() -> Iterator[Celery]:
    place = f"memory://{uuid()}"
    with Celery("graphs", broker=place, backend=place, set_as_current=False) as app:
        app.conf.result_extended = True
        yield app


def done(app: Celery, id: str, *children: Any, state: str = states.SUCCESS) -> Any:
    request = Context(id=id, task=f"tasks.{id}", args=[], kwargs={}, _children=list(children))
    value = ValueError("x") if state == states.FAILURE else id
    app.backend.store_result(id, value, state, request=request)
    return app.AsyncResult(id)


def workflow(app: Celery) -> Any:
    leaf, leaf2 = done(app, "leaf"), done(app, "leaf2", state=states.FAILURE)
    mid = done(app, "mid", app.GroupResult("grp", [leaf, leaf2]))
    return done(app, "root", mid, leaf2)


def written(graph: DependencyGraph, **options: Any) -> str:
    with io.StringIO() as file:
        graph.to_dot(file, **options)
        return file.getvalue()


def test_dot_of_a_workflow(app: Celery) -> None:
    assert written(workflow(app).graph) == BY_THE_ORIGINAL


def test_dot_of_names() -> None:
    assert written(DependencyGraph()).splitlines()[-1] == "}"
    graph = DependencyGraph()
    graph.add_arc("a")
    graph.add_edge("a", "b")
    lines = written(graph, formatter=GraphFormatter(type="graph", id="g")).splitlines()
    assert lines[0] == "graph g {"
    assert lines[3].startswith('    "a" -- "b" [')
    assert len(lines) == 5


def test_mermaid_of_a_workflow(app: Celery) -> None:
    said = workflow(app).graph.to_mermaid()
    assert said.splitlines() == [
        "flowchart TD",
        '    n0["tasks.root<br/>root<br/>SUCCESS"]:::success',
        '    n1["tasks.mid<br/>mid<br/>SUCCESS"]:::success',
        '    n2["tasks.leaf2<br/>leaf2<br/>FAILURE"]:::failure',
        '    n3["grp"]',
        '    n4["tasks.leaf<br/>leaf<br/>SUCCESS"]:::success',
        "    n0 --> n1",
        "    n0 --> n2",
        "    n1 --> n3",
        "    n3 --> n4",
        "    n3 --> n2",
        "    classDef success fill:#d3f2d6,stroke:#2f8f46,color:#123",
        "    classDef failure fill:#fbd5d5,stroke:#b42318,color:#311",
    ]


def test_mermaid_of_names_with_signs_of_its_own() -> None:
    graph = DependencyGraph()
    graph.add_arc('say "<b>#1"\nnow')
    graph.add_edge('say "<b>#1"\nnow', "b")
    graph.add_edge('say "<b>#1"\nnow', "b")
    assert graph.to_mermaid().splitlines() == [
        "flowchart TD",
        '    n0["say #quot;#lt;b#gt;#35;1#quot;<br/>now"]',
        '    n1["b"]',
        "    n0 --> n1",
    ]
