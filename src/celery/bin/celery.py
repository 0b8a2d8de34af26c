"""`celery`: the global options, the commands by name and how to find the application."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from celery import VERSION_BANNER
from celery.bin.base import (
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    environment,
    explain,
    locate,
    user_errors,
)
from celery.exceptions import CeleryError, ImproperlyConfigured
from celery.utils.deferred import deferred
from celery.utils.plugins import entry_points
from celery.utils.program import remember_folder

if TYPE_CHECKING:
    import difflib
else:
    difflib = deferred("difflib")

COMMANDS = {
    "amqp": "amqp",
    "beat": "beat",
    "call": "call",
    "completion": "completion",
    "control": "control",
    "dead": "dead",
    "doctor": "doctor",
    "events": "events",
    "graph": "graph",
    "health": "health",
    "inspect": "control",
    "list": "list",
    "logtool": "logtool",
    "migrate": "migrate",
    "multi": "multi",
    "purge": "purge",
    "queues": "queues",
    "result": "result",
    "schedule": "schedule",
    "shell": "shell",
    "status": "control",
    "upgrade": "upgrade",
    "worker": "worker",
    "workflow": "workflow",
}
"""Command -> its module in this package; a module is imported when its command is used."""
WITHOUT_APP = frozenset({"completion", "health", "logtool", "multi", "upgrade"})
"""Commands that have no use for the application, so that it is not imported."""
PLUGINS = "celery.commands"
"""Entry points by which other packages add commands."""


class CeleryGroup(click.Group):
    """Loads a command when it is used, and tells a user's mistakes in one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *COMMANDS, *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        if cmd_name in COMMANDS:
            return _command(import_module(f"celery.bin.{COMMANDS[cmd_name]}"), cmd_name)
        plugin = _plugins().get(cmd_name)
        return None if plugin is None else _load_plugin(plugin)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(_unknown(name, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        streams = sys.stdout, sys.stderr
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            misplaced = next((option for option in self.params if error.option_name in option.opts), None)
            if misplaced is None or error.ctx is None:
                raise
            raise click.UsageError(_misplaced(misplaced, error.option_name, error.ctx), error.ctx) from error
        except user_errors() as error:
            raise explain(error) from error
        except OSError as error:
            if error.filename is None:  # nothing that a user named, such as the end of a pipe
                raise
            raise explain(error) from error
        finally:  # a worker makes log records of what is printed; why it could not start is for who started it
            sys.stdout, sys.stderr = streams


def _misplaced(option: click.Parameter, given: str, ctx: click.Context) -> str:
    """What to say of a global *option* that was *given* after a command."""
    names = " (".join(sorted(option.opts, key=len)) + ")" * (len(option.opts) > 1)
    example = f"celery {min(option.opts, key=len)}"
    if not getattr(option, "is_flag", False):
        long = (word.removeprefix(f"{given}=") for word in sys.argv if word.startswith(f"{given}="))
        value = dict(itertools.pairwise(sys.argv)).get(given) or next(long, None)
        example += f" {value or (option.name or '').upper()}"
    return f"{names} is a global option, it comes before the command: {example} {ctx.info_name} ..."


def _command(module: Any, name: str) -> click.Command:
    command: click.Command = getattr(module, name, None) or getattr(module, f"{name}_")
    return command


def _plugins() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(PLUGINS)}


def _load_plugin(entry: Any) -> click.Command:
    try:
        command: click.Command = entry.load()
    except Exception as error:  # noqa: BLE001 - whatever a package of others does, the command line lives on
        problem = f"The command {entry.name!r} of {entry.value} cannot be loaded: {type(error).__name__}: {error}"

        def broken() -> None:
            raise CommandError(problem)

        return click.Command(entry.name, callback=broken, help="Cannot be loaded.")
    return command


def _unknown(name: str, commands: list[str]) -> str:
    near = difflib.get_close_matches(name, commands, n=3, cutoff=0.6)
    hint = "\n\nDid you mean one of these?\n" + "\n".join(f"    {command}" for command in near) if near else ""
    return f"No such command '{name}'.{hint}"


@click.group(cls=CeleryGroup, invoke_without_command=True, context_settings={"help_option_names": ["--help", "-h"]})
@click.option("-A", "--app", envvar="APP", cls=CeleryOption, help="Where the application is: pkg, pkg.module, pkg:app.")
@click.option("-b", "--broker", envvar="BROKER_URL", cls=CeleryOption, help="URL of the broker.")
@click.option("--result-backend", envvar="RESULT_BACKEND", cls=CeleryOption, help="URL of the result backend.")
@click.option("--loader", envvar="LOADER", cls=CeleryOption, help="Class that loads configuration and tasks.")
@click.option("--config", envvar="CONFIG_MODULE", cls=CeleryOption, help="Configuration module.")
@click.option("--workdir", cls=CeleryOption, type=click.Path(exists=True, file_okay=False), help="Folder to work in.")
@click.option("-C", "--no-color", envvar="NO_COLOR", is_flag=True, cls=CeleryOption, help="Plain output.")
@click.option("-q", "--quiet", is_flag=True, cls=CeleryOption, help="Say less.")
@click.option("--version", is_flag=True, is_eager=True, cls=CeleryOption, help="Show the version and leave.")
@click.option(
    "--skip-checks", envvar="SKIP_CHECKS", cls=CeleryOption, is_flag=True, help="Skip Django's checks at start-up."
)
@click.pass_context
def celery(
    ctx: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
    version: bool,
    skip_checks: bool,
) -> None:
    """Distributed tasks: workers, and what there is to ask and tell them."""
    if version:
        click.echo(VERSION_BANNER)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    remember_folder()
    if workdir:
        os.chdir(workdir)
    environment("CELERY_BROKER_URL", broker)
    environment("CELERY_RESULT_BACKEND", result_backend)
    environment("CELERY_LOADER", loader)
    environment("CELERY_CONFIG_MODULE", config)
    environment("CELERY_SKIP_CHECKS", "true" if skip_checks else "")
    found = None if ctx.invoked_subcommand in WITHOUT_APP else _find(ctx, app)
    ctx.obj = CLIContext(found, no_color=no_color, workdir=workdir, quiet=quiet)
    if found is not None:
        _add_user_options(ctx)


def _find(ctx: click.Context, name: str | None) -> Any:
    """The application that `-A` names; without it the one of `app.start()`, else the current one."""
    if not name:
        return ctx.obj or import_module("celery").current_app._get_current_object()
    finder = import_module("celery.app.find")
    try:
        return finder.find_app(name)
    except ImproperlyConfigured as error:
        raise click.BadParameter(str(error), ctx, param_hint="'-A' / '--app'") from error
    except Exception as error:
        sentence = f"{name!r} was found, but importing it failed: {locate(error)}"
        raise click.BadParameter(sentence, ctx, param_hint="'-A' / '--app'") from error


def _add_user_options(ctx: click.Context) -> None:
    """The options that the application adds to commands: `app.user_options`."""
    options = ctx.obj.app.user_options
    command = celery.get_command(ctx, ctx.invoked_subcommand or "")
    if command is not None:
        known = {parameter.name for parameter in command.params}
        added = [*options.get("preload", ()), *options.get(command.name or "", ())]
        command.params += [option for option in added if option.name not in known]


@celery.command(cls=CeleryCommand)
@click.pass_context
def report(ctx: click.Context) -> None:
    """Show what belongs into a bug report."""
    app = ctx.obj.app
    ctx.obj.echo(app.bugreport().rstrip())
    try:
        server = app.broker.describe()
    except CeleryError as error:
        server = str(error)
    if server:
        ctx.obj.echo(f"\nserver   -> {server}")


def main(argv: Sequence[str] | None = None, app: Any = None) -> int:
    """Run the command line of this process; ends in SystemExit.

    With *app* it runs *argv* inside a program, for that app unless `-A` names another: then it returns the exit code,
    and raises click's errors.
    """
    return int(
        celery.main(
            argv if argv is None else list(argv),
            prog_name="celery",
            auto_envvar_prefix="CELERY",
            standalone_mode=app is None,
            obj=app,
        )
        or 0
    )
