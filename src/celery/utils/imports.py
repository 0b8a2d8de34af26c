"""Functions about importing by name."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from celery.utils.plugins import entry_points

#: Set by `celery.bin` when the program is itself `__main__`: the file its tasks are named after.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")


class NotAPackage(Exception):
    """A module is to be found inside something that is not a package."""


def qualname(obj: Any) -> str:
    """`module.name` of a class, a function, or an object's class."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name: str = getattr(obj, "__qualname__", None) or obj.__name__
    module: str | None = getattr(obj, "__module__", None)
    return f"{module}.{name}" if module else name


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """The object at `module:attribute` or `module.attribute`; anything that is not text is returned as it is.

    *default*, if given, is returned when the module or the attribute is not there.
    """
    if not isinstance(name, str):
        return name
    path = (aliases or {}).get(name) or name
    separator = ":" if ":" in path else sep
    module_name, _, attribute = path.rpartition(separator)
    if not module_name:
        module_name, attribute = (package, attribute) if package else (attribute, "")
    try:
        module = (imp or importlib.import_module)(module_name, package=package, **kwargs)
        return getattr(module, attribute) if attribute else module
    except (ImportError, AttributeError):
        if default is None:
            raise
    return default


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class or function that *name* leads to."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """The current folder in `sys.path` for a while, at its head; it is taken out only if it was not there."""
    try:
        cwd = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    except FileNotFoundError:  # somebody deleted the folder we stand in: there is nothing to import from it
        cwd = ""
    if not cwd or cwd in sys.path:
        yield
        return
    sys.path.insert(0, cwd)
    try:
        yield
    finally:
        if cwd in sys.path:
            sys.path.remove(cwd)


def find_module(module: str, path: Any = None, imp: Callable[..., ModuleType] | None = None) -> ModuleType | None:
    """Import *module* with the current folder in the path.

    Raises `NotAPackage` when a parent in the dotted name is a plain module.
    """
    imp = imp or importlib.import_module
    with cwd_in_path():
        try:
            return imp(module)
        except ImportError:
            # A dotted name that fails: say which parent is the one that cannot have children.
            parts = module.split(".")
            for depth in range(1, len(parts)):
                parent = imp(".".join(parts[:depth]))
                if not hasattr(parent, "__path__"):
                    raise NotAPackage(".".join(parts[:depth])) from None
            raise


def import_from_cwd(module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
    """Import with the current folder at the head of the path."""
    with cwd_in_path():
        return (imp or importlib.import_module)(module, package=package)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], ModuleType] | None = None) -> ModuleType:
    """Reload with the current folder at the head of the path."""
    with cwd_in_path():
        return (reloader or importlib.reload)(module)


def module_file(module: ModuleType) -> str:
    """The source file of *module*."""
    name = module.__file__ or ""
    return name.removesuffix("c") if name.endswith(".pyc") else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """The name of a task that was not given one: `module.name`.

    In `__main__` the module is `app.main`, or the name of the program's file where a worker can import that; so it is
    in `__mp_main__`, as which `multiprocessing` runs the program's file again in child processes.
    """
    module_name = module_name or "__main__"
    if module_name in {"__main__", "__mp_main__"}:
        module_name = "__main__"
        if MP_MAIN_FILE:
            module_name = os.path.basename(MP_MAIN_FILE).removesuffix(".py")  # noqa: PTH119
        if getattr(app, "main", None):
            module_name = app.main
    return f"{module_name}.{name}" if module_name else name


def load_extension_class_names(namespace: str) -> Iterator[tuple[str, str]]:
    """(name, `module:class`) of every entry point of a group."""
    for entry in entry_points(namespace):
        yield entry.name, entry.value


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """(name, class) of every entry point of a group; one that cannot be loaded is warned of and left out."""
    for name, path in load_extension_class_names(namespace):
        try:
            cls = symbol_by_name(path)
        except (ImportError, SyntaxError, AttributeError) as exc:
            warnings.warn(f"Cannot load {namespace} extension {path!r}: {exc!r}", stacklevel=2)
        else:
            yield name, cls


def module_exists(name: str) -> bool:
    """Whether *name* could be imported, as far as can be told without importing it (its parents are imported)."""
    try:
        return name in sys.modules or find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


__all__ = [
    "MP_MAIN_FILE",
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "load_extension_class_names",
    "load_extension_classes",
    "module_exists",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
]
