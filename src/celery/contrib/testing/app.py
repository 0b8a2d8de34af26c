"""An application for tests that leaves no trace in others."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from celery import _state
from celery.app.base import Celery
from celery.utils import uuid

DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


class Trap:
    """Stands in for the current app in a test, and fails it when code falls back on that."""

    def __getattr__(self, name: str) -> Any:
        # A copy or a pickle may look at any object.
        if name in {"_is_a_trap", "__deepcopy__", "__reduce_ex__", "__class__", "_get_current_object"}:
            raise AttributeError(name)
        raise RuntimeError("Test depends on current_app")


class UnitLogging:
    """Makes `app.log` set up logging anew for each app."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.already_setup = True


def TestApp(  # noqa: N802 - the public name
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = None,
    backend: Any = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """An app with settings for tests: everything in memory, in a place of its own unless *broker* names one."""
    settings = {**deepcopy(DEFAULT_TEST_CONFIG), **(config or {})}
    place = uuid()
    if broker is not None or settings["broker_url"] == "memory://":
        settings["broker_url"] = broker or f"memory://{place}"
    if backend is not None or settings["result_backend"] == "cache+memory://":
        settings["result_backend"] = backend or f"memory://{place}"
    app = Celery(name or "celery.tests", set_as_current=set_as_current, log=log, **kwargs)
    app.conf.update(settings)
    return app


@contextmanager
def set_trap(app: Celery) -> Iterator[None]:
    """In this block, code that uses the current app instead of its own raises RuntimeError."""
    trap = Trap()
    before_default, before = _state.default_app, _state._tls

    class NonTLS:
        current_app = trap

    _state.set_default_app(trap)  # type: ignore[arg-type]
    _state._tls = NonTLS()  # type: ignore[assignment]
    try:
        yield
    finally:
        _state.set_default_app(before_default)
        _state._tls = before


@contextmanager
def setup_default_app(app: Celery, use_trap: bool = False) -> Iterator[None]:
    """In this block *app* is the current one (with *use_trap*, none is); afterwards all is as it was."""
    before, before_default = _state.get_current_app(), _state.default_app
    before_finalizers, before_apps = dict(_state._finalizers), weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            _state._set_current_app(app)
            yield
    finally:
        _state.set_default_app(before_default)
        _state._set_current_app(before)
        if before is not app:
            app.close()
        for callback in [callback for callback in _state._finalizers if callback not in before_finalizers]:
            del _state._finalizers[callback]
        for other in list(_state._apps):
            if other not in before_apps:
                _state._deregister_app(other)


__all__ = ["DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app"]
