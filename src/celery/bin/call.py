"""`celery call`: send a task by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from celery.bin.base import (
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CeleryOption,
    handle_preload_options,
)

CALLING, ROUTING = "Calling Options", "Routing Options"


@click.command(cls=CeleryCommand)
@click.argument("name")
@click.option(
    "-a", "--args", cls=CeleryOption, type=JSON_ARRAY, default="[]", help_group=CALLING, help="Positional arguments."
)
@click.option(
    "-k", "--kwargs", cls=CeleryOption, type=JSON_OBJECT, default="{}", help_group=CALLING, help="Keyword arguments."
)
@click.option("--eta", cls=CeleryOption, type=ISO8601, help_group=CALLING, help="Time at which it is to run.")
@click.option("--countdown", cls=CeleryOption, type=float, help_group=CALLING, help="Seconds after which it is to run.")
@click.option(
    "--expires",
    cls=CeleryOption,
    type=ISO8601_OR_FLOAT,
    help_group=CALLING,
    help="Time, or seconds from now, after which it is not to run any more.",
)
@click.option("--serializer", cls=CeleryOption, default="json", help_group=CALLING, help="How to write the arguments.")
@click.option("--queue", cls=CeleryOption, help_group=ROUTING, help="Queue to send it to.")
@click.option("--exchange", cls=CeleryOption, help_group=ROUTING, help="Exchange to send it to.")
@click.option("--routing-key", cls=CeleryOption, help_group=ROUTING, help="Routing key to send it with.")
@click.pass_context
@handle_preload_options
def call(
    ctx: click.Context,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    eta: datetime | None,
    countdown: float | None,
    expires: datetime | float | None,
    serializer: str,
    queue: str | None,
    exchange: str | None,
    routing_key: str | None,
) -> None:
    """Send the task NAME and print its id."""
    result = ctx.obj.app.send_task(
        name,
        args=args,
        kwargs=kwargs,
        countdown=countdown,
        eta=eta,
        expires=expires,
        serializer=serializer,
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
    )
    ctx.obj.echo(result.id)
