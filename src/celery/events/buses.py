"""Which bus the events of an app pass over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app.backends import make_broker
from celery.brokers.base import Bus

if TYPE_CHECKING:
    from celery.app.base import Celery


def bus_of(app: Celery, connection: Any = None, *, read: bool = False) -> Bus:
    """The bus of the broker of *app*, or of the one that *connection* leads to: kombu's, or a channel of it.

    A bus in place of a connection is that bus.

    *read*: of the two brokers that an app may have, the one that is read from.  Does not connect.
    """
    if isinstance(connection, Bus):
        return connection
    uri = _uri(connection)
    if uri is not None and uri not in _own_uris(app):
        return make_broker(app, uri).bus()
    return (app.broker_for_read() if read else app.broker).bus()


def client_of(connection: Any) -> Any:
    """kombu's connection, if it is one or a channel of one; None if not."""
    if hasattr(connection, "as_uri"):
        return connection
    client = getattr(getattr(connection, "connection", None), "client", None)
    return client if hasattr(client, "as_uri") else None


def _uri(connection: Any) -> str | None:
    client = client_of(connection)
    return None if client is None else str(client.as_uri(include_password=True))


def _own_uris(app: Celery) -> set[str | None]:
    return {_uri(app.connection_for_read()), _uri(app.connection_for_write())}
