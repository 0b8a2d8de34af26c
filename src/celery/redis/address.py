"""Where a Redis server is and how to get in: from URLs and transport options to connections.

URLs: `redis://[[user]:password@]host[:port][/db]`, `rediss://…` (TLS), `unix://[…@]/path[?db=1]` (also `socket://` and
`redis+socket://`, with `virtual_host=1`), and `sentinel://…` for each sentinel, with the option `master_name`. Several,
in a list or separated by `;`, are tried in turn. Characters such as `@ : / ? #` in a password are percent-encoded.
What may follow `?` in a URL are the options below; they may also stand in *options* (`broker_transport_options`,
`result_backend_transport_options`).

| option | meaning |
|---|---|
| `db`, `virtual_host` | number of the database |
| `host`, `port`, `username`, `password` | where the URL has none |
| `credential_provider` | object with `get_credentials() -> (user, password)`, or the dotted path of its class |
| `global_keyprefix` | put before every key |
| `timeout` | seconds for a request, reconnecting included; else `retry_policy["timeout"]` |
| `socket_timeout` | seconds without an answer after which a connection is given up (at most half of `timeout`) |
| `socket_connect_timeout` | seconds for one attempt to connect |
| `socket_keepalive`, `socket_keepalive_options` | TCP's keeping alive: on, unless it is said to be off |
| `health_check_interval` | seconds of silence after which a listening connection is checked, if less than 5 |
| `client_name` | shown by CLIENT LIST; else `celery:<process>@<host>`, of a worker `celery:<process>:<its name>` |
| `max_connections` | connections at once |
| `ssl`, `ssl_*` | TLS and its options; certificates are verified unless `ssl_cert_reqs=none` |
| `master_name`, `sentinel_kwargs`, `min_other_sentinels` | for `sentinel://` |
| `failover_strategy` | `round-robin`, `shuffle`, or a callable that makes of the list of URLs an iterator |
"""

from __future__ import annotations

import difflib
import itertools
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from celery.exceptions import ImproperlyConfigured
from celery.redis.greeting import Server, greet
from celery.redis.replies import Refused, code_of
from celery.redis.tls import NAMES as TLS_NAMES
from celery.redis.tls import UNSUPPORTED, Tls, read_flag
from celery.redis.wire import (
    POLLS,
    Broken,
    ReplyError,
    StreamWire,
    Wire,
    connect_tcp,
    connect_unix,
    default_keepalive,
    pack,
)
from celery.utils.imports import symbol_by_name

SCHEMES = {
    "redis": "tcp",
    "rediss": "tls",
    "unix": "unix",
    "socket": "unix",
    "redis+socket": "unix",
    "sentinel": "sentinel",
}
PORTS = {"tcp": 6379, "tls": 6379, "sentinel": 26379, "unix": 0}
FLAGS = frozenset({"socket_keepalive", "retry_on_timeout", "ssl"})
NUMBERS = frozenset({
    "timeout", "socket_timeout", "socket_connect_timeout", "health_check_interval", "max_connections",
    "min_other_sentinels",
})  # fmt: skip
TEXTS = frozenset({
    "client_name", "credential_provider", "db", "global_keyprefix", "master_name", "password", "username",
    "virtual_host",
})  # fmt: skip
IGNORED = frozenset({
    "decode_responses", "encoding", "encoding_errors", "protocol", "retry_on_error", "socket_read_size",
})  # fmt: skip
"""Options of redis-py's URLs that make no difference here."""
IN_URL = FLAGS | NUMBERS | TEXTS | IGNORED | {f"ssl_{name}" for name in TLS_NAMES | UNSUPPORTED}
QUOTE = "characters such as @ : / ? # in a user or password are to be percent-encoded"

_serials = itertools.count(1)


