"""The loader of apps."""

from __future__ import annotations

from celery.loaders.base import BaseLoader


class AppLoader(BaseLoader):
    """Reads `CELERY_CONFIG_MODULE` only where it is set."""


__all__ = ["AppLoader"]
