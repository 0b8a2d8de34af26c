"""`celery workflow`: how far a workflow is, as a tree; and running again what failed of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import click

from celery import states
from celery.app.rerun import rerun
from celery.app.workflow import Node, Workflow, find_workflow
from celery.bin.base import CeleryCommand, CeleryOption, CommandError, handle_preload_options

COLOURS = {states.SUCCESS: "green", states.FAILURE: "red", states.REVOKED: "magenta", states.PENDING: "white"}
FIRST = (states.FAILURE, states.REVOKED, states.STARTED, states.RETRY)
"""The states of the parts that are shown when not all are."""
Row = tuple[str, str, str, str, str]


@click.group()
def workflow() -> None:
    """Chains, groups and chords that were sent: show how far one is, or run again what failed of it."""


@workflow.command(cls=CeleryCommand)
@click.argument("id")
@click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help="As JSON, all of it.")
@click.option("-m", "--mermaid", cls=CeleryOption, is_flag=True, help="As a Mermaid flowchart, all of it.")
@click.option(
    "-n", "--limit", cls=CeleryOption, type=click.IntRange(min=2), default=20, show_default=True,
    help="Parts of one chain or group that are shown, those that failed or run before others.",
)  # fmt: skip
@click.pass_context
@handle_preload_options
def show(ctx: click.Context, id: str, as_json: bool, mermaid: bool, limit: int) -> None:
    """Show the workflow ID: the id of its result, or of a task of it that has begun."""
    found = _find(ctx, id)
    if as_json:
        ctx.obj.echo(json.dumps(found.as_dict(), default=str))
    elif mermaid:
        ctx.obj.echo(found.graph().to_mermaid(), nl=False)
    else:
        ctx.obj.echo("\n".join(_lines(ctx, found, limit)))


@workflow.command(cls=CeleryCommand)
@click.argument("id")
@click.option(
    "--from", "node", metavar="NODE", cls=CeleryOption,
    help="Run this task (or chain, group or chord) again whatever became of it, and all that depends on it.",
)  # fmt: skip
@click.pass_context
@handle_preload_options
def retry(ctx: click.Context, id: str, node: str | None) -> None:
    """Run again what failed of the workflow ID, and what depended on it.

    The results of what succeeded are used as they are.  Tasks keep their ids: who waits for a result gets the new one.
    """
    found = _find(ctx, id)
    again = rerun(found, node)
    total = sum(found.root.counts().values())
    if not again:
        ctx.obj.echo(f"Nothing to do: all {total} tasks of {found.id} have succeeded.")
        return
    ctx.obj.echo(f"Sent again: {len(again)} of {total} tasks. How far they are: celery workflow show {found.id}")


def _find(ctx: click.Context, id: str) -> Workflow:
    found = find_workflow(ctx.obj.app, id)
    if found is None:
        raise CommandError(
            f"Nothing is known of {id}: no result, no saved group and no record of a workflow has this id. A task that"
            " has not begun cannot be found: give the id of the workflow's result. What has expired cannot either."
        )
    return found


# -- a tree as text ----------------------------------------------------------------------------------------------------


def _lines(ctx: click.Context, found: Workflow, limit: int) -> list[str]:
    counts = found.root.counts()
    said = ", ".join(f"{number} {state}" for state, number in _sorted(counts))
    total = sum(counts.values())
    state = ctx.obj.style(found.root.state, fg=COLOURS.get(found.root.state, "yellow"), bold=True)
    lines = [f"workflow {found.id}  {state}  {total} {'task' if total == 1 else 'tasks'}: {said}"]
    rows = list(_rows(found.root, limit))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for label, id, word, done, detail in rows:
        coloured = ctx.obj.style(word.ljust(widths[2]), fg=COLOURS.get(word, "yellow")) if word else " " * widths[2]
        cells = [label.ljust(widths[0]), id.ljust(widths[1]), coloured, done.ljust(widths[3]), detail]
        lines.append("  ".join(cells).rstrip())
    if found.recorded is None:
        lines.append("It was not recorded when it was sent: what has not begun is not shown.")
    return lines


def _rows(node: Node, limit: int, before: str = "", branch: str = "", role: str = "") -> Iterator[Row]:
    """The rows of a node and of all below it; *before* and *branch* are drawn in front of it."""
    yield _row(node, f"{before}{branch}{role}")
    below = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    entries: list[tuple[str, list[Node]]]
    if node.kind == "chord":
        entries = [*(("", [part]) for part in node.header), ("body ", [node.body])]
        entries = _elided(entries[:-1], limit) + entries[-1:]
    else:
        entries = _elided([("", [part]) for part in node.parts], limit)
    entries += [("sent ", [sent]) for sent in node.sent]
    for number, (word, nodes) in enumerate(entries, 1):
        twig = "└─ " if number == len(entries) else "├─ "
        if len(nodes) == 1:
            yield from _rows(nodes[0], limit, below, twig, word)
        else:
            counts: Counter[str] = sum((part.counts() for part in nodes), Counter())
            said = ", ".join(f"{number} {state}" for state, number in _sorted(counts))
            yield f"{below}{twig}… {len(nodes)} more", "", "", "", said


def _elided(entries: list[tuple[str, list[Node]]], limit: int) -> list[tuple[str, list[Node]]]:
    """Not more than about *limit* of *entries*: those between are one entry with several nodes."""
    if len(entries) <= limit:
        return entries
    rank = {state: number for number, state in enumerate(FIRST)}
    order = sorted(range(len(entries)), key=lambda at: (rank.get(entries[at][1][0].state, len(rank)), at))
    kept = {0, *order[: limit - 2], len(entries) - 1}
    shown: list[tuple[str, list[Node]]] = []
    hidden: list[Node] = []
    for at, entry in enumerate(entries):
        if at not in kept:
            hidden += entry[1]
            continue
        if hidden:
            shown.append(("", hidden))
            hidden = []
        shown.append(entry)
    return shown


def _row(node: Node, label: str) -> Row:
    if node.kind != "task":
        count = len(node.header) if node.kind == "chord" else len(node.parts)
        what = {"chord": "in the header", "chain": "one after the other"}.get(node.kind, "beside each other")
        return f"{label}{node.kind}", node.id or "", node.state, "", f"{count} {what}"
    done = str(node.meta.get("date_done") or "")[:19].replace("T", " ")
    detail = repr(node.error) if node.error is not None else ""
    if node.meta.get("retries"):
        detail = f"{detail} after {node.meta['retries']} retries".strip()
    return f"{label}{node.name or 'task'}", node.id or "", node.state, done, detail


def _sorted(counts: Mapping[str, int]) -> list[tuple[Any, int]]:
    order = [states.SUCCESS, *FIRST, states.PENDING]
    return sorted(counts.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))
