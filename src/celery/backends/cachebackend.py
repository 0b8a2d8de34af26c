"""The class for result backends that programs derive from that of memcached: made as Celery makes it, or by hand."""

from __future__ import annotations

from typing import Any

from celery._state import app_or_default
from celery.app.backends import store_options
from celery.backends.cache import MemcachedStore
from celery.backends.memory import MemoryStore
from celery.backends.results import ResultBackend
from celery.exceptions import ImproperlyConfigured


class CacheBackend(ResultBackend):
    """Results in memcached, or in memory, as every app has them whose `result_backend` is a URL `cache+…://`.

    Name a subclass by `result_backend = "module:Class"`.  The place is *url* or *backend* (`memcached://host:11211/`,
    `memory://`), else the setting `cache_backend`; *options* are those of pymemcache's client.
    """

    def __init__(
        self, app: Any, expires: Any = None, backend: str | None = None, options: Any = None, url: str | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        app = app_or_default(app)
        place = url or backend or app.conf.cache_backend
        if not place:
            raise ImproperlyConfigured(f"{type(self).__name__} has no place: give it a URL, or set cache_backend.")
        place = "cache+" + (place if "://" in place else f"{place}://").removeprefix("cache+")
        cls = MemoryStore if place.startswith("cache+memory:") else MemcachedStore
        store = cls(place, options={**store_options(app, place), **(options or {})})
        super().__init__(store, app, expires=expires, url=place, **kwargs)


__all__ = ["CacheBackend"]
