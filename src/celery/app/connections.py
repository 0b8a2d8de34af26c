"""kombu's connections and producers to the app's broker, for code that uses kombu itself.

This package sends and receives through its own drivers; kombu is imported when one of these is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import drivers
from celery.app.backends import broker_url
from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celery.app.amqp import Draft
    from celery.app.base import Celery


class Connections:
    """Makes and pools them for one app."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def connect(
        self,
        url: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: dict[str, Any] | None = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **kwargs: Any,
    ) -> Any:
        """A connection as these arguments and, where they are silent, the settings say. It connects when it is used."""
        conf = self.app.conf
        kombu = import_module("kombu")
        address = broker_url(self.app, url)
        scheme = drivers.scheme(address)
        if "://" in address and scheme not in import_module("kombu.transport").TRANSPORT_ALIASES and ":" not in scheme:
            raise ImproperlyConfigured(
                f"kombu has no transport for {scheme!r}, so that there is no kombu connection to this broker: use"
                " app.broker, or a broker that both know."
            )
        return kombu.Connection(
            address,
            userid or conf.broker_user,
            password or conf.broker_password,
            virtual_host or conf.broker_vhost,
            port or conf.broker_port,
            transport=transport or conf.broker_transport,
            ssl=self.app.either("broker_use_ssl", ssl),
            heartbeat=heartbeat,
            login_method=login_method or conf.broker_login_method,
            failover_strategy=failover_strategy or conf.broker_failover_strategy,
            transport_options={**(conf.broker_transport_options or {}), **(transport_options or {})},
            connect_timeout=self.app.either("broker_connection_timeout", connect_timeout),
            **kwargs,
        )

    def pool(self) -> Any:
        """kombu's pool of connections to the broker we write to."""
        pools = import_module("kombu.pools")
        if self.app.conf.broker_pool_limit is not None:
            pools.set_limit(self.app.conf.broker_pool_limit)
        return pools.connections[self.app.connection_for_write()]

    def producers(self) -> Any:
        """kombu's pool of producers."""
        pools = import_module("kombu.pools")
        return pools.producers[self.app.connection_for_write()]

    @contextmanager
    def acquire(self, connection: Any = None, pooled: bool = True) -> Iterator[Any]:
        """*connection*, or one from the pool, or a new one, for a while."""
        if connection is not None:
            yield connection
        elif pooled:
            with self.pool().acquire(block=True) as pooled_connection:
                yield pooled_connection
        else:
            with self.app.connection_for_write() as fresh:
                yield fresh

    @contextmanager
    def acquire_producer(self, producer: Any = None) -> Iterator[Any]:
        """*producer*, or one from the pool, for a while."""
        if producer is not None:
            yield producer
        else:
            with self.producers().acquire(block=True) as pooled_producer:
                yield pooled_producer

    def is_foreign(self, producer: Any) -> bool:
        """Whether a kombu producer or connection leads to another broker than the app's own."""
        connection = getattr(producer, "connection", None) or producer
        if not hasattr(connection, "as_uri"):
            return False
        own = broker_url(self.app, self.app.conf.broker_write_url)
        if drivers.scheme(own) not in import_module("kombu.transport").TRANSPORT_ALIASES:
            return True
        mine = self.app.connection_for_write()
        return bool(connection.as_uri(include_password=True) != mine.as_uri(include_password=True))

    def publish(self, producer: Any, draft: Draft, options: Mapping[str, Any]) -> None:
        """Send *draft* through a kombu producer or connection of the user's, to whatever broker that leads to."""
        if not hasattr(producer, "publish"):
            producer = import_module("kombu").Producer(producer)
        conf, address = self.app.conf, draft.address
        given = {**draft.properties}
        delivery_mode, priority = given.pop("delivery_mode"), given.pop("priority")
        expiration = given.pop("expiration", None)
        retry = options.get("retry")
        producer.publish(
            draft.body,
            routing_key=address.routing_key,
            exchange=address.exchange,
            serializer=draft.serializer,
            compression=draft.compression,
            headers=draft.headers,
            delivery_mode=delivery_mode,
            priority=priority,
            expiration=None if expiration is None else int(expiration) / 1000,
            declare=[] if address.queue is None else [self.app.amqp.queues[address.queue.name]],
            retry=conf.task_publish_retry if retry is None else retry,
            retry_policy={**(conf.task_publish_retry_policy or {}), **(options.get("retry_policy") or {})},
            **given,
        )
        if conf.task_send_sent_event:
            message = self.app.amqp.encode(draft)
            self.app.events.announce((message,), eventer=options.get("event_dispatcher"), producer=producer)
