"""Helpers beside the core: `xmap`; for tests, for documentation. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.contrib.itemwise import ItemError as ItemError
    from celery.contrib.itemwise import XMapResult as XMapResult
    from celery.contrib.itemwise import xmap as xmap

_HOMES = dict.fromkeys(("ItemError", "XMapResult", "xmap"), "celery.contrib.itemwise")


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


__all__ = ["ItemError", "XMapResult", "xmap"]
