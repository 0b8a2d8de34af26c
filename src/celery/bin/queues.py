"""`celery queues`: what every queue holds."""

from __future__ import annotations

import json

import click
import msgspec

from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption, age, handle_preload_options, table
from celery.brokers.base import QueueStats

HEADING = "Queue Options"


@click.command(cls=CeleryCommand)
@click.option(
    "-Q", "--queues", "names", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=HEADING, help="Only these."
)
@click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help_group=HEADING, help="As JSON.")
@click.pass_context
@handle_preload_options
def queues(ctx: click.Context, names: list[str] | None, as_json: bool) -> None:
    """Show what every queue holds: ready, leased by a worker, delayed, parked for a limit, dead; is it paused?"""
    found = ctx.obj.app.broker.stats(names)
    if as_json:
        ctx.obj.echo(json.dumps({queue.name: msgspec.to_builtins(queue) for queue in found}))
    elif not found:
        ctx.obj.echo("There is no queue yet: the first task that is sent makes one.")
    else:
        rows = [
            (q.name, q.ready, q.leased, q.delayed, q.parked, q.dead, age(q.oldest), q.consumers, _state(q))
            for q in found
        ]
        columns = ("queue", "ready", "leased", "delayed", "parked", "dead", "oldest", "consumers", "state")
        ctx.obj.echo(table(rows, columns))


def _state(queue: QueueStats) -> str:
    return "paused" if queue.paused else "open"
