"""Celeriac: the Celery API, implemented from scratch. Names load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celery._state import current_app as current_app
    from celery._state import current_task as current_task
    from celery.app.base import Celery as Celery
    from celery.app.broadcast import broadcast as broadcast
    from celery.app.shared import shared_task as shared_task
    from celery.app.task import Task as Task
    from celery.app.utils import bugreport as bugreport
    from celery.canvas import Signature as Signature
    from celery.canvas import maybe_signature as maybe_signature
    from celery.canvas import subtask as subtask
    from celery.canvas.chain import chain as chain
    from celery.canvas.chord import chord as chord
    from celery.canvas.group import group as group
    from celery.canvas.maps import chunks as chunks
    from celery.canvas.maps import xmap as xmap
    from celery.canvas.maps import xstarmap as xstarmap
    from celery.canvas.signature import signature as signature
    from celery.patching import maybe_patch_concurrency as maybe_patch_concurrency
    from celery.utils import uuid as uuid

    VERSION_BANNER: str


class version_info_t(NamedTuple):  # noqa: N801 - the public name
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


SERIES = "celeriac"
__version__ = "5.7.0"
VERSION = version_info = version_info_t(5, 7, 0, "", "")

_HOMES = {
    "Celery": "celery.app.base",
    "Signature": "celery.canvas",
    "Task": "celery.app.task",
    "broadcast": "celery.app.broadcast",
    "bugreport": "celery.app.utils",
    "chain": "celery.canvas",
    "chord": "celery.canvas",
    "chunks": "celery.canvas",
    "current_app": "celery._state",
    "current_task": "celery._state",
    "group": "celery.canvas",
    "maybe_patch_concurrency": "celery.patching",
    "maybe_signature": "celery.canvas",
    "shared_task": "celery.app.shared",
    "signature": "celery.canvas",
    "subtask": "celery.canvas",
    "uuid": "celery.utils",
    "xmap": "celery.canvas",
    "xstarmap": "celery.canvas",
}
_MODULES = frozenset({
    "app", "beat", "bootsteps", "canvas", "events", "exceptions", "execute", "local", "log", "messaging", "registry",
    "result", "schedules", "security", "signals", "states", "utils",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(home), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    elif name == "VERSION_BANNER":
        value = import_module("celery.utils.version").version_banner(__version__, SERIES)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES, "VERSION_BANNER"})


__all__ = [
    "SERIES",
    "VERSION",
    "VERSION_BANNER",
    "Celery",
    "Signature",
    "Task",
    "__version__",
    "broadcast",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_patch_concurrency",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "version_info",
    "version_info_t",
    "xmap",
    "xstarmap",
]
