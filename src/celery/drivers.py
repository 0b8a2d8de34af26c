"""URL or name to driver: the one place that imports by name.

Drivers of others are found by the entry-point groups `celery.brokers`, `celery.result_stores` and `celery.pools`:
the entry's name is the URL scheme (or the pool's name), its object the class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.concurrency.base import BasePool, Pool
from celery.exceptions import ImproperlyConfigured
from celery.utils.deferred import deferred
from celery.utils.plugins import entry_points

if TYPE_CHECKING:
    import difflib

    from celery.concurrency import adapter
else:
    difflib, adapter = deferred("difflib"), deferred("celery.concurrency.adapter")

BRIDGED = frozenset({
    "SLMQ", "SQS", "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "etcd", "filesystem",
    "gcpubsub", "kafka", "mongodb", "pgmq", "pyro", "qpid", "slmq", "sqla", "sqlalchemy", "sqs", "zookeeper",
})  # fmt: skip
"""Schemes of kombu's transports that have no driver of their own here."""
_BRIDGE = "celery.brokers.kombu:KombuBroker"

BROKERS: Mapping[str, str] = {
    **dict.fromkeys(BRIDGED, _BRIDGE),
    "memory": "celery.brokers.memory:MemoryBroker",
    **dict.fromkeys(
        ("redis", "rediss", "sentinel", "unix", "socket", "redis+socket"), "celery.brokers.redis:RedisBroker"
    ),
    **dict.fromkeys(("amqp", "amqps", "pyamqp", "py-amqp", "librabbitmq"), "celery.brokers.rabbitmq:RabbitBroker"),
    "sqlite": "celery.brokers.sqlite:SQLiteBroker",
}
STORES: Mapping[str, str] = {
    **dict.fromkeys(
        ("cache+memcached", "cache+memcache", "cache+pymemcache", "cache+pylibmc"),
        "celery.backends.cache:MemcachedStore",
    ),
    "cache+memory": "celery.backends.memory:MemoryStore",
    "file": "celery.backends.filesystem:FilesystemStore",
    "memory": "celery.backends.memory:MemoryStore",
    **dict.fromkeys(
        ("redis", "rediss", "sentinel", "unix", "socket", "redis+socket"), "celery.backends.redis:RedisStore"
    ),
    "sqlite": "celery.backends.sqlite:SQLiteStore",
}
POOLS: Mapping[str, str] = {
    "asyncio": "celery.concurrency.asyncio:AsyncioPool",
    "eventlet": "celery.concurrency.eventlet:EventletPool",
    "gevent": "celery.concurrency.gevent:GeventPool",
    "prefork": "celery.concurrency.prefork:PreforkPool",
    "processes": "celery.concurrency.prefork:PreforkPool",
    "solo": "celery.concurrency.solo:SoloPool",
    "threads": "celery.concurrency.thread:ThreadPool",
}
DOORS: Mapping[str, str] = {
    "app": "celery.app.base:Celery",
    "beat": "celery.apps.beat:Beat",
    "beat embedded": "celery.beat:EmbeddedService",
    "broadcast": "celery.app.broadcast:broadcast",
    "events": "celery.app.events:Events",
    "main": "celery.bin.celery:main",
    "security": "celery.security:setup_security",
    "tracer": "celery.app.trace:build_tracer",
    "walk_chain": "celery.canvas.shelf:walk_chain",
    "worker": "celery.worker.worker:Worker",
    "worker controller": "celery.worker:WorkController",
}
"""What a lower floor hands out without knowing it: the app's `Worker`, the command line, the default app."""
REDIS = frozenset({"redis", "rediss", "sentinel", "unix", "socket", "redis+socket"})
"""Schemes of Redis, whose drivers take several URLs and options for their connections."""
RABBITMQ = frozenset({"amqp", "amqps", "pyamqp", "py-amqp", "librabbitmq"})
MEMCACHED = frozenset({"cache+memcached", "cache+memcache", "cache+pymemcache", "cache+pylibmc"})
COMING = frozenset({"postgresql"})
"""Drivers of Celery that are still to come, by name."""


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
    name = scheme(url)
    if bridged(url) and name not in _plugins("celery.brokers"):
        name = next(iter(BRIDGED))
    return cast("type[Broker]", _find("broker", name, BROKERS, "celery.brokers"))


def store_class(url: str) -> type[Store]:
    """The result store driver for *url*; raises `ImproperlyConfigured` for an unknown scheme."""
    return cast("type[Store]", _find("result backend", scheme(url), STORES, "celery.result_stores"))


def pool_class(name: str) -> type[Pool]:
    """The pool called *name*, or the class at `module:Class`; raises `ImproperlyConfigured` for an unknown one."""
    if name == "custom":
        name = os.environ.get("CELERY_CUSTOM_WORKER_POOL") or ""
        if not name:
            raise ImproperlyConfigured("Pool 'custom' is what CELERY_CUSTOM_WORKER_POOL names, and it is not set.")
    if ":" in name or "." in name:
        return _load_pool(name)
    try:
        return cast("type[Pool]", _find("pool", name, POOLS, "celery.pools"))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        raise ImproperlyConfigured(
            f"The {name} pool needs the package {name}: pip install 'celery[{name}]'."
        ) from error


def _load_pool(path: str) -> type[Pool]:
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        pool = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"The pool {path!r} cannot be loaded: {error}.") from error
    if isinstance(pool, type) and issubclass(pool, BasePool):
        return adapter.adapt(pool)
    if not (isinstance(pool, type) and issubclass(pool, Pool)):
        raise ImproperlyConfigured(
            f"The pool {path!r} is no subclass of celery.concurrency.base.Pool, nor of its BasePool."
        )
    return pool


def scheme(url: str) -> str:
    """The part of *url* before its first colon; a bare word is its own scheme."""
    return url.partition(":")[0]


def bridged(url: str) -> bool:
    """Whether *url* is for one of kombu's transports: by its scheme, or by the path of a class (`module:Transport://`)."""
    name = scheme(url)
    return name.partition("+")[0] in BRIDGED or ("." in name and "://" in url)


def first_url(urls: str | Sequence[str]) -> str:
    """The first of several URLs, given as a list or separated by semicolons."""
    return (urls if isinstance(urls, str) else ";".join(urls)).partition(";")[0]


def address(urls: str | Sequence[str]) -> str:
    """What the driver of the first of several URLs is given: all of them if it fails over by itself, else the first."""
    joined = urls if isinstance(urls, str) else ";".join(urls)
    return joined if scheme(joined) in REDIS | RABBITMQ else first_url(joined)


def known(kind: str) -> list[str]:
    """Names that can be used for a kind of driver: `broker`, `result backend` or `pool`."""
    table, group = {
        "broker": (BROKERS, "celery.brokers"),
        "result backend": (STORES, "celery.result_stores"),
        "pool": (POOLS, "celery.pools"),
    }[kind]
    return sorted({*table, *_plugins(group)}, key=str.lower)


@cache
def _plugins(group: str) -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group)}


def _find(kind: str, name: str, table: Mapping[str, str], group: str) -> type:
    path = table.get(name)
    if path is not None:
        module, _, attribute = path.partition(":")
        return cast("type", getattr(import_module(module), attribute))
    plugin = _plugins(group).get(name)
    if plugin is not None:
        return cast("type", plugin.load())
    names = known(kind)
    if name.partition("+")[0] in COMING:
        raise ImproperlyConfigured(
            f"The {kind} {name!r} comes with a later version of Celeriac; this one has {', '.join(names)}."
        )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}."
    raise ImproperlyConfigured(f"There is no {kind} called {name!r}; {hint}")
