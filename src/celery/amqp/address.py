"""Where RabbitMQ is and how to get in: from URLs and transport options to greeted sockets.

URLs: `amqp://[user[:password]@]host[:port][/vhost]` (also `pyamqp://`, `py-amqp://`, `librabbitmq://`) and `amqps://`
with TLS.  No path, `/` and `//` are the vhost `/`.  Several, in a list or separated by `;`, are tried in turn,
beginning with the one that was used last.  Characters such as `@ : / ? #` are percent-encoded.

| option | meaning |
|---|---|
| `username`, `password`, `port`, `virtual_host` | where the URL has none |
| `login_method` | `PLAIN` (default), `AMQPLAIN` or `EXTERNAL` |
| `heartbeat` | seconds between signs of life, both ways; 0 for none; default 60 |
| `connect_timeout` | seconds for one attempt to connect and to log in |
| `timeout` | seconds for a request, reconnecting included |
| `ssl` | True, or a map of `ca_certs`, `certfile`, `keyfile`, `cert_reqs`, `ciphers`, `server_hostname` |
| `client_properties` | shown by the server beside the connection |
| `failover_strategy` | `round-robin` or `shuffle` |
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from celery.exceptions import BrokerError, ImproperlyConfigured
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import ssl

    import amqp
else:
    amqp, ssl = deferred("amqp"), deferred("ssl")

PLAIN = frozenset({"amqp", "pyamqp", "py-amqp", "librabbitmq"})
SCHEMES = PLAIN | {"amqps"}
IN_URL = frozenset({"connect_timeout", "heartbeat", "login_method", "timeout"})
METHODS = ("PLAIN", "AMQPLAIN", "EXTERNAL")
HEARTBEAT = 60.0
CONNECT = 4.0
"""Seconds for one attempt to connect, unless the option says otherwise."""
QUOTE = "characters such as @ : / ? # in a user or password are to be percent-encoded"


class Place(msgspec.Struct, frozen=True):
    """One vhost of one node, and who we are there."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Greeted(msgspec.Struct):
    """A socket whose server has let us in. `rest`: what it has said beyond its greeting."""

    socket: Any
    frame_max: int
    channel_max: int
    heartbeat: float
    product: str
    version: str
    rest: bytes
    kept: Any
    """py-amqp's connection, which owns the socket."""


class Address:
    """One vhost, for one user of it, on one or several nodes.

    Raises `ImproperlyConfigured`; no message has a password in it.
    """

    def __init__(self, url: str | Sequence[str], options: Mapping[str, Any]) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        parts = [_split(one.strip()) for one in (url.split(";") if isinstance(url, str) else url) if one.strip()]
        if not parts:
            raise ImproperlyConfigured("The broker URL is empty: write amqp://user:password@host/vhost.")
        given.update(_query(parts[0]))
        self.places = [_place(part, given) for part in parts]
        self.heartbeat = _number("heartbeat", given.get("heartbeat", HEARTBEAT))
        self.connect_timeout = _number("connect_timeout", given.get("connect_timeout", CONNECT)) or CONNECT
        self.timeout = _number("timeout", given.get("timeout", 5.0)) or 5.0
        method = str(given.get("login_method") or "PLAIN").upper()
        if method not in METHODS:
            raise ImproperlyConfigured(f"login_method is {method!r}: write one of {', '.join(METHODS)}.")
        self.login_method = method
        self.shuffle = given.get("failover_strategy") == "shuffle"
        self.client_properties = dict(given.get("client_properties") or {})
        self._tls = given.get("ssl")
        self._first = 0

    def __str__(self) -> str:
        return str(self.places[self._first])

    @property
    def vhost(self) -> str:
        return self.places[self._first].vhost

    def connect(self, deadline: float) -> Greeted:
        """A connection to the first node that lets us in. Raises `BrokerError`, whose `temporary` says if it may help
        to try again; what every node refuses for good (password, vhost) does not."""
        order = list(range(len(self.places)))
        order = order[self._first :] + order[: self._first]
        if self.shuffle:
            random.shuffle(order)
        refusal: BrokerError | None = None
        for number in order:
            left = deadline - time.monotonic()
            if left <= 0 and refusal is not None:
                break
            try:
                greeted = self._greet(self.places[number], max(0.05, min(left, self.connect_timeout)))
            except BrokerError as error:
                if refusal is None or refusal.temporary:
                    refusal = error
            else:
                self._first = number
                return greeted
        raise refusal if refusal is not None else trouble(f"RabbitMQ at {self} was not reached in time.")

    def _greet(self, place: Place, timeout: float) -> Greeted:
        connection = amqp.Connection(
            host=str(place),
            userid=place.user,
            password=place.password,
            login_method=self.login_method,
            virtual_host=place.vhost,
            ssl=self._tls_options(place) if place.tls else False,
            connect_timeout=timeout,
            read_timeout=timeout,
            write_timeout=timeout,
            heartbeat=int(self.heartbeat),
            socket_settings=self._socket_settings(),
            client_properties={"connection_name": self.client_properties.get("connection_name") or "celery"}
            | self.client_properties,
        )
        try:
            connection.connect()
        except BaseException as error:
            connection.collect()
            if isinstance(error, Exception):
                raise _refusal(place, error) from error
            raise
        properties = connection.server_properties
        transport = connection.transport
        return Greeted(
            transport.sock,
            int(connection.frame_max),
            int(connection.channel_max),
            float(connection.heartbeat or 0),
            str(properties.get("product", "")),
            str(properties.get("version", "")),
            bytes(transport._read_buffer),
            connection,
        )

    def _socket_settings(self) -> dict[int, int]:
        """The system gives up what it has sent and nobody acknowledges for `timeout`, and asks where all is silent.

        Py-amqp has it give up after a second, which on a slow line is far too soon.
        """
        if not hasattr(socket, "TCP_USER_TIMEOUT"):
            return {}
        return {
            socket.TCP_USER_TIMEOUT: int(self.timeout * 1000),
            socket.TCP_KEEPIDLE: 10,
            socket.TCP_KEEPINTVL: 5,
            socket.TCP_KEEPCNT: 3,
        }

    def _tls_options(self, place: Place) -> dict[str, Any]:
        given = dict(self._tls) if isinstance(self._tls, Mapping) else {}
        given = {name.removeprefix("ssl_"): value for name, value in given.items()}
        need = given.get("cert_reqs", ssl.CERT_REQUIRED)
        if isinstance(need, str):
            names = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
            name = need.lower().removeprefix("cert_")
            if name not in names:
                raise ImproperlyConfigured(f"ssl: cert_reqs is {need!r}: write required, optional or none.")
            need = names[name]
        host = given.get("server_hostname", place.host)
        return given | {"cert_reqs": need, "server_hostname": host if need != ssl.CERT_NONE else None}


