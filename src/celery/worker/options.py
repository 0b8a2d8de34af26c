"""What a worker was asked to be: its options, completed from the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from celery.concurrency.base import PoolOptions
from celery.exceptions import ImproperlyConfigured
from celery.utils.sysinfo import cpu_budget, is_auto_concurrency
from celery.worker.prefetch import Prefetch

if TYPE_CHECKING:
    from celery.app.base import Celery

WINDOW = 256
HEARTBEAT = 2.0
START_TIMEOUT = 30.0
"""Seconds that a process of the pool gets at least to start: the default of the setting, 4, is often too little."""


OPTION_NAMES = (
    "autoscale", "beat", "concurrency", "detach", "disable_prefetch", "exclude_queues", "executable",
    "heartbeat_interval", "include", "logfile", "loglevel", "max_memory_per_child", "max_tasks_per_child", "no_color",
    "optimization", "pidfile", "pool", "pool_cls", "pool_start_method", "prefetch_multiplier", "purge", "queues",
    "quiet", "schedule_filename", "scheduler", "soft_time_limit", "statedb", "task_events", "time_limit", "umask",
    "without_gossip", "without_heartbeat", "without_mingle",
)  # fmt: skip
"""What receivers of `celeryd_init` find in its `options`, each None unless it was given."""


class WorkerOptions(msgspec.Struct, frozen=True):
    """The options of one worker, every default filled in. Times in seconds, memory in KiB."""

    concurrency: int
    autoscale: tuple[int, int] | None
    """Most and fewest slots; None: there are always `concurrency`."""
    pool: str
    prefetch_multiplier: int
    disable_prefetch: bool
    time_limit: float | None
    soft_time_limit: float | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    pool_start_method: str
    start_timeout: float
    """Seconds that a process may take to be ready."""
    soft_shutdown_timeout: float
    soft_shutdown_on_idle: bool
    task_events: bool
    heartbeat: float | None
    """Seconds between two heartbeats; None: none are sent."""
    gossip: bool
    mingle: bool
    purge: bool
    pidfile: str | None
    statedb: str | None
    health: str | None
    beat: bool
    schedule_filename: str | None
    scheduler: str | None

    def pool_options(self, preload: Iterable[str]) -> PoolOptions:
        """What the pool has to know."""
        return PoolOptions(
            max_tasks=self.max_tasks_per_child,
            max_memory=self.max_memory_per_child,
            start_method=self.pool_start_method,
            start_timeout=self.start_timeout,
            preload=tuple(preload),
            window=1 if self.disable_prefetch else WINDOW,
        )

    def prefetch(self) -> Prefetch:
        return Prefetch(self.prefetch_multiplier, disabled=self.disable_prefetch)


def complete(app: Celery, given: Mapping[str, Any]) -> WorkerOptions:
    """Options as `app.Worker(**given)` got them, completed from the settings of *app*.

    Raises ImproperlyConfigured for what cannot be.
    """
    conf = app.conf
    bounds = autoscale_of(given.get("autoscale"), conf.worker_autoscale_max, conf.worker_autoscale_min)

    pool = _pool_of(given, conf)
    if bounds and pool == "solo":
        raise ImproperlyConfigured("The solo pool has one slot: autoscaling needs another pool.")

    def either(name: str, setting: str) -> Any:
        value = given.get(name)
        return conf[setting] if value is None else value

    fair = str(given.get("optimization") or "default") == "fair"
    return WorkerOptions(
        concurrency=bounds[1] if bounds else concurrency_of(either("concurrency", "worker_concurrency")),
        autoscale=bounds,
        pool=pool,
        prefetch_multiplier=int(either("prefetch_multiplier", "worker_prefetch_multiplier")),
        disable_prefetch=fair or bool(given.get("disable_prefetch") or conf.worker_disable_prefetch),
        time_limit=_seconds(either("time_limit", "task_time_limit")),
        soft_time_limit=_seconds(either("soft_time_limit", "task_soft_time_limit")),
        max_tasks_per_child=either("max_tasks_per_child", "worker_max_tasks_per_child"),
        max_memory_per_child=either("max_memory_per_child", "worker_max_memory_per_child"),
        pool_start_method=_start_method(given, conf),
        start_timeout=max(START_TIMEOUT, _said_elsewhere(), float(conf.worker_proc_alive_timeout or 0.0)),
        soft_shutdown_timeout=float(conf.worker_soft_shutdown_timeout or 0.0),
        soft_shutdown_on_idle=bool(conf.worker_enable_soft_shutdown_on_idle),
        task_events=bool(either("task_events", "worker_send_task_events")),
        heartbeat=None if given.get("without_heartbeat") else float(given.get("heartbeat_interval") or HEARTBEAT),
        gossip=bool(either("gossip", "worker_enable_gossip")) and not given.get("without_gossip"),
        mingle=bool(either("mingle", "worker_enable_mingle")) and not given.get("without_mingle"),
        purge=bool(given.get("purge") or given.get("discard")),
        pidfile=given.get("pidfile"),
        statedb=either("statedb", "worker_state_db"),
        health=either("health", "worker_health"),
        beat=bool(given.get("beat")),
        schedule_filename=given.get("schedule_filename") or given.get("schedule"),
        scheduler=given.get("scheduler") or given.get("scheduler_cls"),
    )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _pool_of(given: Mapping[str, Any], conf: Any) -> str:
    name = given.get("pool") or given.get("pool_cls") or conf.worker_pool or "prefork"
    if isinstance(name, type):
        return f"{name.__module__}:{name.__qualname__}"
    if name == "custom":
        name = os.environ.get("CELERY_CUSTOM_WORKER_POOL")
        if not name:
            raise ImproperlyConfigured("Pool 'custom' needs the environment variable CELERY_CUSTOM_WORKER_POOL.")
    if not isinstance(name, str):
        raise ImproperlyConfigured(f"The pool is given by its name, such as 'prefork', not as {name!r}.")
    return name


def _said_elsewhere() -> float:
    """Programs for Celery before 5.5 set a variable of a module, since there was no setting yet."""
    module = sys.modules.get("celery.concurrency.asynpool")
    return float(getattr(module, "PROC_ALIVE_TIMEOUT", 0.0))


def _start_method(given: Mapping[str, Any], conf: Any) -> str:
    """Forkserver, unless somebody has chosen: the table's default is the original's and says nothing."""
    chosen = given.get("pool_start_method")
    if chosen is None and "worker_pool_start_method" in conf.changes:
        chosen = conf.worker_pool_start_method
    return str(chosen or "forkserver")


def concurrency_of(value: Any) -> int:
    """How many slots: a number, or `auto`, None and 0 for the processors this process may use."""
    if value in {None, 0, "0"} or is_auto_concurrency(value):
        return cpu_budget().count
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ImproperlyConfigured(f"The concurrency is a number of at least 1, or 'auto', not {value!r}.")
    return count


def autoscale_of(value: Any, most: int | None = None, least: int | None = None) -> tuple[int, int] | None:
    """Most and fewest slots: of *value*, as `--autoscale` takes it, else of the settings *most* and *least*.

    A pool has at least one slot: with none it could claim nothing.
    """
    if not value:
        if not most:
            return None
        value = (most, least or 0)
    parts = str(value).split(",") if isinstance(value, str | int) else [str(part) for part in value]
    try:
        numbers = sorted((int(part) for part in parts), reverse=True)
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 2} or min(numbers) < 0 or not numbers[0]:
        raise ImproperlyConfigured(f"Autoscaling takes the most and the fewest slots, as in '10,3', not {value!r}.")
    return numbers[0], max(1, numbers[1] if len(numbers) == 2 else 0)
