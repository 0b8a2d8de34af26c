"""Loaders read the configuration and import the modules of tasks."""

from __future__ import annotations

from typing import Any

from celery.utils.imports import import_from_cwd, symbol_by_name

LOADER_ALIASES = {
    "app": "celery.loaders.app:AppLoader",
    "default": "celery.loaders.default:Loader",
}


def get_loader_cls(loader: Any) -> Any:
    """The loader class for an alias, a path, or a class. Raises `ImportError` or `AttributeError`."""
    return symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)


__all__ = ["get_loader_cls"]
