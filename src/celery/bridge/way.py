"""One kombu transport: how it is reached, what it can do, and what its errors mean.

Everything about a transport that can be read from it is read from it.  `_LEASING` and `_EXTRAS` say the rest: whose
server takes back what a consumer does not acknowledge, and which extra installs what a transport needs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import kombu
from kombu.transport import virtual

from celery.bridge.forks import Still
from celery.brokers.base import Capabilities
from celery.exceptions import BrokerError, ImproperlyConfigured

Found = TypeVar("Found")
library: Any = kombu
"""kombu itself, most of which has no types."""

_NEEDS = {"SQS": "sqs", "kafka": "confluentkafka", "sqla": "sqlalchemy", "SLMQ": "slmq"}
_EXTRAS = frozenset({
    "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "etcd", "gcpubsub", "mongodb", "pgmq", "pyro",
    "qpid", "slmq", "sqlalchemy", "sqs", "zookeeper",
})  # fmt: skip
_LEASING = frozenset({
    "azureservicebus", "azurestoragequeues", "confluentkafka", "gcpubsub", "kafka", "pgmq", "slmq", "sqs",
})  # fmt: skip
"""Schemes whose server gives what a dead consumer had to another one."""
_ORDERED = frozenset({"filesystem", "sqla", "sqlalchemy"})
"""Schemes whose queues are known to keep the order of publishing."""
_FILES_OF_SQL = frozenset({"sqla+sqlite", "sqlalchemy+sqlite"})
_OURS = {
    "username": "userid",
    "password": "password",
    "port": "port",
    "virtual_host": "virtual_host",
    "ssl": "ssl",
    "connect_timeout": "connect_timeout",
    "login_method": "login_method",
    "heartbeat": "heartbeat",
}
"""Options that are arguments of kombu's connection."""
_KEPT = frozenset({*_OURS, "lease", "timeout", "exact_claims", "spool", "queue_order_strategy"})
"""Options that are not the transport's."""
FILES = "celery.bridge.files:Transport"
_MISSING = (ImportError, NameError, AttributeError, RuntimeError)
"""What transports raise whose packages are not there."""
OFTEN = 0.2
"""Seconds between two polls for what somebody may wait for, unless the transport's option says something else."""
PAUSES = 0.1, 1.0
"""Seconds before the second attempt, and the most before any."""


class Way:
    """*options*: ours (`_KEPT`) and the transport's. Raises `ImproperlyConfigured` for what cannot be loaded."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.scheme, self.address, self._path = _apart(url)
        self.options = {name: value for name, value in options.items() if name not in _KEPT}
        self.timeout = float(options.get("timeout") or 5.0)
        self.exact = bool(options.get("exact_claims"))
        self._arguments = {name: options[key] for key, name in _OURS.items() if options.get(key) is not None}
        interval = self.options.get("polling_interval")
        if self.scheme in {"sqla", "sqlalchemy"}:
            self.options.pop("polling_interval", None)  # it hands its options on to the engine, which has no such one
        self.still = Still() if url.partition("://")[0] in _FILES_OF_SQL else nullcontext()
        """What a connection is used in: there no thread forks."""
        transport = self._load()
        self.kind = str(transport.driver_type)
        self.channel_class: Any = getattr(transport, "Channel", None)
        self.virtual = isinstance(transport, virtual.Transport)
        """Kombu itself does the work of a broker's server: routing, and which messages are not acknowledged."""
        restores = bool(getattr(self.channel_class, "do_restore", False))
        self.leases = self.scheme.lower() in _LEASING or not self.virtual or not restores
        """What is not acknowledged comes back when its consumer has died."""
        self.waits = hasattr(self.channel_class, "wait_time_seconds")
        """A poll blocks at the server for so long."""
        self.patience = float(self.options.get("wait_time_seconds", 10.0) or 0.0) if self.waits else 0.0
        self.interval = float(transport.polling_interval or 0.0) if interval is None else float(interval)
        """Seconds between two polls of which the first has found nothing."""
        self.often = min(self.interval, OFTEN) if interval is None else self.interval
        """The same for what somebody may wait for."""
        self.exchange_types = frozenset(transport.implements.exchange_type)
        fanout = self._has_fanout()
        self.fans_out = fanout
        errors = (OSError, *transport.connection_errors, *transport.channel_errors)
        if not all(isinstance(error, type) for error in errors):  # None stands for those of a package that is not there
            raise ImproperlyConfigured(self._missing(ImportError("its client library")))
        self.troubles: tuple[type[BaseException], ...] = errors
        self._about = transport
        shared_tables = self._overrides("get_table")
        self.knows_queues = self.virtual and self._overrides("_has_queue")
        """kombu can say of a queue that there is none of this name."""
        self.can = Capabilities(
            durable=True,
            shared=True,
            lease=False,
            priorities=False,
            keeps_places=False,
            ordered=False,
            fifo=self.scheme in _ORDERED,
            marks=not self.leases and bool(options.get("spool")),
            lists=False,
            revokes=False,
            fanout=fanout and (shared_tables or not self.virtual),
        )

    def _load(self) -> Any:
        try:
            return self.connection().transport
        except _MISSING as error:
            raise ImproperlyConfigured(self._missing(error)) from error
        except (KeyError, ValueError, TypeError) as error:
            raise ImproperlyConfigured(f"Kombu has no transport for {self.scheme}://: {_line(error)}.") from error

    def _missing(self, error: BaseException) -> str:
        if self._path:
            return f"The transport {self._path!r} cannot be loaded: {_line(error)}."
        extra = _NEEDS.get(self.scheme, self.scheme)
        advice = f": pip install 'celery[{extra}]'" if extra in _EXTRAS else "; install them"
        return (
            f"The broker {self.scheme}:// goes over kombu and needs packages that are not installed"
            f" ({_line(error)}){advice}."
        )

    def _has_fanout(self) -> bool:
        if not self.virtual:
            return "fanout" in self.exchange_types
        offered = getattr(self.channel_class, "supports_fanout", False)
        return offered if isinstance(offered, bool) else bool(self.options.get("supports_fanout"))

    def _overrides(self, name: str) -> bool:
        """Whether this transport does something in its own way, and not as kombu does it in memory."""
        return getattr(self.channel_class, name, None) is not getattr(virtual.Channel, name)

    def connection(self) -> Any:
        """A new connection of kombu's, not connected yet. It and its channels belong to one thread at a time."""
        extra = {"transport": self._path or FILES} if self._path or self.scheme == "filesystem" else {}
        return library.Connection(self.address, transport_options=dict(self.options), **self._arguments, **extra)

    def open(self) -> tuple[Any, Any]:
        """A new connection and a channel on it, for whoever asks to close. Raises `BrokerError`."""
        try:
            connection = self.connection()
            connection.connect()
            channel = connection.channel()
            if self.virtual:
                # What is held is given back by us: kombu would do it also in a child of this process.
                channel.qos.restore_at_shutdown = False
        except Exception as error:
            raise self.trouble(error) from error
        return connection, channel

    def take_shared(self) -> list[Any]:
        """What a transport shares between its connections, taken out so that new ones do not use it."""
        engines = getattr(self.channel_class, "_engines", None)  # of SQLAlchemy, by URL
        if not isinstance(engines, dict):
            return []
        taken = list(engines.values())
        engines.clear()
        return taken

    def trouble(self, error: BaseException) -> BrokerError:
        """What a transport has raised, as a broker's error."""
        if isinstance(error, BrokerError):
            return error
        if isinstance(error, (ImportError, NameError)):
            return BrokerError(self._missing(error))
        made = BrokerError(f"The broker {self.scheme}:// (over kombu) fails: {_line(error)}.")
        made.temporary = isinstance(error, (*self.troubles, library.exceptions.OperationalError))
        return made

    def may_have(self, queue: str) -> bool:
        """Whether a queue of this name can be there: where all are listed in the options, no others are made."""
        listed = self.options.get("predefined_queues")
        return not listed or queue in listed

    def delays(self, queue: str) -> bool:
        """Whether the transport delays messages for *queue* by itself. SQS does not for single ones of a FIFO queue."""
        return self.kind == "sqs" and not queue.endswith(".fifo")

    def describe(self) -> str:
        version = ""
        with suppress(Exception):  # whatever a client library has to say of its version
            version = str(self._about.driver_version())
        name = f"{self._about.driver_name} {version}" if version not in {"", "N/A"} else self._about.driver_name
        return f"{name} over kombu {library.__version__}"


