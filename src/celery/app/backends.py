"""From URLs to the broker, the store and the result backend of an app."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, cast

from celery import drivers
from celery.app.home import embedded_url, state_folder
from celery.backends.base import DisabledBackend, ResultBackend
from celery.backends.store import Store
from celery.brokers.base import Broker
from celery.exceptions import ImproperlyConfigured
from celery.local import PromiseProxy
from celery.states import READY_STATES
from celery.utils.imports import symbol_by_name
from celery.utils.iso8601 import parse_iso8601
from celery.utils.plugins import entry_points
from celery.wire.message import Queue

if TYPE_CHECKING:
    from celery.app.base import Celery

UNKNOWN_BACKEND = "Unknown result backend: {0!r}. Did you spell it correctly? ({1!r})"
GROUP = "celery.result_backends"
BACKEND_ALIASES: dict[str, str] = {
    "disabled": "celery.backends.base:DisabledBackend",
    "rpc": "celery.backends.rpc:RPCBackend",
}


def broker_url(app: Celery, url: str | Sequence[str] | None) -> str:
    """*url* (of several: separated by semicolons), or that of the embedded broker where no broker is configured."""
    if url and not isinstance(url, str):
        url = ";".join(url)
    return str(url) if url else embedded_url(app.main or "celery")


def make_broker(app: Celery, url: str | Sequence[str] | None) -> Broker:
    """The driver for *url*, not connected yet.

    Of several URLs the first, unless its driver fails over by itself; the others are for kombu's connections.
    """
    address = drivers.address(broker_url(app, url))
    conf = app.conf
    options: dict[str, Any] = {"lease": conf.worker_lease, "timeout": conf.broker_publish_timeout}
    if conf.broker_use_ssl:
        options["ssl"] = conf.broker_use_ssl
    if drivers.scheme(address) in drivers.REDIS:
        options.update(
            connect_timeout=conf.broker_connection_timeout,
            failover_strategy=conf.broker_failover_strategy,
            limit=conf.broker_pool_limit,
            username=conf.broker_user,
            password=conf.broker_password,
            port=conf.broker_port,
            virtual_host=conf.broker_vhost,
        )
    if drivers.scheme(address) in drivers.RABBITMQ:
        options.update(
            connect_timeout=conf.broker_connection_timeout,
            failover_strategy=conf.broker_failover_strategy,
            heartbeat=conf.broker_heartbeat,
            delay_queue_type=conf.broker_native_delayed_delivery_queue_type,
            login_method=conf.broker_login_method,
            username=conf.broker_user,
            password=conf.broker_password,
            port=conf.broker_port,
            virtual_host=conf.broker_vhost,
        )
    if drivers.bridged(address):
        options.update(
            connect_timeout=conf.broker_connection_timeout,
            heartbeat=conf.broker_heartbeat,
            login_method=conf.broker_login_method,
            username=conf.broker_user,
            password=conf.broker_password,
            port=conf.broker_port,
            virtual_host=conf.broker_vhost,
            spool=lambda: state_folder() / "held",
        )
    options.update(conf.broker_transport_options or {})
    broker = drivers.broker_class(address)(address, options=options)
    known = weakref.ref(app)
    broker.plan = lambda: _planned(known())
    if drivers.scheme(address) in drivers.RABBITMQ or drivers.bridged(address):
        broker.ended = lambda task_id, since: _ended(known(), task_id, since)
        broker.aside = lambda: None if (living := known()) is None else living.store
    return broker


def _ended(app: Celery | None, task_id: str, since: float) -> bool:
    """Whether a store of ours has a result of this task that is not older than *since* (Unix seconds)."""
    if app is None or app.store is None:
        return False
    meta = app.backend.get_task_meta(task_id, cache=False)
    done = meta.get("date_done")
    if meta["status"] not in READY_STATES or done is None:
        return False
    moment = parse_iso8601(done) if isinstance(done, str) else done
    return bool((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() >= since)


def _planned(app: Celery | None) -> list[Queue]:
    """The queues of an application."""
    queues = None if app is None else app.amqp.queues
    return [] if queues is None else queues.apart(queues)


def result_url(app: Celery) -> str | None:
    """Where results are: `result_backend`, else, with the embedded broker, its own file; None for nowhere."""
    conf = app.conf
    given: str | None = conf.result_backend
    if given is None and not conf.broker_write_url:
        return broker_url(app, None)
    if given == "cache":
        cache = conf.cache_backend
        if not cache:
            raise ImproperlyConfigured(
                "result_backend is 'cache': say which in cache_backend, such as memcached://host."
            )
        return f"cache+{cache}" if "://" in cache else f"cache+{cache}://"
    return given


def make_backend(app: Celery, *, store_later: bool = False) -> Any:
    """The result backend of *app*.

    *store_later*: a store of ours is made, and its driver imported, when something is asked of it.  What is wrong with
    its URL is then said no earlier.
    """
    given = app.backend_cls or result_url(app)
    if not given or given == "disabled" or (isinstance(given, str) and given.startswith("disabled://")):
        return DisabledBackend(app=app)
    if not isinstance(given, str):
        return given(app=app)
    if store_later and _is_built_in(given, app.loader):
        return ResultBackend(cast("Store", PromiseProxy(_make_store, (app, given))), app, url=given)
    cls, url = by_url(given, app.loader)
    if issubclass(cls, Store):
        return ResultBackend(cls(url or given, options=store_options(app, url or given)), app)
    return cls(app=app, url=url)


def _make_store(app: Celery, url: str) -> Store:
    return drivers.store_class(url)(url, options=store_options(app, url))


def _is_built_in(url: str, loader: Any) -> bool:
    """Whether *url* leads to a store of ours, and nobody has put another backend in its place."""
    name = drivers.scheme(url)
    overridden = name in (getattr(loader, "override_backends", None) or {})
    return name in drivers.STORES and not overridden and all(name != entry.name for entry in entry_points(GROUP))


def store_options(app: Celery, url: str) -> dict[str, Any]:
    """`result_backend_transport_options`, and the settings of Redis for a store of that kind."""
    conf = app.conf
    options: dict[str, Any] = {}
    if drivers.scheme(url) in drivers.REDIS:
        options.update(
            client_name=conf.get("redis_client_name"),
            credential_provider=conf.get("redis_backend_credential_provider"),
            health_check_interval=conf.get("redis_backend_health_check_interval"),
            host=conf.redis_host,
            limit=conf.redis_max_connections,
            password=conf.redis_password,
            port=conf.redis_port,
            socket_connect_timeout=conf.redis_socket_connect_timeout,
            socket_timeout=conf.redis_socket_timeout,
            ssl=conf.redis_backend_use_ssl,
            username=conf.redis_username,
            virtual_host=conf.redis_db,
        )
    if drivers.scheme(url) in drivers.MEMCACHED:
        options.update(conf.cache_backend_options or {})
    if drivers.scheme(url) == "file":
        expires = conf.result_expires
        options["expires"] = expires.total_seconds() if isinstance(expires, timedelta) else expires
    options.update(conf.result_backend_transport_options or {})
    return options


def by_name(backend: str | None = None, loader: Any = None, extension_namespace: str = GROUP) -> Any:
    """The class of a result backend, or of a store, by its name, URL scheme or `module:Class`."""
    name = backend or "disabled"
    aliases: dict[str, str] = {**BACKEND_ALIASES, **(getattr(loader, "override_backends", None) or {})}
    if name in aliases:
        return symbol_by_name(aliases[name])
    for entry in entry_points(extension_namespace):
        if entry.name == name:
            return entry.load()
    if ":" in name or "." in name:
        try:
            return symbol_by_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImproperlyConfigured(UNKNOWN_BACKEND.format(name, error)) from error
    return drivers.store_class(name)


def by_url(backend: str | None = None, loader: Any = None) -> tuple[Any, str | None]:
    """(class, URL) of a result backend; `scheme+transport://…` is the scheme's with the URL of the transport."""
    url = None
    if backend and "://" in backend:
        url = backend
        scheme = url.partition("://")[0]  # may be `module:Class+redis`
        if "+" in scheme and scheme not in drivers.STORES:
            scheme, _, url = url.partition("+")
        backend = scheme
    return by_name(backend, loader), url


__all__ = ["BACKEND_ALIASES", "UNKNOWN_BACKEND", "by_name", "by_url"]
