"""`celery events`: look at what workers do, as it happens."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import click

from celery.bin.background import Waiting, become, goes_into_background, run_in_background
from celery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    CommandError,
    handle_preload_options,
)
from celery.events.dumper import evdump
from celery.events.snapshot import evcam
from celery.platforms import isatty
from celery.utils.imports import symbol_by_name
from celery.utils.nodenames import default_nodename, node_format
from celery.utils.pidfiles import take_pidfile

DUMPER, SNAPSHOT = "Dumper", "Snapshot"


@click.command(cls=CeleryDaemonCommand)
@click.option("-d", "--dump", cls=CeleryOption, is_flag=True, help_group=DUMPER, help="Print events, a line each.")
@click.option(
    "-c", "--camera", cls=CeleryOption, metavar="CLASS", help_group=SNAPSHOT,
    help="Have this class (proj.Camera) look at the state from time to time.",
)  # fmt: skip
@click.option("-D", "--detach", cls=CeleryOption, is_flag=True, help_group=SNAPSHOT, help="Run in the background.")
@click.option(
    "-F", "--frequency", "--freq", cls=CeleryOption, type=click.FloatRange(min=0, min_open=True), default=1.0,
    show_default=True, help_group=SNAPSHOT, help="Seconds between two looks of the camera.",
)  # fmt: skip
@click.option(
    "-r", "--maxrate", cls=CeleryOption, help_group=SNAPSHOT, help="Looks of the camera at most, such as 10/m."
)
@click.option(
    "-l", "--loglevel", cls=CeleryOption, type=LOG_LEVEL, default="WARNING", help_group=SNAPSHOT,
    help="Least level that is logged.",
)  # fmt: skip
@click.pass_context
@handle_preload_options
def events(
    ctx: click.Context,
    /,
    dump: bool,
    camera: str | None,
    detach: bool,
    frequency: float,
    maxrate: str | None,
    loglevel: int,
    **options: Any,
) -> None:
    """Watch the events of workers: as a live view, printed, or with a camera.

    Workers send events of tasks with -E, or after `celery control enable_events`.

    \b
    $ celery -A proj events
    $ celery -A proj events --dump
    $ celery -A proj events --camera proj.Camera --frequency 10
    """
    app = ctx.obj.app
    if dump:
        _background(options, partial(evdump, app=app), detach=detach)
    elif camera:
        shoot = partial(_shoot, app, camera, freq=frequency, maxrate=maxrate, loglevel=loglevel)
        _background(options, partial(shoot, logfile=_expanded(options["logfile"])), detach=detach)
    else:
        _top(app)


def _background(options: dict[str, Any], run: Any, *, detach: bool) -> None:
    """Run it here, or in the background, as the user and with the files that were asked for."""
    if goes_into_background(detach):
        run_in_background(**options)
    waiting = Waiting.of_environment()
    with waiting.hearing():
        become(options["uid"], options["gid"], options["umask"])
        path = _expanded(options["pidfile"])
        lock = take_pidfile(path) if path else None
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        waiting.tell()
        try:
            run()
        finally:
            if lock is not None:
                lock.release()


def _shoot(app: Any, camera: str, **options: Any) -> None:
    try:
        cls = symbol_by_name(camera)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError(f"There is no camera {camera!r}: {error}. Name a class, such as proj.Camera.") from error
    evcam(cls, app=app, **options)


def _expanded(path: str | None) -> str | None:
    return path and node_format(path, default_nodename(None))


def _top(app: Any) -> None:
    if not (isatty(sys.stdin) and isatty(sys.stdout)):
        raise CommandError("The live view needs a terminal; --dump prints events wherever it is run.")
    try:
        monitor = import_module("celery.events.cursesmon")
    except ImportError as error:
        raise CommandError("This Python has no module curses, which the live view needs; use --dump.") from error
    with suppress(KeyboardInterrupt):
        monitor.evtop(app=app)