def trouble(text: str) -> BrokerError:
    """An error that may be gone when it is tried again."""
    error = BrokerError(text)
    error.temporary = True
    return error


def _refusal(place: Place, error: Exception) -> BrokerError:
    """What went wrong at the greeting, in a sentence that says what to do."""
    where = f"RabbitMQ at {place}"
    if isinstance(error, amqp.exceptions.AccessRefused):
        return BrokerError(f"{where} refuses the user {place.user!r}: check user and password in the broker URL.")
    if isinstance(error, amqp.exceptions.NotAllowed):
        return BrokerError(
            f"{where} does not let {place.user!r} into the vhost {place.vhost!r}: rabbitmqctl add_vhost and"
            f" set_permissions make one that it may use."
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerError(
            f"{where} has a certificate that is not to be trusted ({error.verify_message.rstrip('.')}): give its"
            f" authority in broker_use_ssl={{'ca_certs': file}}."
        )
    if isinstance(error, ssl.SSLError):
        return BrokerError(f"{where} does not speak TLS as asked ({error.reason or error}): amqps:// is for TLS ports.")
    if isinstance(error, TimeoutError):
        return trouble(f"{where} does not answer; is it a RabbitMQ node, and does it run?")
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error).rstrip(".")
    return trouble(f"{where} cannot be reached ({text or type(error).__name__}): is it running?")


def _split(url: str) -> SplitResult:
    try:
        part = urlsplit(url)
        _ = part.port
    except ValueError as error:
        raise ImproperlyConfigured(f"A broker URL cannot be read ({error}); {QUOTE}.") from None
    if part.scheme not in SCHEMES:
        raise ImproperlyConfigured(f"{part.scheme}:// stands among URLs of RabbitMQ; give amqp:// or amqps:// ones.")
    return part


def _query(part: SplitResult) -> dict[str, str]:
    found = dict(parse_qsl(part.query))
    for name in found:
        if name not in IN_URL:
            raise ImproperlyConfigured(f"A broker URL has no option {name!r}; it may have {', '.join(sorted(IN_URL))}.")
    return found


def _place(part: SplitResult, given: Mapping[str, Any]) -> Place:
    tls = part.scheme == "amqps" or bool(given.get("ssl"))
    vhost = unquote(part.path.removeprefix("/")) or str(given.get("virtual_host") or "/")
    user, password = part.username, part.password
    return Place(
        part.hostname or "localhost",
        part.port or int(given.get("port") or (5671 if tls else 5672)),
        unquote(user) if user else str(given.get("username") or "guest"),
        unquote(password) if password is not None else str(given.get("password") or "guest"),
        vhost,
        tls,
    )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value or 0)
    except (TypeError, ValueError):
        number = -1.0
    if number < 0:
        raise ImproperlyConfigured(f"The RabbitMQ option {name} is {value!r}: give seconds.")
    return number
