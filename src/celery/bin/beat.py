"""`celery beat`: send the periodic tasks of the application when they are due."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from celery.app.home import state_folder
from celery.bin.background import Waiting, become, goes_into_background, run_in_background
from celery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    CommandError,
    handle_preload_options,
    locate,
)
from celery.exceptions import BackendError, BrokerError, ImproperlyConfigured
from celery.utils.nodenames import default_nodename, node_format
from celery.utils.pidfiles import LockFailed, Pidfile, is_running

HEADING = "Beat Options"
PATIENCE = 30.0
"""Seconds that beats may take to end after `--stop`."""


@click.command(cls=CeleryDaemonCommand, context_settings={"allow_extra_args": False})
@click.option(
    "--detach", cls=CeleryOption, is_flag=True, default=False, help_group=HEADING, help="Run in the background."
)
@click.option(
    "--stop",
    cls=CeleryOption,
    is_flag=True,
    help_group=HEADING,
    help="Stop the beat of --pidfile, else every beat that this user runs for this application on this machine.",
)
@click.option(
    "-s",
    "--schedule",
    cls=CeleryOption,
    help_group=HEADING,
    help="File that keeps when tasks ran; a suffix such as .db may be added to its name.",
)
@click.option(
    "-S",
    "--scheduler",
    cls=CeleryOption,
    help_group=HEADING,
    help="Scheduler: module:Class, or the name of one that a package brought.",
)
@click.option("--max-interval", cls=CeleryOption, type=int, help_group=HEADING, help="Seconds it sleeps at most.")
@click.option(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    cls=CeleryOption,
    default=None,
    help_group=HEADING,
    help="Answer `celery inspect ping`, whatever beat_enable_remote_control says.",
)
@click.option(
    "--health",
    cls=CeleryOption,
    metavar="[HOST]:PORT",
    help_group=HEADING,
    help="Serve /livez, /readyz, /startupz and /metrics there, or at unix:/PATH.",
)
@click.option(
    "-n",
    "--hostname",
    cls=CeleryOption,
    help_group=HEADING,
    help="Name under which it answers; celerybeat@%h by default.",
)
@click.option(
    "-l",
    "--loglevel",
    cls=CeleryOption,
    type=LOG_LEVEL,
    default="WARNING",
    help_group=HEADING,
    help="Least level that is logged.",
)
@click.pass_context
@handle_preload_options
def beat(
    ctx: click.Context,
    /,
    detach: bool,
    stop: bool,
    logfile: str | None,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: int | None,
    executable: str | None,
    **options: Any,
) -> None:
    """Send periodic tasks when they are due.

    \b
    $ celery -A proj beat -l INFO
    $ celery -A proj beat --detach --pidfile /run/beat.pid -f /var/log/beat.log
    $ celery -A proj beat --stop
    """
    app = ctx.obj.app
    name = options["hostname"] or default_nodename(None, "celerybeat")
    pidfile = pidfile or app.conf.get("beat_pidfile")
    pidfile = pidfile and node_format(pidfile, name)
    if stop:
        ctx.obj.echo(_stop(app, pidfile))
        return
    if goes_into_background(detach):
        run_in_background(
            logfile=logfile, pidfile=pidfile, uid=uid, gid=gid, umask=umask, executable=executable, hostname=name
        )
    waiting = Waiting.of_environment()
    with waiting.hearing():
        become(uid, gid, umask)
        made = app.Beat(
            logfile=logfile and node_format(logfile, name), pidfile=pidfile, no_color=ctx.obj.no_color or None,
            quiet=ctx.obj.quiet, **options,
        )  # fmt: skip
        made.on_ready = waiting.tell
        mark = _mark(app)
        try:
            made.run()
        except (ImportError, SyntaxError) as error:
            raise CommandError(f"A module of tasks could not be imported: {locate(error)}") from error
        except (BackendError, BrokerError) as error:
            if error.temporary:
                raise
            raise CommandError(str(error)) from error
        finally:
            if mark is not None:
                mark.release()


def _place(app: Any) -> tuple[Path, str]:
    """Where the beats of *app* on this machine are noted, and what the names begin with."""
    return state_folder(), f"{app.main or 'celery'}.beat."


def _mark(app: Any) -> Pidfile | None:
    """Note this process for `--stop`; None where there is no place for notes: then a pid file has to do."""
    try:
        folder, begin = _place(app)
        mark = Pidfile(folder / f"{begin}{os.getpid()}.pid")
        mark.remove_if_stale()
        mark.acquire()
    except (ImproperlyConfigured, LockFailed):
        return None
    return mark


def _stop(app: Any, pidfile: str | None) -> str:
    """Stop beats, and wait until they have ended; what there is to say of it."""
    if pidfile:
        marks = [Pidfile(pidfile)]
    else:
        folder, begin = _place(app)
        marks = [Pidfile(path) for path in sorted(folder.glob(f"{begin}*.pid"))]
    found = [mark.read_pid() for mark in marks if mark.is_live()]
    pids = [pid for pid in found if pid is not None]
    if not pids:
        where = f"by {pidfile}" if pidfile else f"for {app.main!r} by this user on this machine"
        raise CommandError(f"No beat runs {where}.")
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise CommandError(f"Beat, process {pid}, belongs to another user: stop it as that one.") from None
        except ProcessLookupError:
            continue  # it ended just now
    deadline = time.monotonic() + PATIENCE
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            left = ", ".join(str(pid) for pid in pids if is_running(pid))
            raise CommandError(f"Beat was told to stop and still runs after {PATIENCE:g} seconds: process {left}.")
        time.sleep(0.05)
    return f"Stopped beat: process {', '.join(map(str, pids))}."
