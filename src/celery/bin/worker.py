"""`celery worker`: run tasks."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

from celery import signals
from celery.bin.background import Waiting, become, goes_into_background, run_in_background
from celery.bin.background import detach as detach
from celery.bin.base import (
    COMMA_SEPARATED_LIST,
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    CommandError,
    ParamType,
    handle_preload_options,
    locate,
)
from celery.bin.reload import folders, reloads, watch_and_run
from celery.drivers import known
from celery.exceptions import BackendError, BrokerError, ImproperlyConfigured
from celery.platforms import EX_OK, IS_WINDOWS
from celery.utils.log import get_logger
from celery.utils.nodenames import default_nodename, host_format, node_format
from celery.worker.options import autoscale_of

logger = get_logger(__name__)

WORKER, POOL, QUEUE, FEATURES, BEAT = (
    "Worker Options", "Pool Options", "Queue Options", "Features", "Embedded Beat Options",
)  # fmt: skip
POOLS = ("prefork", "eventlet", "gevent", "asyncio", "solo", "processes", "threads", "custom")
C_FAKEFORK = os.environ.get("C_FAKEFORK")


class WorkersPool(ParamType):
    """The name of a pool: Celery's, or one that another package brought."""

    name = "pool"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(POOLS)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "custom":
            return os.environ.get("CELERY_CUSTOM_WORKER_POOL") or self.fail(
                "'custom' is what CELERY_CUSTOM_WORKER_POOL names, and it is not set.", param, ctx
            )
        names = [*POOLS, *known("pool")]
        if value not in names and not {":", "."} & set(value):  # module:Class
            self.fail(f"{value!r} is not one of {', '.join(map(repr, dict.fromkeys(names)))}.", param, ctx)
        return value


class Hostname(ParamType):
    """A node name, in which %h is the full host name, %n its first part and %d its domain."""

    name = "hostname"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return host_format(default_nodename(value))


class Concurrency(ParamType):
    """A number of slots, or `auto`: what the machine or its container gives."""

    name = "concurrency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int) or value == "auto":
            return value
        if not value.isdecimal():
            self.fail(f"must be a number of 1 or more, or 'auto', got {value!r}", param, ctx)
        return int(value)


class Autoscale(ParamType):
    """Most and fewest slots: two whole numbers, or one."""

    name = "<max workers>, <min workers>"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return autoscale_of(value)
        except ImproperlyConfigured as error:
            self.fail(str(error), param, ctx)


class CeleryBeat(ParamType):
    """Whether the worker also sends the periodic tasks: not on systems without processes of that kind."""

    name = "beat"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value and IS_WINDOWS:
            self.fail("-B does not work on Windows: run `celery beat` as a program of its own.", param, ctx)
        return value


CELERY_BEAT, WORKERS_POOL, HOSTNAME, AUTOSCALE = CeleryBeat(), WorkersPool(), Hostname(), Autoscale()


