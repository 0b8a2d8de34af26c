"""The class for result backends that programs derive from that of a folder: made as Celery makes it, or by hand."""

from __future__ import annotations

from typing import Any

from celery._state import app_or_default
from celery.app.backends import store_options
from celery.backends.filesystem import FilesystemStore
from celery.backends.results import ResultBackend
from celery.exceptions import ImproperlyConfigured


class FilesystemBackend(ResultBackend):
    """Results in a folder, as every app has them whose `result_backend` is `file:///path`.

    Name a subclass by `result_backend = "module:Class"`, or for the scheme `file` in the loader's `override_backends`.
    """

    def __init__(self, url: str | None = None, **kwargs: Any) -> None:
        app = app_or_default(kwargs.pop("app", None))
        url = url or app.conf.result_backend
        if not url or "://" not in url:
            raise ImproperlyConfigured(f"{type(self).__name__} has no folder: give it a URL, file:///path/to/folder.")
        super().__init__(FilesystemStore(url, options=store_options(app, url)), app, url=url, **kwargs)


__all__ = ["FilesystemBackend"]
