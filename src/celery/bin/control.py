"""`celery status`, `inspect` and `control`: ask workers, and tell them what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from celery.app.control import flatten_reply
from celery.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    F,
    handle_preload_options,
)
from celery.platforms import EX_FAILURE, EX_UNAVAILABLE
from celery.worker.control import Panel

NOBODY = "No nodes replied within time constraint"
HEADING = "Remote Control Options"
AT_THE_BROKER = frozenset({"pause", "resume"})
"""Commands that are recorded at the broker, whether a worker is up or not."""

TIMEOUT = click.option(
    "-t", "--timeout", cls=CeleryOption, type=float, default=1.0, show_default=True, help_group=HEADING,
    help="Seconds to wait for replies.",
)  # fmt: skip
DESTINATION = click.option(
    "-d", "--destination", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=HEADING,
    help="Only the nodes of these names.",
)  # fmt: skip
JSON = click.option(
    "-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help_group=HEADING, help="Print replies as JSON."
)


def _list(kind: str, ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """What `--list` does: print the commands of *kind* with their arguments, and leave."""
    if not value or ctx.resilient_parsing:
        return
    formatter = click.HelpFormatter()
    with formatter.section(f"{kind.capitalize()} Commands"):
        formatter.write_dl(
            [(_usage(name), meta.help or " ") for name, meta in sorted(Panel.meta.items()) if _is_shown(meta, kind)]
        )
    click.echo(formatter.getvalue(), nl=False)
    ctx.exit()


def _is_shown(meta: Any, kind: str) -> bool:
    return bool(meta.type == kind and meta.visible)


def _usage(name: str) -> str:
    signature = Panel.meta[name].signature
    return f"{name} {signature}" if signature else name


def _listing(kind: str) -> Callable[[F], F]:
    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=partial(_list, kind),
        help=f"List the {kind} commands and leave.",
    )  # fmt: skip


def _find(ctx: click.Context, action: str, kind: str) -> tuple[str, Any]:
    """The name of the command *action*, which may be an alias, and what is known of it."""
    named = (name for name, meta in Panel.meta.items() if action in {name, meta.alias} and meta.type == kind)
    name = next(named, None)
    if name is None:
        names = ", ".join(sorted(name for name, meta in Panel.meta.items() if _is_shown(meta, kind)))
        raise click.UsageError(f"Command {action} not recognized. Available {kind} commands: {names}", ctx)
    return name, Panel.meta[name]


def _arguments(name: str, meta: Any, words: Sequence[str], ctx: click.Context) -> dict[str, Any]:
    """The words of the command line as the arguments that the command declares."""
    declared = list(meta.args or ())
    arguments: dict[str, Any] = {}
    for (argument, convert), word in zip(declared, words, strict=False):
        try:
            arguments[argument] = convert(word) if convert is not None else word
        except (TypeError, ValueError):
            raise click.UsageError(f"{argument} cannot be {word!r}. Usage: {_usage(name)}", ctx) from None
    rest = list(words[len(declared) :])
    missing = (meta.signature or "").count("<") > len(words) or (meta.type == "control" and meta.variadic and not rest)
    if missing:
        raise click.UsageError(f"Too few arguments. Usage: {_usage(name)}", ctx)
    if meta.variadic:
        arguments[meta.variadic] = rest
    elif rest:
        raise click.UsageError(f"Too many arguments: {' '.join(rest)}. Usage: {_usage(name)}", ctx)
    return arguments


def _tell(context: CLIContext, as_json: bool, replies: dict[str, Any] | None, *, show_body: bool = True) -> None:
    """Print what the nodes said and how many there are; nobody is an error of its own."""
    if not replies:
        raise CommandError(NOBODY, EX_UNAVAILABLE)
    if as_json:
        context.echo(json.dumps(replies, default=repr))
        return
    _tell_each(context, replies, show_body)
    context.echo(f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online.")


def _tell_each(context: CLIContext, replies: dict[str, Any], show_body: bool = True) -> None:
    for node, reply in sorted(replies.items()):
        status, body = context.pretty(reply)
        context.say_chat("->", f"{node}: {status}", body, show_body=show_body)


def _refused(replies: dict[str, Any]) -> bool:
    """Whether no node did what it was told."""
    return all(isinstance(reply, dict) and "error" in reply for reply in replies.values())


@click.command(cls=CeleryCommand)
@TIMEOUT
@DESTINATION
@JSON
@click.pass_context
@handle_preload_options
def status(ctx: click.Context, timeout: float, destination: list[str] | None, as_json: bool) -> None:
    """Show the workers that are online."""
    replies = ctx.obj.app.control.inspect(timeout=timeout, destination=destination).ping()
    _tell(ctx.obj, as_json, replies, show_body=False)


@click.command(cls=CeleryCommand)
@click.argument("action", metavar="COMMAND")
@click.argument("words", nargs=-1, metavar="[ARGUMENTS]...")
@TIMEOUT
@DESTINATION
@JSON
@_listing("inspect")
@click.pass_context
@handle_preload_options
def inspect(
    ctx: click.Context,
    action: str,
    words: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Ask the workers COMMAND."""
    action, meta = _find(ctx, action, "inspect")
    arguments = _arguments(action, meta, words, ctx)
    inspector = ctx.obj.app.control.inspect(timeout=max(timeout, meta.default_timeout or 0), destination=destination)
    _tell(ctx.obj, as_json, inspector._request(action, **arguments))


@click.command(cls=CeleryCommand)
@click.argument("action", metavar="COMMAND")
@click.argument("words", nargs=-1, metavar="[ARGUMENTS]...")
@TIMEOUT
@DESTINATION
@JSON
@_listing("control")
@click.pass_context
@handle_preload_options
def control(
    ctx: click.Context,
    action: str,
    words: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Tell the workers COMMAND."""
    action, meta = _find(ctx, action, "control")
    arguments = _arguments(action, meta, words, ctx)
    if action in AT_THE_BROKER:
        getattr(ctx.obj.app.control, action)(**arguments)
        done = {"ok": f"queue {arguments['queue']} is {action}d"}
        ctx.obj.echo(json.dumps(done) if as_json else done["ok"])
        return
    timeout = max(timeout, meta.default_timeout or 0)
    replies = ctx.obj.app.control.broadcast(
        action, timeout=timeout, destination=destination, reply=True, arguments=arguments
    )
    if not replies:
        raise CommandError(NOBODY, EX_UNAVAILABLE)
    said = flatten_reply(replies)
    if as_json:
        ctx.obj.echo(json.dumps(replies, default=repr))
    else:
        _tell_each(ctx.obj, said)
    if _refused(said):
        ctx.exit(EX_FAILURE)
