"""`celery amqp`: queues and messages by hand, on every broker.

The names are AMQP's.  A broker of ours has queues and no exchanges of its own: what would need some says so.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

import click

from celery.bin.base import CeleryCommand, CommandError, handle_preload_options
from celery.exceptions import CeleryError
from celery.wire.message import Delivery, Outgoing, Queue, Settlement
from celery.wire.protocol import Message, decode_envelope, encode_envelope

__all__ = ("amqp",)

NO_EXCHANGES = "This broker has no exchanges: messages go to queues by their names, as through AMQP's default exchange."


def dump_message(message: Message | None) -> dict[str, Any] | str:
    """A message as it is shown."""
    if message is None:
        return "No messages in queue. basic.publish something."
    return {
        "body": message.body.decode(errors="replace"),
        "properties": message.properties,
        "headers": message.headers,
    }


class AMQPContext:
    """The state of a session: the consumers that hold what `basic.get` took."""

    def __init__(self, cli_context: Any) -> None:
        self.cli_context = cli_context
        self.taken: dict[str, tuple[Any, Delivery]] = {}

    @property
    def app(self) -> Any:
        return self.cli_context.app

    def respond(self, retval: Any) -> None:
        text = retval if isinstance(retval, str) else json.dumps(retval, indent=4, default=repr)
        self.cli_context.echo(text)

    def echo_ok(self) -> None:
        self.cli_context.echo(self.cli_context.OK)

    def echo_error(self, exception: BaseException) -> None:
        self.cli_context.error(f"{self.cli_context.ERROR}: {exception}")

    def reconnect(self) -> None:
        """Reach the broker anew."""
        self.close()
        self.app.broker.close()
        self.app.broker.connect()

    def close(self) -> None:
        """Give back what was taken and not acknowledged."""
        for consumer, _ in self.taken.values():
            consumer.close()
        self.taken.clear()


@click.group(invoke_without_command=True)
@click.pass_context
def amqp(ctx: click.Context) -> None:
    """Administer queues and messages by hand.

    Without a command it is a prompt that takes them, until `exit`.
    """
    if not isinstance(ctx.obj, AMQPContext):
        ctx.obj = AMQPContext(ctx.obj)
        ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand is None:
        ctx.invoke(repl)


@amqp.command(cls=CeleryCommand)
@click.pass_context
def repl(ctx: click.Context) -> None:
    """Start an interactive shell."""
    group: Any = amqp
    while True:
        try:
            words = shlex.split(input("> "))
        except (EOFError, KeyboardInterrupt):
            return
        except ValueError as error:
            ctx.obj.echo_error(error)
            continue
        if words[:1] in (["exit"], ["quit"]):
            return
        if not words:
            continue
        try:
            group.main(words, prog_name="", standalone_mode=False, obj=ctx.obj)
        except click.exceptions.Exit:
            continue
        except click.ClickException as error:
            error.show()
        except CeleryError as error:
            ctx.obj.echo_error(error)


@amqp.command(name="queue.declare", cls=CeleryCommand)
@click.argument("queue")
@click.argument("passive", type=bool, default=False)
@click.argument("durable", type=bool, default=True)
@click.argument("auto_delete", type=bool, default=False)
@click.pass_context
@handle_preload_options
def queue_declare(ctx: click.Context, queue: str, passive: bool, durable: bool, auto_delete: bool) -> None:
    """Make a queue; tell how many messages and consumers it has."""
    broker = ctx.obj.app.broker
    if passive and queue not in {stats.name for stats in broker.stats()}:
        raise CommandError(f"There is no queue {queue!r}.")
    if auto_delete:
        raise CommandError("This broker has no queues that delete themselves: leave out auto_delete.")
    broker.declare([Queue(queue, durable=durable)])
    [stats] = broker.stats([queue])
    ctx.obj.respond(f"queue:{queue} messages:{stats.ready} consumers:{stats.consumers}")
    ctx.obj.echo_ok()


@amqp.command(name="queue.purge", cls=CeleryCommand)
@click.argument("queue")
@click.pass_context
@handle_preload_options
def queue_purge(ctx: click.Context, queue: str) -> None:
    """Delete the messages that wait in a queue."""
    count = ctx.obj.app.broker.purge(queue)
    ctx.obj.respond(f"{count} {'message' if count == 1 else 'messages'} deleted.")
    ctx.obj.echo_ok()


@amqp.command(name="queue.delete", cls=CeleryCommand)
@click.argument("queue")
@click.argument("if_unused", type=bool, default=False)
@click.argument("if_empty", type=bool, default=False)
@click.pass_context
@handle_preload_options
def queue_delete(ctx: click.Context, queue: str, if_unused: bool, if_empty: bool) -> None:
    """Delete a queue: its waiting messages, after which nothing is left of it here."""
    broker = ctx.obj.app.broker
    [stats] = broker.stats([queue]) or [None]
    if stats is not None and if_unused and stats.consumers:
        raise CommandError(f"The queue {queue!r} is used by {stats.consumers} workers.")
    if stats is not None and if_empty and stats.ready:
        raise CommandError(f"The queue {queue!r} is not empty: {stats.ready} messages are ready.")
    count = broker.purge(queue)
    ctx.obj.respond(f"{count} {'message' if count == 1 else 'messages'} deleted.")
    ctx.obj.echo_ok()


@amqp.command(name="basic.get", cls=CeleryCommand)
@click.argument("queue")
@click.argument("no_ack", type=bool, default=False)
@click.pass_context
@handle_preload_options
def basic_get(ctx: click.Context, queue: str, no_ack: bool) -> None:
    """Take a message: it comes back when this session ends, unless it is acknowledged."""
    broker = ctx.obj.app.broker
    consumer = broker.consumer([queue], name="celery-amqp")
    [delivery] = consumer.claim(1) or [None]
    if delivery is None:
        consumer.close()
        ctx.obj.respond(dump_message(None))
        ctx.obj.echo_ok()
        return
    message = decode_envelope(delivery.envelope)
    tag = str(delivery.tag)
    said = dump_message(message)
    if isinstance(said, dict):
        said = {**said, "delivery_info": {"queue": queue, "delivery_tag": tag, "redelivered": delivery.redelivered}}
    if no_ack:
        consumer.settle([Settlement(delivery)])
        consumer.close()
    else:
        ctx.obj.taken[tag] = consumer, delivery
    ctx.obj.respond(said)
    ctx.obj.echo_ok()


@amqp.command(name="basic.ack", cls=CeleryCommand)
@click.argument("delivery_tag")
@click.pass_context
@handle_preload_options
def basic_ack(ctx: click.Context, delivery_tag: str) -> None:
    """Acknowledge a message that `basic.get` took in this session."""
    found = ctx.obj.taken.pop(delivery_tag, None)
    if found is None:
        raise CommandError(f"No message {delivery_tag!r} was taken in this session.")
    consumer, delivery = found
    [kept] = consumer.settle([Settlement(delivery)])
    consumer.close()
    if not kept:
        raise CommandError("The message had been given to somebody else meanwhile.")
    ctx.obj.echo_ok()


@amqp.command(name="basic.publish", cls=CeleryCommand)
@click.argument("message")
@click.argument("exchange", default="")
@click.argument("routing_key", default="")
@click.argument("mandatory", type=bool, default=False)
@click.argument("immediate", type=bool, default=False)
@click.pass_context
@handle_preload_options
def basic_publish(
    ctx: click.Context, message: str, exchange: str, routing_key: str, mandatory: bool, immediate: bool
) -> None:
    """Send a message: through an exchange of the configured queues, or with '' to the queue ROUTING_KEY."""
    body = Message(
        headers={},
        properties={"delivery_mode": 2, "delivery_info": {"exchange": exchange, "routing_key": routing_key}},
        body=message.encode(),
        content_type="text/plain",
        content_encoding="utf-8",
    )
    ctx.obj.app.broker.publish([Outgoing(encode_envelope(body), routing_key or exchange, exchange)])
    ctx.obj.echo_ok()


def _without_exchanges(name: str, *arguments: str) -> Any:
    def command(ctx: click.Context, **given: Any) -> None:
        raise CommandError(NO_EXCHANGES)

    command.__doc__ = "Not on brokers without exchanges."
    made: Any = click.pass_context(command)
    for argument in reversed(arguments):
        made = click.argument(argument, required=False)(made)
    return amqp.command(name=name, cls=CeleryCommand)(made)


exchange_declare = _without_exchanges("exchange.declare", "exchange", "type", "passive", "durable", "auto_delete")
exchange_delete = _without_exchanges("exchange.delete", "exchange", "if_unused")
queue_bind = _without_exchanges("queue.bind", "queue", "exchange", "routing_key")
