"""The application: configuration, tasks and sending them. Names load when they are first used."""

# No `from __future__ import annotations`: that name would hide the module `celery.app.annotations`.
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery._state import (
    app_or_default as app_or_default,
)
from celery._state import (
    disable_trace as disable_trace,
)
from celery._state import (
    enable_trace as enable_trace,
)
from celery._state import (
    pop_current_task as pop_current_task,
)
from celery._state import (
    push_current_task as push_current_task,
)

if TYPE_CHECKING:
    from celery._state import default_app as default_app
    from celery.app.base import Celery as Celery
    from celery.app.shared import shared_task as shared_task
    from celery.app.utils import AppPickler as AppPickler
    from celery.app.utils import bugreport as bugreport

_HOMES = {
    "AppPickler": "celery.app.utils",
    "Celery": "celery.app.base",
    "bugreport": "celery.app.utils",
    "shared_task": "celery.app.shared",
}


def __getattr__(name: str) -> Any:
    if name == "default_app":
        return import_module("celery._state").default_app
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


__all__ = [
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
]
