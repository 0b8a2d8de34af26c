"""What the commands share: their context, options in named groups, parameter types and how mistakes are told."""

from __future__ import annotations

import json
import logging
import numbers
import os
import pprint
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, update_wrapper
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from celery.exceptions import BackendError, BrokerError, CeleryError
from celery.platforms import EX_CANTCREAT, EX_FAILURE, EX_UNAVAILABLE, LockFailed

if TYPE_CHECKING:
    from celery.app.base import Celery

    ParamType = click.ParamType[Any]
    Choice = click.Choice[str]
else:  # older releases of click have no parameters for these
    ParamType, Choice = click.ParamType, click.Choice

F = TypeVar("F", bound=Callable[..., Any])


class CLIContext:
    """What the global options say: `ctx.obj` in every command."""

    def __init__(self, app: Celery | Any, no_color: bool, workdir: str | None, quiet: bool = False) -> None:
        self.app = app
        self.no_color = no_color
        self.workdir = workdir
        self.quiet = quiet

    @cached_property
    def OK(self) -> str:  # noqa: N802 - the name commands of others use
        return self.style("OK", fg="green", bold=True)

    @cached_property
    def ERROR(self) -> str:  # noqa: N802
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any = None, **style: Any) -> str:
        return str(message) if self.no_color else click.style(message, **style)

    def secho(self, message: str | None = None, **style: Any) -> None:
        if self.no_color:
            style["color"] = False
        click.secho(message, **style)

    def echo(self, message: str | None = None, **options: Any) -> None:
        if self.no_color:
            options["color"] = False
        click.echo(message, **options)

    def error(self, message: str | None = None, **options: Any) -> None:
        self.echo(message, err=True, **options)

    def pretty(self, n: Any) -> tuple[str, str]:
        """A reply of a worker as (OK or ERROR, text)."""
        if isinstance(n, list):
            return self.OK, self.pretty_list(n)
        if isinstance(n, dict):
            if n.keys() & {"ok", "error"}:
                return self.pretty_dict_ok_error(n)
            text = json.dumps(n, sort_keys=True, indent=4, default=repr)
            return self.OK, text
        return self.OK, n if isinstance(n, str) else pprint.pformat(n)

    def pretty_list(self, n: Sequence[Any]) -> str:
        if not n:
            return "- empty -"
        return "\n".join(f"{self.style('*', fg='white')} {item}" for item in n)

    def pretty_dict_ok_error(self, n: Mapping[str, Any]) -> tuple[str, str]:
        if "ok" in n:
            return self.OK, self.pretty(n["ok"])[1]
        return self.ERROR, self.pretty(n["error"])[1]

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """One line of a conversation with a worker, with what it said below it."""
        if direction == "<-" and self.quiet:
            return
        arrow = "" if self.quiet else f"{self.style(direction, fg='white', bold=True)} "
        self.echo(f"{arrow} {title}")
        if body and show_body:
            self.echo("\n".join(f"        {line}".rstrip() for line in body.splitlines()))


