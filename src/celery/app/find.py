"""Find the application that `-A` names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import NotAPackage, import_from_cwd
from celery.utils.imports import symbol_by_name as _symbol_by_name


def find_app(
    app: Any,
    symbol_by_name: Callable[..., Any] = _symbol_by_name,
    imp: Callable[..., Any] = import_from_cwd,
) -> Any:
    """The application that *app* names: `package`, `package.module`, `package.module:attribute`, `package.attribute`.

    Where only a module is named, the application is its attribute `app` or `celery`, else its only application, else it
    is looked for in the submodule `celery` of a package. The current folder is put into `sys.path`. An application is
    returned as it is. Raises `ImproperlyConfigured` with one sentence if there is no such module or no application in
    it; an error that a module raises while it is imported is let through.
    """
    if not isinstance(app, str):
        return app
    _enter_current_folder()
    spec = app.strip()
    if not spec:
        raise ImproperlyConfigured("The application has no name: give -A the module it is in, such as -A proj.celery.")
    if spec.endswith(".py") or "/" in spec:
        suggestion = spec.removesuffix(".py").strip("./").replace("/", ".")
        raise ImproperlyConfigured(f"{app!r} is a file: give the name of the module, -A {suggestion}.")
    module_name, colon, attribute = spec.partition(":")
    if colon:
        found = _import(module_name, spec, imp)
        return _expand(_attribute(found, attribute, spec, imp) if attribute else found, spec, imp)
    return _expand(_import_or_attribute(spec, imp), spec, imp)


def is_app(candidate: Any) -> bool:
    """Whether *candidate* is an application, or a proxy of one."""
    return any(
        cls.__name__ == "Celery" and cls.__module__ == "celery.app.base"
        for cls in getattr(candidate.__class__, "__mro__", ())
    ) and not isinstance(candidate, type)


def _enter_current_folder() -> None:
    # A console script has its own folder at the head of the path, not the one it was called in.
    try:
        folder = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    except FileNotFoundError:  # somebody deleted it: there is nothing to import from it
        return
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)


def _import(name: str, spec: str, imp: Callable[..., Any]) -> Any:
    try:
        return imp(name)
    except (ModuleNotFoundError, NotAPackage) as error:
        missing = getattr(error, "name", None) or str(error)
        if name != missing and not name.startswith(f"{missing}."):
            raise
        raise ImproperlyConfigured(
            f"The application {spec!r} cannot be found: there is no module {name!r} in {os.getcwd()!r} or on"  # noqa: PTH109 - as above
            " PYTHONPATH; check the name given to -A, or go to the folder of the project."
        ) from error


def _import_or_attribute(spec: str, imp: Callable[..., Any]) -> Any:
    """The module *spec*, or what its last part names in the module before it."""
    parent_name, _, last = spec.rpartition(".")
    if not parent_name:
        return _import(spec, spec, imp)
    try:
        return imp(spec)
    except (ModuleNotFoundError, NotAPackage) as error:
        missing = getattr(error, "name", None) or str(error)
        if spec != missing and not spec.startswith(f"{missing}."):
            raise
    parent = _import(parent_name, spec, imp)
    return _attribute(parent, last, spec, imp)


def _attribute(module: Any, path: str, spec: str, imp: Callable[..., Any]) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name) and hasattr(found, "__path__"):
            _import_inner(f"{found.__name__}.{name}", imp)
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ImproperlyConfigured(_nothing_there(spec, module, f"{path!r} is not in it")) from None
    return found


def _expand(found: Any, spec: str, imp: Callable[..., Any]) -> Any:
    """The application that *found* is, or that is in it."""
    if is_app(found):
        return found
    if not isinstance(found, ModuleType):
        # What has the shape of an application may be one: a subclass behind a proxy, a double in a test.
        if hasattr(found, "tasks") and hasattr(found, "conf"):
            return found
        raise ImproperlyConfigured(f"{spec!r} is {found!r}, and that is no Celery application.")
    for name in ("app", "celery"):
        candidate = getattr(found, name, None)
        if is_app(candidate):
            return candidate
    if hasattr(found, "__path__"):
        inner = _import_inner(f"{found.__name__}.celery", imp)
        if inner is not None:
            return _expand(inner, spec, imp)
    for candidate in vars(found).values():
        if is_app(candidate):
            return candidate
    raise ImproperlyConfigured(_nothing_there(spec, found, "no Celery application is in it"))


def _import_inner(name: str, imp: Callable[..., Any]) -> Any:
    try:
        return imp(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _nothing_there(spec: str, module: Any, trouble: str) -> str:
    name = getattr(module, "__name__", spec)
    file = getattr(module, "__file__", None)
    apps = [key for key, value in vars(module).items() if is_app(value)] if isinstance(module, ModuleType) else []
    hint = f"try -A {name}:{apps[0]}" if apps else "name it by -A package.module:attribute"
    if name.partition(".")[0] == "celery" and os.path.exists("celery.py"):  # noqa: PTH110 - as above
        hint = "your celery.py has the name of this package and cannot be imported: call it tasks.py, and use -A tasks"
    return f"The module {name!r}{f' ({file})' if file else ''} was imported, but {trouble}: {hint}."


__all__ = ["find_app", "is_app"]
