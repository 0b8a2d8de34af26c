"""What an app consists of. Each part is made when it is first used, from a class that the app may replace."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from uuid import NAMESPACE_OID, uuid4

from celery import drivers
from celery._state import get_current_task, get_current_worker_task
from celery.app.backends import make_backend, make_broker
from celery.app.connections import Connections
from celery.result import AsyncResult, GroupResult, ResultSet
from celery.utils.digests import uuid3
from celery.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celery.app.amqp import AMQP
    from celery.app.base import Celery
    from celery.app.configuration import Configuration
    from celery.app.lamport import LamportClock
    from celery.app.settings import Settings
    from celery.app.task import Task
    from celery.backends.store import Store
    from celery.brokers.base import Broker

_PROCESS = uuid4().hex


class Parts:
    """The parts of an app, and kombu's connections to its broker for code that uses kombu itself."""

    main: str | None
    configuration: Configuration
    connections: Connections
    _local: threading.local
    _settings: Settings | None = None

    amqp_cls: Any = "celery.app.amqp:AMQP"
    backend_cls: Any = None
    control_cls: Any = "celery.app.control:Control"
    events_cls: Any = None
    """None: `celery.app.events:Events`."""
    log_cls: Any = "celery.app.log:Logging"

    @property
    def conf(self) -> Settings:
        """The settings; reading one reads the configuration."""
        settings = self._settings
        return settings if settings is not None else self.configuration.pending  # type: ignore[return-value]

    @conf.setter
    def conf(self, settings: Settings) -> None:
        self.configuration.settings = self._settings = settings

    @cached_property
    def amqp(self) -> AMQP:
        """Queues, routes and messages."""
        return cast("AMQP", self._part(self.amqp_cls))

    @cached_property
    def broker(self) -> Broker:
        """The broker that is written to."""
        return make_broker(cast("Celery", self), self.conf.broker_write_url)

    def broker_for_read(self) -> Broker:
        """A broker to consume from; the one that is written to where they are the same."""
        conf = self.conf
        if conf.broker_read_url == conf.broker_write_url:
            return self.broker
        return make_broker(cast("Celery", self), conf.broker_read_url)

    @property
    def store(self) -> Store | None:
        """Where results are, if that is a store of ours."""
        store: Store | None = getattr(self.backend, "store", None)
        return store

    @cached_property
    def backend(self) -> Any:
        """The result backend."""
        return make_backend(cast("Celery", self))

    @cached_property
    def control(self) -> Any:
        """Remote control of workers."""
        return self._part(self.control_cls)

    @property
    def clock(self) -> LamportClock:
        """The logical clock of control messages and events."""
        clock: LamportClock = self.control.clock
        return clock

    @cached_property
    def events(self) -> Any:
        """Monitoring events."""
        return self._part(self.events_cls or drivers.door("events"))

    @cached_property
    def log(self) -> Any:
        """Logging of workers and commands."""
        return self._part(self.log_cls)

    def _part(self, cls: Any) -> Any:
        return symbol_by_name(cls)(app=self)

    @cached_property
    def AsyncResult(self) -> type[AsyncResult[Any]]:  # noqa: N802 - the public name
        """`celery.result.AsyncResult` of this app."""
        return cast("type[AsyncResult[Any]]", self.subclass_with_self(AsyncResult))

    @cached_property
    def ResultSet(self) -> type[ResultSet]:  # noqa: N802 - the public name
        return cast("type[ResultSet]", self.subclass_with_self(ResultSet))

    @cached_property
    def GroupResult(self) -> type[GroupResult]:  # noqa: N802 - the public name
        return cast("type[GroupResult]", self.subclass_with_self(GroupResult))

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - the public name
        """The worker of this app: `app.Worker(concurrency=2).start()`."""
        return self.subclass_with_self(drivers.door("worker"))

    @cached_property
    def WorkController(self) -> Any:  # noqa: N802 - the public name
        """A worker inside another program: it takes no signals and writes no banner."""
        return self.subclass_with_self(drivers.door("worker controller"))

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - the public name
        """The scheduler of this app."""
        return self.subclass_with_self(drivers.door("beat"))

    def subclass_with_self(
        self,
        Class: Any,  # noqa: N803 - the public name
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> Any:
        """A subclass of *Class* (or of what its path leads to) that has this app as its *attribute*."""
        base = symbol_by_name(Class)
        attributes = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **kw}
        if reverse and not keep_reduce:
            attributes["__reduce__"] = lambda instance: (_rebuild, (self, reverse, instance.__reduce_args__()))
        return type(name or base.__name__, (base,), attributes)

    @property
    def current_task(self) -> Task[..., Any] | None:
        """The task that runs here."""
        return get_current_task()

    @property
    def current_worker_task(self) -> Task[..., Any] | None:
        """The task that a worker runs here."""
        return get_current_worker_task()

    @cached_property
    def oid(self) -> str:
        """Names this app in this process."""
        return _make_oid(self)

    @property
    def thread_oid(self) -> str:
        """Names this app in this thread: where replies to it go."""
        local = self._local.__dict__
        oid: str | None = local.get("oid")
        if oid is None:
            oid = local["oid"] = _make_oid(self, threading.get_ident())
        return oid

    # -- kombu -------------------------------------------------------------------------------------------------------

    def connection(self, hostname: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """A kombu connection to *hostname* (a URL), or to the broker. It connects when it is used."""
        return self.connection_for_write(hostname, *args, **kwargs)

    broker_connection = connection

    def connection_for_write(self, url: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """A kombu connection to the broker that is written to."""
        return self.connections.connect(url or self.conf.broker_write_url, *args, **kwargs)

    def connection_for_read(self, url: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """A kombu connection to the broker that is read from."""
        return self.connections.connect(url or self.conf.broker_read_url, *args, **kwargs)

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """*connection*, or one of the pool, as a context manager."""
        return self.connections.acquire(connection, pool)

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """*producer*, or one of the pool, as a context manager."""
        return self.connections.acquire_producer(producer)

    default_producer = producer_or_acquire

    @property
    def pool(self) -> Any:
        """kombu's pool of connections."""
        return self.connections.pool()

    @property
    def producer_pool(self) -> Any:
        """kombu's pool of producers."""
        return self.connections.producers()


def _make_oid(*parts: Any) -> str:
    """A UUID for a place in this process."""
    names = "-".join(str(id(part) if isinstance(part, Parts) else part) for part in parts)
    return str(uuid3(NAMESPACE_OID, f"{_PROCESS}-{os.getpid()}-{names}"))


def _rebuild(app: Celery, path: str, args: tuple[Any, ...]) -> Any:
    """An object of a class that belongs to *app*."""
    target: Any = app
    for name in path.split("."):
        target = getattr(target, name)
    return target(*args)
