"""`celery migrate`: send what waits at one broker to another."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption, handle_preload_options

HEADING = "Migration Options"


@click.command(cls=CeleryCommand)
@click.argument("source")
@click.argument("destination")
@click.option("-n", "--limit", cls=CeleryOption, type=int, help_group=HEADING, help="Number of tasks to consume.")
@click.option(
    "-t", "--timeout", cls=CeleryOption, type=float, default=1.0, help_group=HEADING, help="Seconds to wait for tasks."
)
@click.option(
    "-a", "--ack-messages", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Take them from the source."
)
@click.option(
    "-T", "--tasks", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=HEADING, help="Only tasks of these names."
)
@click.option(
    "-Q",
    "--queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=HEADING,
    help="Only these queues; a:b sends those of a to b.",
)
@click.option("-F", "--forever", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Go on until it is killed.")
@click.pass_context
@handle_preload_options
def migrate(ctx: click.Context, /, source: str, destination: str, **options: Any) -> None:
    """Migrate tasks from one broker to another: SOURCE and DESTINATION are their URLs.

    Without -a the tasks stay at the source as well, and would be run twice: stop its workers first.
    """

    def show(state: Any, body: Any, message: Any) -> None:
        ctx.obj.echo(f"Migrating task {state.count}/{state.strtotal}: {body.get('task')}[{body.get('id')}]")

    state = import_module("celery.contrib.migrate").migrate_tasks(
        source, destination, app=ctx.obj.app, callback=show, **options
    )
    ctx.obj.echo(f"Migrated {state.filtered} of {state.count} {'task' if state.count == 1 else 'tasks'}.")
