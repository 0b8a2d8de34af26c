"""`celery purge`: delete the messages that wait in queues."""

from __future__ import annotations

import click

from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption, handle_preload_options

HEADING = "Purging Options"


@click.command(cls=CeleryCommand)
@click.option("-f", "--force", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Do not ask.")
@click.option(
    "-Q", "--queues", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=HEADING, help="Queues to purge."
)
@click.option(
    "-X",
    "--exclude-queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=HEADING,
    help="Queues to leave as they are.",
)
@click.pass_context
@handle_preload_options
def purge(ctx: click.Context, force: bool, queues: list[str] | None, exclude_queues: list[str] | None) -> None:
    """Delete the waiting and scheduled messages of all known queues. There is no undo."""
    app = ctx.obj.app
    names = sorted(set(queues or app.amqp.queues.keys()) - set(exclude_queues or ()))
    of_queues = f"{len(names)} {'queue' if len(names) == 1 else 'queues'}"
    if not force:
        warning = ctx.obj.style("WARNING", fg="red")
        ctx.obj.echo(
            f"{warning}: This will remove all tasks from {of_queues}: {', '.join(names)}.\n"
            f"         There is no undo for this operation!\n\n(to skip this prompt use the -f option)"
        )
        click.confirm("Are you sure you want to delete all tasks?", abort=True)
    count = sum(app.broker.purge(name) for name in names)
    messages = f"{count or 'No'} {'message' if count == 1 else 'messages'}"
    ctx.obj.echo(f"Purged {messages} from {of_queues}." if count else f"No messages purged from {of_queues}.")
