"""Where a Redis server is and how to get in: from a URL and transport options to connections."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import redis


class Address:
    """One database of one Redis server, for one user of it.

    `place` names the server (not the database) and who uses it: two addresses with the same place can be written to by
    one script.  `db` is the number of the database, `prefix` what `global_keyprefix` puts before every key.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        parts = urlsplit(url)
        self.url = url
        self.db = int(parts.path.strip("/") or 0)
        self.prefix = str(options.get("global_keyprefix") or "")
        self.place = f"redis://{parts.hostname or 'localhost'}:{parts.port or 6379}"
        self._host, self._port = parts.hostname or "localhost", parts.port or 6379
        self._password = unquote(parts.password) if parts.password else None
        self._username = unquote(parts.username) if parts.username else None

    def connect(self, timeout: float) -> tuple[Any, socket.socket]:
        """A new connection, authenticated and on its database; and its socket, with *timeout* seconds set.

        The connection object only keeps the socket alive and closes it (`disconnect`).  Raises redis-py's errors.
        """
        connection: Any = _Connection(  # type: ignore[no-untyped-call]
            host=self._host,
            port=self._port,
            db=self.db,
            username=self._username,
            password=self._password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
        )
        connection.connect()
        return connection, connection.wire


class _Connection(redis.Connection):
    """redis-py's connection, whose socket we read and write ourselves once the handshake is done."""

    wire: socket.socket

    def _connect(self) -> socket.socket:
        self.wire = super()._connect()  # type: ignore[no-untyped-call]
        return self.wire
