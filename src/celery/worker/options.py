"""What a worker was asked to be: its options, completed from the settings."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from celery.concurrency.base import PoolOptions
from celery.exceptions import ImproperlyConfigured
from celery.worker.prefetch import Prefetch

if TYPE_CHECKING:
    from celery.app.base import Celery

WINDOW = 256
HEARTBEAT = 2.0
CGROUP = Path("/sys/fs/cgroup/cpu.max")
LATER: Mapping[str, str] = {
    "autoscale": "--autoscale",
}


class WorkerOptions(msgspec.Struct, frozen=True):
    """The options of one worker, every default filled in. Times in seconds, memory in KiB."""

    concurrency: int
    pool: str
    prefetch_multiplier: int
    disable_prefetch: bool
    time_limit: float | None
    soft_time_limit: float | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    pool_start_method: str
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
            preload=tuple(preload),
            window=1 if self.disable_prefetch else WINDOW,
        )

    def prefetch(self) -> Prefetch:
        return Prefetch(self.prefetch_multiplier, disabled=self.disable_prefetch)


def complete(app: Celery, given: Mapping[str, Any]) -> WorkerOptions:
    """Options as `app.Worker(**given)` got them, completed from the settings of *app*.

    Raises ImproperlyConfigured for what this version does not do, or cannot.
    """
    for name, said in LATER.items():
        if given.get(name):
            raise ImproperlyConfigured(f"This version of Celeriac has no {said} yet: run the worker without it.")
    conf = app.conf

    def either(name: str, setting: str) -> Any:
        value = given.get(name)
        return conf[setting] if value is None else value

    fair = str(given.get("optimization") or "default") == "fair"
    return WorkerOptions(
        concurrency=concurrency_of(either("concurrency", "worker_concurrency")),
        pool=_pool_of(given, conf),
        prefetch_multiplier=int(either("prefetch_multiplier", "worker_prefetch_multiplier")),
        disable_prefetch=fair or bool(given.get("disable_prefetch") or conf.worker_disable_prefetch),
        time_limit=_seconds(either("time_limit", "task_time_limit")),
        soft_time_limit=_seconds(either("soft_time_limit", "task_soft_time_limit")),
        max_tasks_per_child=either("max_tasks_per_child", "worker_max_tasks_per_child"),
        max_memory_per_child=either("max_memory_per_child", "worker_max_memory_per_child"),
        pool_start_method=_start_method(given, conf),
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
    if name == "custom":
        name = os.environ.get("CELERY_CUSTOM_WORKER_POOL")
        if not name:
            raise ImproperlyConfigured("Pool 'custom' needs the environment variable CELERY_CUSTOM_WORKER_POOL.")
    if not isinstance(name, str):
        raise ImproperlyConfigured(f"The pool is given by its name, such as 'prefork', not as {name!r}.")
    return name


def _start_method(given: Mapping[str, Any], conf: Any) -> str:
    """Forkserver, unless somebody has chosen: the table's default is the original's and says nothing."""
    chosen = given.get("pool_start_method")
    if chosen is None and "worker_pool_start_method" in conf.changes:
        chosen = conf.worker_pool_start_method
    return str(chosen or "forkserver")


def concurrency_of(value: Any) -> int:
    """How many slots: a number, or `auto`, None and 0 for the processors this process may use."""
    if value in {None, 0, "0", "auto"}:
        return processors()
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ImproperlyConfigured(f"The concurrency is a number of at least 1, or 'auto', not {value!r}.")
    return count


def processors(cgroup: Path = CGROUP) -> int:
    """Processors this process may use: by affinity and, in a container, by its quota (rounded up)."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        if quota != "max":
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return count  # no cgroup, or one of another layout: affinity is what is known
    return count
