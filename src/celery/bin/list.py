"""`celery list`: what there is at the broker."""

from __future__ import annotations

import click

from celery.bin.base import CeleryCommand, handle_preload_options

FORMAT = "{:<28} {:<28} {}"


@click.group(name="list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Get info from broker."""


@list_.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def bindings(ctx: click.Context) -> None:
    """Show which exchanges and routing keys lead to which queues.

    Those of the configured queues; queues that only the broker knows are reached by their names. A queue of which each
    worker has one of its own is listed by its alias.
    """
    app, queues = ctx.obj.app, ctx.obj.app.amqp.queues
    bound = queues.apart()
    rows = [
        (
            getattr(queues.given(queue.name), "alias", None) or queue.name,
            queue.exchange.name,
            queue.routing_key if queue.exchange.name else queue.name,
        )
        for queue in bound
    ]
    known = {queue.name for queue in bound}
    rows += [(stats.name, "", stats.name) for stats in app.broker.stats() if stats.name not in known]
    ctx.obj.echo(FORMAT.format("Queue", "Exchange", "Routing Key"))
    ctx.obj.echo(FORMAT.format("-" * 16, "-" * 16, "-" * 16))
    for row in sorted(rows):
        ctx.obj.echo(FORMAT.format(*row))