class Line:
    """The connection that publishes and declares. Thread-safe, remade after an error and after a fork."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: Any = None
        self._channel: Any = None
        self._former: list[Any] = []
        """Connections of the process that this one was forked from: not ours to end, nor to have ended for us."""

    def call(self, work: Callable[[Any], Found]) -> Found:
        """What *work* returns of the channel; asked again while its error is temporary and there is time."""
        until, pause = time.monotonic() + self._way.timeout, PAUSES[0]
        while True:
            try:
                return self._once(work)
            except BrokerError as error:
                if not error.temporary or until - time.monotonic() <= pause:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    def _once(self, work: Callable[[Any], Found]) -> Found:
        if os.getpid() != self._pid:  # a fork: the lock may be held by a thread that is not here
            self._lock, self._pid = threading.RLock(), os.getpid()
            self._former += [self._connection, self._channel, *self._way.take_shared()]
            self._connection = self._channel = None
        with self._lock, self._way.still:
            if self._channel is None:
                self._connection, self._channel = self._way.open()
            try:
                return work(self._channel)
            except BrokerError:
                raise
            except Exception as error:
                self._drop()
                raise self._way.trouble(error) from error

    def close(self) -> None:
        """Idempotent; it may be used again."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        hang_up(connection)


def hang_up(connection: Any) -> None:
    """Close a connection, whatever its transport thinks of it."""
    if connection is not None:
        with suppress(Exception):
            connection.close()


def delete_queue(channel: Any, name: str) -> None:
    """Delete a queue with what is in it, as far as its transport can; nothing if it is not there."""
    books = getattr(channel, "state", None)  # where kombu keeps them
    with suppress(NotImplementedError):  # that is how a transport of kombu says that it deletes no queues
        if books is not None and not any(True for _ in books.queue_bindings(name)):
            channel._delete(name, "", name, "")  # its `queue_delete` passes over queues that nothing binds
        channel.queue_delete(queue=name)
    if hasattr(channel, "queue_cls"):
        _delete_rows(channel, channel.queue_cls, channel.message_cls, name)


def _delete_rows(channel: Any, queues: Any, messages: Any, name: str) -> None:
    """Of SQLAlchemy's tables, which would keep the name and what has been consumed."""
    session = channel.session
    for row in session.query(queues).filter(queues.name == name):
        session.query(messages).filter(messages.queue_id == row.id).delete(synchronize_session=False)
        session.delete(row)
    session.commit()


def _apart(url: str) -> tuple[str, str, str]:
    """Scheme, the URL for kombu, and the path of a transport's class, where the scheme is one."""
    name, mark, rest = url.partition("://")
    if not mark:
        name, rest = url, ""
    if "." in name:
        return name, rest or "localhost", name
    return name.partition("+")[0], url if mark else f"{url}://", ""


def _line(error: BaseException) -> str:
    """An error in one line, without the full stop that a sentence around it ends with."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
