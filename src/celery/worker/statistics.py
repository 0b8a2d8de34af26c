"""What a worker says of itself, with the keys of the original."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celery.app.hidden import mask_settings
from celery.concurrency.base import Pool
from celery.drivers import scheme
from celery.worker.banner import masked

if TYPE_CHECKING:
    from celery.worker.options import WorkerOptions


def pool_info(pool: Pool, options: WorkerOptions, started: int, under_way: int) -> dict[str, Any]:
    """The pool, its size and its processes. *started*: how many tasks it was given, *under_way*: has now."""
    known = {
        "implementation": implementation(type(pool)),
        "max-concurrency": pool.size,
        "processes": pool.pids(),
        "max-tasks-per-child": options.max_tasks_per_child or "N/A",
        "put-guarded-by-semaphore": False,
        "timeouts": [options.soft_time_limit or 0, options.time_limit or 0],
    }
    if pool.can.processes:
        known["writes"] = writes(pool.given(), started, under_way)
    elif pool.name == "threads":
        known["threads"] = pool.size
    return known


def implementation(kind: type[Pool]) -> str:
    """Where the pool is found, by its public name."""
    name = "TaskPool" if getattr(sys.modules.get(kind.__module__), "TaskPool", None) is kind else kind.__qualname__
    return f"{kind.__module__}:{name}"


def writes(given: Sequence[int], started: int, under_way: int) -> dict[str, Any]:
    """How many tasks the children were given: in all, on average, and each its share of what those of now had."""
    shares = [count / max(1, sum(given)) for count in given]
    return {
        "total": started,
        "avg": f"{sum(shares) / max(1, len(shares)):.2f}",
        "all": ", ".join(f"{share:.2f}" for share in shares),
        "raw": ", ".join(map(str, given)),
        "strategy": "fair",
        "inqueues": {"total": len(given), "active": under_way},
    }


def broker_info(url: str, conf: Any) -> dict[str, Any]:
    """Where the broker is, without passwords."""
    first, *others = url.split(";")
    parts = urlsplit(first)
    options: Mapping[str, Any] = conf.broker_transport_options or {}
    return {
        "hostname": parts.hostname,
        "userid": parts.username,
        "virtual_host": parts.path.removeprefix("/") or "/",
        "port": parts.port,
        "insist": False,
        "ssl": bool(conf.broker_use_ssl) or parts.scheme == "rediss",
        "transport": scheme(first),
        "connect_timeout": conf.broker_connection_timeout,
        "transport_options": mask_settings(options),
        "login_method": conf.broker_login_method,
        "uri_prefix": None,
        "heartbeat": conf.broker_heartbeat,
        "failover_strategy": str(conf.broker_failover_strategy or "round-robin"),
        "alternates": [masked(other) for other in others],
        "credential_provider": _name(options.get("credential_provider")),
    }


def _name(provider: Any) -> str | None:
    return provider if provider is None or isinstance(provider, str) else type(provider).__qualname__


def rusage() -> dict[str, Any]:
    """What this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")}