@click.command(cls=CeleryDaemonCommand, context_settings={"allow_extra_args": False})
@click.option(
    "-n",
    "--hostname",
    cls=CeleryOption,
    type=HOSTNAME,
    help_group=WORKER,
    help="Name of this node, such as w1@%h; %h is the host name, %n its first part, %d its domain.",
)
@click.option("-D", "--detach", cls=CeleryOption, is_flag=True, help_group=WORKER, help="Run in the background.")
@click.option(
    "-S",
    "--statedb",
    cls=CeleryOption,
    type=click.Path(),
    help_group=WORKER,
    help="File that keeps revocations from one run to the next; the broker keeps them as well.",
)
@click.option(
    "-l",
    "--loglevel",
    cls=CeleryOption,
    type=LOG_LEVEL,
    default="WARNING",
    help_group=WORKER,
    help="Least level that is logged.",
)
@click.option(
    "-O",
    "--optimization",
    cls=CeleryOption,
    type=click.Choice(("default", "fair")),
    default="default",
    help_group=WORKER,
    help="fair: a slot gets one task at a time, and no more.",
)
@click.option(
    "--prefetch-multiplier",
    cls=CeleryOption,
    type=click.IntRange(min=0),
    help_group=WORKER,
    help="Tasks held for every slot while tasks are long.",
)
@click.option(
    "--disable-prefetch",
    cls=CeleryOption,
    is_flag=True,
    default=None,
    help_group=WORKER,
    help="Claim a task only when a slot is free.",
)
@click.option(
    "-c",
    "--concurrency",
    cls=CeleryOption,
    type=Concurrency(),
    help_group=POOL,
    help="Slots that run tasks; as many as there are CPUs by default.",
)
@click.option("-P", "--pool", cls=CeleryOption, type=WORKERS_POOL, help_group=POOL, help="What the slots are.")
@click.option(
    "-E",
    "--task-events",
    "--events",
    cls=CeleryOption,
    is_flag=True,
    default=None,
    help_group=POOL,
    help="Send events that monitors can capture.",
)
@click.option(
    "--time-limit", cls=CeleryOption, type=float, help_group=POOL, help="Seconds after which a task is killed."
)
@click.option(
    "--soft-time-limit",
    cls=CeleryOption,
    type=float,
    help_group=POOL,
    help="Seconds after which SoftTimeLimitExceeded is raised in a task.",
)
@click.option(
    "--max-tasks-per-child",
    cls=CeleryOption,
    type=click.IntRange(min=1),
    help_group=POOL,
    help="Tasks after which a process is replaced.",
)
@click.option(
    "--max-memory-per-child",
    cls=CeleryOption,
    type=click.IntRange(min=1),
    help_group=POOL,
    help="KiB of resident memory above which a process is replaced when its task has ended.",
)
@click.option(
    "--pool-start-method",
    cls=CeleryOption,
    type=click.Choice(("fork", "spawn")),
    help_group=POOL,
    help="fork: from a clean template process; spawn: a fresh interpreter each.",
)
@click.option(
    "--purge",
    "--discard",
    cls=CeleryOption,
    is_flag=True,
    help_group=QUEUE,
    help="Delete the messages that wait before starting. There is no undo.",
)
@click.option(
    "-Q",
    "--queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=QUEUE,
    help="Queues to consume; `high:5,low:1` takes five of one for one of the other.",
)
@click.option(
    "-X",
    "--exclude-queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=QUEUE,
    help="Queues not to consume.",
)
@click.option(
    "-I", "--include", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=QUEUE, help="More modules to import."
)
@click.option(
    "--gossip/--without-gossip",
    cls=CeleryOption,
    default=None,
    help_group=FEATURES,
    help="Listen to the heartbeats of other workers, and take part in elections.",
)
@click.option(
    "--mingle/--without-mingle",
    cls=CeleryOption,
    default=None,
    help_group=FEATURES,
    help="At the start ask other workers for their revocations, which takes a second.",
)
@click.option(
    "--without-heartbeat", cls=CeleryOption, is_flag=True, help_group=FEATURES, help="Send no heartbeat events."
)
@click.option(
    "--heartbeat-interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0, min_open=True),
    help_group=FEATURES,
    help="Seconds between heartbeat events, 2 by default.",
)
@click.option(
    "--autoscale",
    cls=CeleryOption,
    metavar="<MAX>,<MIN>",
    type=AUTOSCALE,
    help_group=FEATURES,
    help="Between how many and how many slots there are, by what waits in the queues; -c has no say then.",
)
@click.option(
    "-B",
    "--beat",
    cls=CeleryOption,
    type=CELERY_BEAT,
    is_flag=True,
    help_group=BEAT,
    default=None,
    help="Also send the periodic tasks, as `celery beat` does.",
)
@click.option(
    "--reload",
    cls=CeleryOption,
    is_flag=True,
    help_group=FEATURES,
    help="For development: start anew when a Python file of the project changes (needs celery[reload]).",
)
@click.option(
    "--reload-dir",
    cls=CeleryOption,
    multiple=True,
    type=click.Path(exists=True),
    help_group=FEATURES,
    help="What to watch instead of the current folder and the application's; may be given several times.",
)
@click.option(
    "--health",
    cls=CeleryOption,
    metavar="[HOST]:PORT",
    help_group=FEATURES,
    help="Serve /livez, /readyz, /startupz and /metrics there, or at unix:/PATH.",
)
@click.option(
    "-s",
    "--schedule-filename",
    "--schedule",
    cls=CeleryOption,
    help_group=BEAT,
    help="File that keeps when tasks ran.",
)
@click.option("--scheduler", cls=CeleryOption, help_group=BEAT, help="Scheduler, as for `celery beat -S`.")
@click.pass_context
@handle_preload_options
def worker(
    ctx: click.Context,
    /,
    hostname: str | None,
    detach: bool,
    statedb: str | None,
    loglevel: int,
    logfile: str | None,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: int | None,
    executable: str | None,
    pool: str | None,
    reload: bool,
    reload_dir: tuple[str, ...],
    **options: Any,
) -> None:
    """Start a worker.

    \b
    $ celery -A proj worker -l INFO
    $ celery -A proj worker -l INFO -Q urgent,rest
    $ celery -A proj worker -c 4 -O fair
    """
    if reload and detach:
        raise click.UsageError("--reload is for development, in the foreground: leave out --detach.", ctx)
    if reloads(reload):
        ctx.exit(watch_and_run(folders(ctx.obj.app, reload_dir)))
    if goes_into_background(detach):
        run_in_background(
            logfile=logfile, pidfile=pidfile, uid=uid, gid=gid, umask=umask, executable=executable, hostname=hostname
        )
    waiting = Waiting.of_environment()
    with waiting.hearing():
        become(uid, gid, umask)
        made = _make(
            ctx,
            hostname=hostname,
            pool=pool,
            loglevel=loglevel,
            logfile=logfile,
            pidfile=pidfile and node_format(pidfile, hostname or default_nodename(None)),
            statedb=statedb,
            **options,
        )
        _report(made, waiting)
        import_module("celery.apps.worker").install_rdb_handler()
        try:
            made.start()
        except (BackendError, BrokerError) as error:
            if error.temporary:
                raise
            raise CommandError(str(error)) from error
    ctx.exit(made.exitcode or EX_OK)


def _make(ctx: click.Context, **options: Any) -> Any:
    """The worker with the options that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return ctx.obj.app.Worker(no_color=ctx.obj.no_color or None, quiet=ctx.obj.quiet, **given)
    except (ImportError, SyntaxError) as error:
        raise CommandError(f"A module of tasks could not be imported: {locate(error)}") from error


def _report(made: Any, waiting: Waiting) -> None:
    """Tell who waits that the worker is ready, or that it has to wait for its broker."""

    def ready(**facts: Any) -> None:
        waiting.tell()

    def cannot_connect(error: Exception) -> None:
        waiting.tell(f"{error} The worker, process {os.getpid()}, stays in the background and tries again.")

    signals.worker_ready.connect(ready, weak=False)
    made.on_cannot_connect = cannot_connect
