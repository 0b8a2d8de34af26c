"""Programs in the background: how one gets there, and how it tells who started it whether it works.

`celery worker -D` forks twice and becomes, with the same arguments, a program of its own without a terminal.  The
command that was typed waits until that program says that it is ready, or why it is not, and ends accordingly: what is
wrong is told where somebody reads it.  After that the program is alone with its log file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from celery.bin.base import CommandError, explain, user_errors
from celery.platforms import EX_FAILURE, EX_OK, DaemonContext, detached, maybe_drop_privileges
from celery.utils.nodenames import default_nodename, node_format
from celery.utils.program import command, started_in

FOREGROUND = "C_FAKEFORK"
"""Set in the environment of a program that is to stay in the foreground although it is told to detach."""
DETACHED = "CELERY_DETACHED"
"""The process that is in the background already: its arguments still say that it is to go there."""
WAITING = "CELERY_DETACHED_TELL"
"""The descriptor of a pipe at whose other end somebody waits."""


def goes_into_background(asked: bool) -> bool:
    """Whether a program that was *asked* to detach has to do so now."""
    return asked and not os.environ.get(FOREGROUND) and os.environ.get(DETACHED) != str(os.getpid())


def detach(
    path: str,
    argv: Sequence[str],
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
    umask: int | str | None = None,
    workdir: str | None = None,
    fake: bool = False,
    app: Any = None,
    executable: str | None = None,
    hostname: str | None = None,
) -> int:
    """Become, detached from the terminal, the program *path* (or *executable*) with *argv*: the caller's process ends.

    What it writes to its standard streams goes to *logfile*, or nowhere.  Returns an exit code if that was not
    possible; raises the system's error if a file cannot be written, SystemExit if the program runs already.
    """
    name = hostname or default_nodename(None)
    log = logfile and os.path.abspath(node_format(logfile, name))  # noqa: PTH100 - of a folder that is left
    pid = pidfile and os.path.abspath(node_format(pidfile, name))  # noqa: PTH100
    program = executable or path
    fake = fake or bool(os.environ.get(FOREGROUND))
    with _context(log, pid, uid, gid, umask, workdir or str(Path.cwd()), fake):
        os.environ[DETACHED] = str(os.getpid())
        if not fake:
            _write_to(log)
        try:
            os.execv(program, [program, *argv])  # noqa: S606 - what the caller asked for
        except OSError as error:
            raise CommandError(f"{program} cannot be run: {error.strerror}.") from error
    return EX_FAILURE


def _context(*options: Any) -> DaemonContext:
    try:
        return detached(*options)
    except KeyError as error:
        raise CommandError(f"{error.args[0]}.") from error


def _write_to(log: str | None) -> None:
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if log else os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(target, number)
    os.close(target)


def run_in_background(**options: Any) -> NoReturn:
    """Run this very program in the background, and leave with what it says of its start. *options* are `detach`'s."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.set_inheritable(writer, True)
        os.environ[WAITING] = str(writer)
        _vanish(Waiting(writer), options)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    if not said:
        where = f": its log is {options['logfile']}" if options.get("logfile") else ""
        raise CommandError(f"The program has ended before it was ready{where}.")
    told = json.loads(said)
    if told["code"]:
        raise CommandError(told["text"], told["code"]) if told["text"] else SystemExit(told["code"])
    if told["text"]:
        click.echo(told["text"], err=True)
    raise click.exceptions.Exit(EX_OK)


def _vanish(waiting: Waiting, options: dict[str, Any]) -> NoReturn:
    """The life of the child that becomes the program: on its way nobody but *waiting* hears of it."""
    arguments = command()
    code = EX_FAILURE
    try:
        with waiting.hearing():
            code = detach(arguments[0], arguments[1:], workdir=started_in(), **options)
    except BaseException:  # noqa: BLE001 - it has been told
        os._exit(EX_FAILURE)
    os._exit(code)


class Waiting:
    """Whoever started this program, and waits to hear whether it works. Says nothing twice."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    @classmethod
    def of_environment(cls) -> Waiting:
        """Who waits for this process; nobody, as a rule."""
        said = os.environ.pop(WAITING, "")
        if os.environ.get(DETACHED) != str(os.getpid()) or not said.isdecimal():
            return cls()
        os.set_inheritable(int(said), False)
        return cls(int(said))

    def tell(self, text: str = "", code: int = EX_OK) -> None:
        """Say that it works, with a remark, or, with a *code*, why it does not."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.write(descriptor, json.dumps({"code": code, "text": text}).encode())
            os.close(descriptor)

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Let it hear of what ends the program inside."""
        try:
            yield
        except click.exceptions.Exit as end:
            self.tell(code=end.exit_code)
            raise
        except SystemExit as end:
            self.tell(code=end.code if isinstance(end.code, int) else EX_FAILURE)
            raise
        except BaseException as error:
            if isinstance(error, (click.ClickException, OSError, *user_errors())):
                told = explain(error)
                self.tell(told.format_message(), told.exit_code)
            else:
                self.tell(f"{type(error).__name__}: {error}", EX_FAILURE)
            raise


def become(uid: str | None, gid: str | None, umask: int | None) -> None:
    """Change user, group and mask as a program of the background is told to."""
    if umask is not None:
        os.umask(umask)
    if uid or gid:
        try:
            maybe_drop_privileges(uid=uid, gid=gid)
        except KeyError as error:
            raise CommandError(f"{error.args[0]}.") from error


__all__ = ["DETACHED", "FOREGROUND", "Waiting", "become", "detach", "goes_into_background", "run_in_background"]