def handle_preload_options(f: F) -> F:
    """Send the signal `user_preload_options` with the options of a command before it runs."""

    def caller(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        app = ctx.obj.app
        names = [option.name for option in app.user_options.get("preload", ())]
        if names:
            signals = import_module("celery.signals")
            signals.user_preload_options.send(
                sender=f, app=app, options={name: kwargs.pop(name) for name in names if name in kwargs}
            )
        return f(ctx, *args, **kwargs)

    return update_wrapper(caller, f)  # type: ignore[return-value]


consume_preload_options = handle_preload_options


def highlight(s: str, *args: Any, **kwargs: Any) -> str:
    """The text as it is: what is printed here has colours only of `CLIContext.style`."""
    return s


def handle_remote_command_error(command: str, exc: Exception) -> None:
    """Raise what the command line says when a command could not be sent to workers, or its answers not be read."""
    said = explain(exc)
    raise CommandError(f"{command}: {said.format_message()}", getattr(said, "exit_code", EX_FAILURE)) from exc


class CeleryOption(click.Option):
    """An option that is listed under a heading of its own, `help_group`.

    `default_value_from_context` names an attribute of the application's configuration that gives the default.
    """

    def __init__(
        self, *args: Any, help_group: str | None = None, default_value_from_context: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.help_group = help_group
        self.default_value_from_context = default_value_from_context

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        if self.default_value_from_context:
            self.default = ctx.obj[self.default_value_from_context]
        return super().get_default(ctx, call)


class CeleryCommand(click.Command):
    """A command whose options are listed by `help_group`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                group = getattr(parameter, "help_group", None)
                groups.setdefault(group.capitalize() if group else "Options", []).append(row)
        for heading in sorted(groups, key=lambda heading: heading == "Options"):
            with formatter.section(heading.title()):
                formatter.write_dl(groups[heading])


class DaemonOption(CeleryOption):
    """An option of programs that run in the background; the setting of the same name gives its default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.configured)
        super().__init__(*args, **kwargs)

    @staticmethod
    def configured(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        """*value*, or what the setting says: `worker_logfile` for the option `--logfile` of `celery worker`."""
        if value is not None:
            return value
        said = ctx.obj.app.conf.get(f"{ctx.command.name}_{param.name}")
        return None if said is None else param.type.convert(said, param, ctx)


class CommaSeparatedList(ParamType):
    """`a,b` as a list."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


class _Json(ParamType):
    kind: ClassVar[type]
    article: ClassVar[str]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}. Quote it for the shell: {self.example}", param, ctx)
        if not isinstance(parsed, self.kind):
            self.fail(f"{value} was not {self.article}, for example {self.example}", param, ctx)
        return parsed

    example: ClassVar[str]


class JsonArray(_Json):
    """A JSON array."""

    name = "json array"
    kind, article, example = list, "an array", "'[1, 2]'"


class JsonObject(_Json):
    """A JSON object."""

    name = "json object"
    kind, article, example = dict, "an object", "'{\"x\": 1}'"


class ISO8601DateTime(ParamType):
    """A point in time."""

    name = "iso-86091"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no time in ISO 8601, for example 2030-12-31T23:59:00+00:00", param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A point in time, or seconds from now."""

    name = "iso-86091 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, numbers.Real):
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(Choice):
    """The name of a log level, in any case, as its number."""

    def __init__(self) -> None:
        super().__init__(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"), case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        return logging.getLevelNamesMapping()[super().convert(value, param, ctx).upper()]


class Octal(ParamType):
    """A number in octal."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if isinstance(value, int) else int(value, 8)
        except ValueError:
            self.fail(f"{value!r} is no octal number, for example 022", param, ctx)


JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
COMMA_SEPARATED_LIST = CommaSeparatedList()
OCTAL = Octal()


class CeleryDaemonCommand(CeleryCommand):
    """A command that can run in the background."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            DaemonOption(("--logfile", "-f"), help="Log destination; defaults to stderr."),
            DaemonOption(("--pidfile",), help="File to write the process id to; none by default."),
            DaemonOption(("--uid",), help="User to run as."),
            DaemonOption(("--gid",), help="Group to run as."),
            DaemonOption(("--umask",), type=OCTAL, help="Mask of the files and folders that are created, in octal."),
            DaemonOption(("--executable",), help="Python executable to run with."),
        ]


class CommandError(click.ClickException):
    """One sentence for the user, and an exit code."""

    def __init__(self, message: str, exit_code: int = EX_FAILURE) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code


def user_errors() -> tuple[type[BaseException], ...]:
    """The errors that a user can do something about: told in one sentence, without a traceback.

    Evaluated only when something was raised, so that no command loads kombu for its error classes.
    """
    kombu = sys.modules.get("kombu.exceptions")
    foreign = (kombu.KombuError,) if kombu else ()
    return (BackendError, CeleryError, LockFailed, *foreign)


def locate(error: BaseException) -> str:
    """*error* with the line of the user's code that it comes from, for what is imported."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    return f"{type(error).__name__}: {error} ({own[-1].filename}, line {own[-1].lineno})"


def explain(error: BaseException) -> click.ClickException:
    """*error* as the command line tells it."""
    if isinstance(error, click.ClickException):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return CommandError(f"{error.filename}: {error.strerror}")
    sentence = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    if isinstance(error, LockFailed) and isinstance(error.__cause__, OSError) and error.__cause__.filename:
        sentence = f"{error.__cause__.filename}: {error.__cause__.strerror}"
    kombu = sys.modules.get("kombu.exceptions")
    if isinstance(error, LockFailed):
        return CommandError(sentence, EX_CANTCREAT)
    unavailable = isinstance(error, BrokerError | BackendError) or (
        kombu is not None and isinstance(error, kombu.OperationalError)
    )
    return CommandError(sentence, EX_UNAVAILABLE if unavailable else EX_FAILURE)


def table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """Columns as wide as what is in them; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(text[column]) for text in [list(headings), *texts]) for column in range(len(headings))]
    right = [
        bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(headings))
    ]
    lines = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in cells).rstrip()
        for cells in (zip(text, widths, right, strict=True) for text in [list(headings), *texts])
    ]
    return "\n".join(lines)


def age(seconds: float | None) -> str:
    """Seconds as a person says them; `-` for None."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def environment(name: str, value: object) -> None:
    """Hand a global option on to everything that is imported later, and to child processes."""
    if value:
        os.environ[name] = str(value)
