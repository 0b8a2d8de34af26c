"""`celery dead`: the messages no worker could run, and what to do with them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption, CommandError, age, table
from celery.brokers.base import Entry
from celery.exceptions import DecodeError
from celery.wire.protocol import peek

QUEUES = click.option(
    "-Q", "--queue", "queues", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help="Only the messages of these queues."
)
ALL = click.option("--all", "everything", cls=CeleryOption, is_flag=True, help="Every dead message.")


@click.group()
def dead() -> None:
    """Dead messages: list them with their reasons, send them back to their queues, or drop them."""


@dead.command("list", cls=CeleryCommand)
@QUEUES
@click.option("-n", "--limit", cls=CeleryOption, default=100, show_default=True, help="At most so many.")
@click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help="As JSON.")
@click.pass_context
def list_(ctx: click.Context, queues: list[str] | None, limit: int, as_json: bool) -> None:
    """List dead messages, longest dead first."""
    entries = ctx.obj.app.broker.entries("dead", queues, limit)
    if as_json:
        ctx.obj.echo(json.dumps([_facts(entry) for entry in entries]))
    elif not entries:
        ctx.obj.echo("No message is dead.")
    else:
        now = time.time()
        rows = [
            (
                entry.task_id or entry.tag,
                _task(entry),
                entry.queue,
                age(now - entry.since),
                entry.deliveries,
                entry.reason,
            )
            for entry in entries
        ]
        ctx.obj.echo(table(rows, ("id", "task", "queue", "dead for", "started", "reason")))


@dead.command(cls=CeleryCommand)
@click.argument("ids", nargs=-1)
@QUEUES
@ALL
@click.pass_context
def replay(ctx: click.Context, ids: Sequence[str], queues: list[str] | None, everything: bool) -> None:
    """Send dead messages back to their queues, by task id, by --queue or --all."""
    broker = ctx.obj.app.broker
    count = _for_each(ctx, broker.replay, ids, queues, everything)
    ctx.obj.echo(f"Sent {count} {'message' if count == 1 else 'messages'} back.")


@dead.command(cls=CeleryCommand)
@click.argument("ids", nargs=-1)
@QUEUES
@ALL
@click.pass_context
def drop(ctx: click.Context, ids: Sequence[str], queues: list[str] | None, everything: bool) -> None:
    """Delete dead messages, by task id, by --queue or --all. There is no undo."""
    broker = ctx.obj.app.broker
    count = _for_each(ctx, broker.remove, ids, queues, everything)
    ctx.obj.echo(f"Dropped {count} {'message' if count == 1 else 'messages'}.")


def _for_each(
    ctx: click.Context,
    act: Callable[[Sequence[int | str]], int],
    ids: Sequence[str],
    queues: list[str] | None,
    everything: bool,
) -> int:
    if not ids and not queues and not everything:
        raise click.UsageError("Say which: task ids, --queue or --all. celery dead list shows them.", ctx)
    entries: list[Entry] = ctx.obj.app.broker.entries("dead", queues, sys.maxsize)
    if ids:
        wanted = set(ids)
        entries = [entry for entry in entries if wanted & {entry.task_id, str(entry.tag)}]
        missing = wanted - {name for entry in entries for name in (entry.task_id, str(entry.tag))}
        if missing:
            raise CommandError(f"Not dead: {', '.join(sorted(missing))}. Nothing was changed.")
    return act([entry.tag for entry in entries])


def _task(entry: Entry) -> str:
    """The name of the task, `?` where the message cannot be read: that may be why it is dead."""
    try:
        return peek(entry.envelope).task
    except DecodeError:
        return "?"


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.task_id,
        "tag": entry.tag,
        "task": _task(entry),
        "queue": entry.queue,
        "since": entry.since,
        "deliveries": entry.deliveries,
        "reason": entry.reason,
    }
