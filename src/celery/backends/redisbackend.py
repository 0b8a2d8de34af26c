"""Classes for result backends that programs derive from those of Redis: made as Celery makes them, or by hand."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from celery._state import app_or_default
from celery.app.backends import store_options
from celery.backends.redis import RedisStore
from celery.backends.results import ResultBackend
from celery.exceptions import ImproperlyConfigured


class RedisBackend(ResultBackend):
    """Results in Redis, as every app has them whose `result_backend` is a URL of Redis.

    Name a subclass by `result_backend = "module:Class"`, or for the scheme `redis` in the loader's `override_backends`.
    The place is *url*, else *host*, *port*, *db* and *password*, else the app's settings.
    """

    default_scheme = "redis"

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int | str | None = None,
        password: str | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        connection_pool: Any = None,
        **kwargs: Any,
    ) -> None:
        if connection_pool is not None:
            raise ImproperlyConfigured(
                f"{type(self).__name__} makes its connections itself: give it a URL, or host and port, and no "
                f"connection_pool of redis-py."
            )
        app = app_or_default(kwargs.pop("app", None))
        if url is None or "://" not in url:
            url = _url(self.default_scheme, host, port, db, password) if host else url
        if not url or "://" not in url:
            url = f"{self.default_scheme}://"
        options = store_options(app, url)
        if max_connections is not None:
            options["limit"] = max_connections
        super().__init__(RedisStore(url, options=options), app, url=url, **kwargs)


class SentinelBackend(RedisBackend):
    """Results in the Redis server that sentinels name: `sentinel://host:26379/0;sentinel://…`."""

    default_scheme = "sentinel"


def _url(scheme: str, host: str, port: Any, db: Any, password: str | None) -> str:
    secret = f":{quote(password, safe='')}@" if password else ""
    return f"{scheme}://{secret}{host}{f':{port}' if port else ''}/{'' if db is None else db}"


__all__ = ["RedisBackend", "SentinelBackend"]
