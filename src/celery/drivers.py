"""URL or name to driver: the one place that imports by name.

Drivers of others are found by the entry-point groups `celery.brokers`, `celery.result_stores` and `celery.pools`:
the entry's name is the URL scheme (or the pool's name), its object the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.concurrency.base import Pool
from celery.exceptions import ImproperlyConfigured

BROKERS: Mapping[str, str] = {
    "memory": "celery.brokers.memory:MemoryBroker",
    "sqlite": "celery.brokers.sqlite:SQLiteBroker",
}
STORES: Mapping[str, str] = {
    "cache+memory": "celery.backends.memory:MemoryStore",
    "memory": "celery.backends.memory:MemoryStore",
    "sqlite": "celery.backends.sqlite:SQLiteStore",
}
POOLS: Mapping[str, str] = {
    "prefork": "celery.concurrency.prefork:PreforkPool",
    "processes": "celery.concurrency.prefork:PreforkPool",
    "solo": "celery.concurrency.solo:SoloPool",
    "threads": "celery.concurrency.thread:ThreadPool",
}
DOORS: Mapping[str, str] = {
    "app": "celery.app.base:Celery",
    "beat": "celery.apps.beat:Beat",
    "main": "celery.bin.celery:main",
    "tracer": "celery.app.trace:build_tracer",
    "worker": "celery.worker.worker:Worker",
    "worker controller": "celery.worker:WorkController",
}
"""What a lower floor hands out without knowing it: the app's `Worker`, the command line, the default app."""


def door(name: str) -> Any:
    """The object behind *name* in `DOORS`, as its module has it at this moment.

    Raises `ImproperlyConfigured` when that part is not installed.
    """
    module, _, attribute = DOORS[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImproperlyConfigured(f"This installation has no {module!r}: install the whole package again.") from error


def broker_class(url: str) -> type[Broker]:
    """The broker driver for *url*; raises `ImproperlyConfigured` for an unknown scheme."""
    return cast("type[Broker]", _find("broker", scheme(url), BROKERS, "celery.brokers"))


def store_class(url: str) -> type[Store]:
    """The result store driver for *url*; raises `ImproperlyConfigured` for an unknown scheme."""
    return cast("type[Store]", _find("result backend", scheme(url), STORES, "celery.result_stores"))


def pool_class(name: str) -> type[Pool]:
    """The pool called *name*; raises `ImproperlyConfigured` for an unknown one."""
    return cast("type[Pool]", _find("pool", name, POOLS, "celery.pools"))


def scheme(url: str) -> str:
    """The part of *url* before its first colon; a bare word is its own scheme."""
    return url.partition(":")[0]


def known(kind: str) -> list[str]:
    """Names that can be used for a kind of driver: `broker`, `result backend` or `pool`."""
    table, group = {
        "broker": (BROKERS, "celery.brokers"),
        "result backend": (STORES, "celery.result_stores"),
        "pool": (POOLS, "celery.pools"),
    }[kind]
    return sorted({*table, *_plugins(group)})


@cache
def _plugins(group: str) -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _find(kind: str, name: str, table: Mapping[str, str], group: str) -> type:
    path = table.get(name)
    if path is not None:
        module, _, attribute = path.partition(":")
        return cast("type", getattr(import_module(module), attribute))
    plugin = _plugins(group).get(name)
    if plugin is not None:
        return cast("type", plugin.load())
    names = known(kind)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}."
    raise ImproperlyConfigured(f"There is no {kind} called {name!r}; {hint}")