class Spot(msgspec.Struct, frozen=True):
    """One server: a host and port, or the path of its socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


class Address:
    """One database of one Redis server, for one user of it.

    `place` names the server (not the database) and who uses it: two addresses with the same place can be written to by
    one script.  Several URLs may lead to different servers at different times, so that their place is never another's.
    `db` is the number of the database, `prefix` what `global_keyprefix` puts before every key, `name` is for messages.
    Raises `ImproperlyConfigured`; no message has a password in it.
    """

    def __init__(self, url: str | Sequence[str], options: Mapping[str, Any]) -> None:
        parts = _split(url)
        self.kind = SCHEMES[parts[0].scheme]
        if any(SCHEMES[part.scheme] != self.kind for part in parts) and "sentinel" in {
            SCHEMES[part.scheme] for part in parts
        }:
            raise ImproperlyConfigured("Redis URLs are either all sentinel:// or none is.")
        queries = [_read_query(part) for part in parts]
        given = {**{name: value for name, value in options.items() if value is not None}, **queries[0]}
        self.spots = tuple(_spot(part, given) for part in parts)
        self.db = _database(parts, queries, given)
        self.prefix = str(given.get("global_keyprefix") or "")
        self._access = Access(parts, given)
        self._read_times(given)
        self.limit = int(_number("max_connections", given.get("max_connections", given.get("limit") or 0)))
        self._client_name = _read_client_name(given.get("client_name"))
        self._who = ""
        self._keepalive = _read_keepalive(given)
        self._tls = [_read_tls(part, given, query) for part, query in zip(parts, queries, strict=True)]
        self._failover = Failover([part.geturl() for part in parts], given.get("failover_strategy"))
        self._sentinels = Sentinels(self.spots, given) if self.kind == "sentinel" else None
        self._describe()

    def _read_times(self, given: Mapping[str, Any]) -> None:
        policy = given.get("retry_policy")
        timeout = given.get("timeout") or (policy.get("timeout") if isinstance(policy, Mapping) else None)
        self.timeout = _number("timeout", timeout or 0)
        self.patience = _number("socket_timeout", given.get("socket_timeout") or 0)
        connecting = given.get("socket_connect_timeout") or given.get("connect_timeout") or 0
        self._connect_timeout = _number("socket_connect_timeout", connecting)
        self.health = min(5.0, _number("health_check_interval", given.get("health_check_interval") or 5.0))

    def _describe(self) -> None:
        scheme = {"tcp": "redis", "tls": "rediss", "unix": "unix", "sentinel": "sentinel"}[self.kind]
        user = self._access.user
        start = f"{scheme}://" + ("" if user == "default" else f"{user}@")
        places = sorted(str(_normalise(spot)) for spot in self.spots)
        if self._sentinels is not None:
            self.name = f"{start}{','.join(map(str, self.spots))}/{self._sentinels.master}"
            self.place = f"{start}{','.join(places)}/{self._sentinels.master}"
            return
        self.name = ";".join(f"{start}{spot}" for spot in self.spots)
        self.place = f"{start}{places[0]}" if len(places) == 1 else f"{self.name}#{next(_serials)}"

    def introduce(self, who: str) -> None:
        """Have connections that are made from now on say that they are those of *who*, unless they have a name."""
        self._who = who

    def connect(self, deadline: float, patience: float, known: Server | None = None) -> tuple[Wire, Server]:
        """A new connection to the primary, logged in and on its database, and what its server says of itself.

        Raises `Refused`, or one of `Broken` when *deadline* passed or none of the servers took one.
        """
        if self._sentinels is not None:
            spot = self._sentinels.discover(deadline, self._keepalive)
            return self._reach(spot, self._tls[0], self._share(deadline, 2), patience, known, primary=True)
        several = len(self.spots) > 1
        trouble: Exception | None = None
        troubles = []
        order = self._failover.order()
        for position, index in enumerate(order):
            until = self._share(deadline, len(order) - position + 1)
            try:
                found = self._reach(self.spots[index], self._tls[index], until, patience, known, primary=several)
            except Broken as error:
                trouble = error
                troubles.append(f"{self.spots[index]}: {error}")
                continue
            self._failover.worked(index)
            return found
        if several:
            raise ConnectionError("; ".join(troubles)) from trouble
        raise trouble or ConnectionError("no server to connect to")

    def _share(self, deadline: float, attempts: int) -> float:
        """Until when one of so many attempts may last."""
        now = time.monotonic()
        share = max(0.001, (deadline - now) / attempts)
        return now + (min(share, self._connect_timeout) if self._connect_timeout else share)

    def _reach(
        self, spot: Spot, tls: Tls | None, deadline: float, patience: float, known: Server | None, *, primary: bool
    ) -> tuple[Wire, Server]:
        wire = open_wire(spot, tls, deadline, self._keepalive)
        try:
            credentials = self._access.credentials()
            name = self._client_name or client_name(self._who)
            wire.client_id, server = greet(wire, credentials, name, self.db, str(spot), known, deadline, patience)
            if primary and server.role == "replica":
                raise ConnectionError(f"{spot} is a replica")
        except BaseException:
            wire.close()
            raise
        return wire, server


class Access:
    """Who logs in: a user and password, or whoever a credential provider names at that moment."""

    def __init__(self, parts: Sequence[SplitResult], given: Mapping[str, Any]) -> None:
        username = next((part.username for part in parts if part.username), None)
        password = next((part.password for part in parts if part.password), None)
        self._username = unquote(username) if username else str(given.get("username") or "")
        self._password = unquote(password) if password else str(given.get("password") or "")
        self._provider = _load_provider(given.get("credential_provider"))
        self._provider_name = type(self._provider).__qualname__
        if not isinstance(given.get("credential_provider"), str | type):  # two objects of a class may name two users
            self._provider_name += f" {id(self._provider):x}"

    @property
    def user(self) -> str:
        """Who that is, for comparisons and messages."""
        if self._provider is None:
            return self._username or "default"
        return f"<{self._provider_name}>"

    def credentials(self) -> tuple[str | bytes, ...]:
        """What AUTH is given; nothing if nobody logs in. Raises ConnectionError when a provider fails."""
        if self._provider is None:
            if self._username:
                return (self._username, self._password)
            return (self._password,) if self._password else ()
        try:
            found = self._provider.get_credentials()
        except Exception as error:
            raise ConnectionError(f"the credential provider {self.user} fails: {error!r}") from error
        return tuple(found) if isinstance(found, tuple | list) else (found,)


class Failover:
    """In which order several servers are tried. The one that worked last comes first."""

    def __init__(self, urls: Sequence[str], strategy: str | Callable[[list[str]], Iterator[str]] | None) -> None:
        self._urls = list(urls)
        self._first = 0
        if strategy not in {None, "", "round-robin", "shuffle"} and not callable(strategy):
            raise ImproperlyConfigured(
                f"The failover strategy {strategy!r} is unknown: give round-robin, shuffle or a callable."
            )
        self._strategy = strategy

    def order(self) -> list[int]:
        """The numbers of the URLs."""
        count = len(self._urls)
        if callable(self._strategy) and count > 1:
            return [self._urls.index(url) for url in itertools.islice(self._strategy(list(self._urls)), count)]
        others = [(self._first + step) % count for step in range(1, count)]
        if self._strategy == "shuffle":
            random.shuffle(others)
        return [self._first, *others]

    def worked(self, index: int) -> None:
        self._first = index


class Sentinels:
    """Asks sentinels for the primary. The one that knew last is asked first."""

    def __init__(self, spots: Sequence[Spot], given: Mapping[str, Any]) -> None:
        self.master = str(given.get("master_name") or "")
        if not self.master:
            raise ImproperlyConfigured(
                "sentinel:// needs the name of the primary: broker_transport_options = {'master_name': 'mymaster'} (or"
                " result_backend_transport_options)."
            )
        kwargs = given.get("sentinel_kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise ImproperlyConfigured("The Redis option sentinel_kwargs is to be a dictionary, as {'password': '…'}.")
        self._others = int(_number("min_other_sentinels", given.get("min_other_sentinels") or 0))
        self._access = Access((), kwargs)
        self._tls = _make_tls(kwargs.get("ssl"), {name: kwargs[name] for name in kwargs if name.startswith("ssl_")})
        self._timeout = _number("socket_timeout", kwargs.get("socket_timeout") or 0)
        self._spots = tuple(spots)

    def discover(self, deadline: float, keepalive: Mapping[int, int] | None) -> Spot:
        """Where the primary is. Raises `Refused` or one of `Broken`."""
        troubles: list[str] = []
        unknown, count = 0, len(self._spots)
        for position, spot in enumerate(self._spots):
            share = (deadline - time.monotonic()) / (count - position + 1)
            until = time.monotonic() + max(0.001, min(share, self._timeout) if self._timeout else share)
            try:
                wire = open_wire(spot, self._tls, until, keepalive)
                try:
                    found = self._ask(wire, until)
                finally:
                    wire.close()
            except KeyError:
                unknown += 1
                troubles.append(f"{spot} does not know it")
            except Broken as error:
                troubles.append(f"{spot}: {error}")
            else:
                self._spots = (spot, *(other for other in self._spots if other != spot))
                return found
        if unknown == count:
            raise Refused(f"no sentinel knows a primary called {self.master!r}; check the option master_name")
        raise ConnectionError(f"no sentinel tells where the primary is: {'; '.join(troubles)}")

    def _ask(self, wire: Wire, deadline: float) -> Spot:
        """What one sentinel says. Raises KeyError if it does not know the name."""
        commands = [pack(("SENTINEL", "MASTER", self.master))]
        credentials = self._access.credentials()
        if credentials:
            commands.insert(0, pack(("AUTH", *credentials)))
        left = deadline - time.monotonic()
        *_, said = replies = wire.exchange(b"".join(commands), len(commands), deadline, left)
        for reply in replies:
            if reply.__class__ is not ReplyError:
                continue
            code = code_of(reply)
            if code in {"NOAUTH", "WRONGPASS", "NOPERM"} or reply is not said:
                raise Refused(
                    f"a sentinel does not let us in ({reply}); give sentinel_kwargs = {{'password': '…'}} in the"
                    " transport options"
                )
            if "No such master" in str(reply):
                raise KeyError(self.master)
            raise ConnectionError(str(reply))
        facts = {name.decode(): value.decode() for name, value in zip(said[::2], said[1::2], strict=False)}
        flags = set(facts.get("flags", "").split(","))
        if flags & {"s_down", "o_down", "disconnected"} or "master" not in flags:
            raise ConnectionError("the primary is down, and no replica has taken its place yet")
        if int(facts.get("num-other-sentinels", 0)) < self._others:
            raise ConnectionError(f"this sentinel sees fewer than {self._others} others")
        return Spot(facts["ip"], int(facts["port"]))


def open_wire(spot: Spot, tls: Tls | None, deadline: float, keepalive: Mapping[int, int] | None) -> Wire:
    """A connection to *spot*, nothing said on it yet. Raises `Refused` or an OSError."""
    if spot.path:
        return Wire(connect_unix(spot.path, deadline))
    connected = connect_tcp(spot.host, spot.port, deadline, keepalive)
    if tls is not None:
        return StreamWire(tls.wrap(connected, spot.host, deadline))
    return Wire(connected) if POLLS else StreamWire(connected)


def client_name(who: str) -> str:
    """What this process is called in CLIENT LIST."""
    return f"celery:{os.getpid()}" + re.sub(r"[^!-~]", "-", f":{who}" if who else f"@{socket.gethostname()}")


def _split(url: str | Sequence[str]) -> list[SplitResult]:
    """The URLs in *url*; what has no scheme has that of the first."""
    given = [url] if isinstance(url, str) else list(url)
    texts = [text.strip() for several in given for text in several.split(";") if text.strip()]
    if not texts:
        raise ImproperlyConfigured("The Redis URL is empty: give redis://host:port/db.")
    first, separator, _ = texts[0].partition("://")
    scheme = first if separator else "redis"
    found = []
    for text in texts:
        whole = text if "://" in text else f"{scheme}://{'' if text.rstrip(':') in SCHEMES else text}"
        part = urlsplit(whole)
        if part.scheme not in SCHEMES:
            raise ImproperlyConfigured(
                f"There is no Redis URL with the scheme {part.scheme!r}; known are {', '.join(sorted(SCHEMES))}."
            )
        if part.fragment or "@" in part.query or ("@" in part.path and SCHEMES[part.scheme] != "unix"):
            raise ImproperlyConfigured(f"A Redis URL cannot be read: {QUOTE}.")
        found.append(part)
    return found


def _spot(part: SplitResult, given: Mapping[str, Any]) -> Spot:
    kind = SCHEMES[part.scheme]
    try:
        host, port = part.hostname or "", part.port
    except ValueError:
        raise ImproperlyConfigured(f"The port in a Redis URL is no number up to 65535; {QUOTE}.") from None
    if kind == "unix":
        path = unquote((host if host.startswith("%2") else "") + part.path)
        if not path.startswith("/"):
            raise ImproperlyConfigured("The URL of a Redis socket has its whole path: unix:///run/redis.sock.")
        return Spot(path=os.path.realpath(path))
    return Spot(host or str(given.get("host") or "localhost"), port or int(given.get("port") or PORTS[kind]))


def _normalise(spot: Spot) -> Spot:
    """The same for every spelling of a host."""
    host = spot.host.rstrip(".").lower()
    try:
        host = str(ip_address(host))
    except ValueError:
        host = "127.0.0.1" if host == "localhost" else host
    return Spot(host, spot.port, spot.path)


def _read_query(part: SplitResult) -> dict[str, Any]:
    """The options after `?`, those with numbers and flags as such."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(part.query, keep_blank_values=True):
        if name not in IN_URL:
            near = difflib.get_close_matches(name, IN_URL, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(IN_URL))}."
            raise ImproperlyConfigured(f"There is no option {name!r} of Redis URLs; {hint}")
        if name in FLAGS:
            found[name] = read_flag(name, value)
        elif name in NUMBERS:
            found[name] = _number(name, value)
        else:
            found[name] = value
    return found


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ImproperlyConfigured(f"The Redis option {name} is {value!r}: give a number, 0 or more.")
    return number


def _database(parts: Sequence[SplitResult], queries: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> int:
    """The number of the database, which all URLs that name one agree on."""
    named = []
    for part, query in zip(parts, queries, strict=True):
        path = "" if SCHEMES[part.scheme] == "unix" else part.path.strip("/")
        text = str(query.get("virtual_host") or query.get("db") or "").strip("/") or path
        if not text:
            continue
        if not text.isdecimal():
            shown = f" is {text!r}" if re.fullmatch(r"[\w.-]{1,20}", text) else ""
            raise ImproperlyConfigured(f"The database in a Redis URL{shown}: give a number, as in redis://host:6379/0.")
        named.append(int(text))
    if len(set(named)) > 1:
        raise ImproperlyConfigured("The Redis URLs name different databases: give all of them the same number.")
    if named:
        return named[0]
    text = str(given.get("virtual_host") or given.get("db") or 0).strip("/") or "0"
    if not text.isdecimal():
        raise ImproperlyConfigured(f"The Redis option db is {text!r}: give a number.")
    return int(text)


def _load_provider(given: Any) -> Any:
    """The object of a credential provider, by itself, its class, or the dotted path of either."""
    if not given:
        return None
    provider = given
    if isinstance(given, str):
        try:
            provider = symbol_by_name(given)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImproperlyConfigured(f"The credential provider {given!r} cannot be loaded: {error}.") from error
    if isinstance(provider, type):
        try:
            provider = provider()
        except TypeError as error:
            raise ImproperlyConfigured(
                f"The credential provider {provider.__qualname__} cannot be made without arguments: {error}."
            ) from error
    if not callable(getattr(provider, "get_credentials", None)):
        raise ImproperlyConfigured(f"The credential provider {type(provider).__qualname__} has no get_credentials().")
    return provider


def _read_client_name(given: Any) -> str:
    name = str(given or "")
    if re.search(r"[^!-~]", name):
        raise ImproperlyConfigured(f"The Redis option client_name is {name!r}: give letters and digits without spaces.")
    return name


def _read_keepalive(given: Mapping[str, Any]) -> dict[int, int] | None:
    if not read_flag("socket_keepalive", given.get("socket_keepalive", True)):
        return None
    extra = given.get("socket_keepalive_options") or {}
    if not isinstance(extra, Mapping):
        raise ImproperlyConfigured(
            "The Redis option socket_keepalive_options is to be a dictionary, as {socket.TCP_KEEPIDLE: 60}."
        )
    return default_keepalive() | {int(name): int(value) for name, value in extra.items()}


def _read_tls(part: SplitResult, given: Mapping[str, Any], query: Mapping[str, Any]) -> Tls | None:
    """TLS for one URL: its own `ssl_*`, else those of the options."""
    own = {name: value for name, value in query.items() if name.startswith("ssl_")}
    options = {name: value for name, value in given.items() if name.startswith("ssl_")}
    wanted = part.scheme == "rediss" or given.get("ssl") or bool(query.get("ssl"))
    if not wanted:
        if own:
            raise ImproperlyConfigured(
                f"The Redis URL has {min(own)} but not the scheme of TLS: write rediss:// instead of {part.scheme}://."
            )
        return None
    if SCHEMES[part.scheme] == "unix":
        raise ImproperlyConfigured("A connection over a Unix socket has no TLS: leave out the TLS options.")
    return _make_tls(given.get("ssl") or True, {**options, **own})


def _make_tls(ssl: Any, options: Mapping[str, Any]) -> Tls | None:
    if not ssl:
        return None
    return Tls({**(ssl if isinstance(ssl, Mapping) else {}), **options})
