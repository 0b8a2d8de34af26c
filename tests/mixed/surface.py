"""How everything public is called, by the Celery of this interpreter: JSON, for the listing in the file that is named.

Path of a class or function -> its ways to be called, "" or the name of a method -> parameters, and which of the ways
are its own.  A parameter is [name, kind, default]; a default is its repr, None if there is none, "..." if no literal.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import click

LITERALS = (type(None), bool, int, float, str, bytes, tuple)
Listing = dict[str, list[str]]
"""Module -> its public names."""


def parameters(called: Any) -> list[list[Any]] | None:
    try:
        found = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return None
    return [[one.name, int(one.kind), default(one)] for one in found]


def default(parameter: inspect.Parameter) -> str | None:
    if parameter.default is parameter.empty:
        return None
    return repr(parameter.default) if isinstance(parameter.default, LITERALS) else "..."


def ways_to_call(thing: Any) -> dict[str, Any]:
    """Of a class: its making, and its public methods that a Celery has defined, as they are called on an instance."""
    ways = {"": parameters(thing)}
    for name in dir(thing) if isinstance(thing, type) else ():
        method = getattr(thing, name, None)
        if name.startswith("_") or not inspect.isroutine(method):
            continue
        ways[name] = parameters(method)
        if inspect.isfunction(method) and not isinstance(inspect.getattr_static(thing, name), staticmethod):
            ways[name] = (ways[name] or [])[1:]
    return ways


def is_inherited(thing: type, name: str, listing: Listing) -> bool:
    """Whether a method is one of another public class, or of a package that is no Celery."""
    method = getattr(thing, name)
    home, owner = str(getattr(method, "__module__", "")), getattr(method, "__qualname__", "").rpartition(".")[0]
    return not home.startswith("celery") or (owner in listing.get(home, ()) and owner != thing.__name__)


def surface(listing: Listing) -> dict[str, dict[str, Any]]:
    """Of all that is defined in the module which lists it; options of commands are for the tests of commands."""
    found: dict[str, dict[str, Any]] = {}
    for module, names in listing.items():
        try:
            home = importlib.import_module(module)
        except ImportError:
            continue  # its package is not installed
        for name in names:
            thing = getattr(home, name, None)
            if not callable(thing) or isinstance(thing, click.Command):
                continue
            here = getattr(thing, "__module__", module) == module
            ways = ways_to_call(thing)
            inherited = {way for way in ways if way and is_inherited(thing, way, listing)}
            found[f"{module}.{name}"] = {
                "ways": ways, "own": [way for way in ways if here and way not in inherited],
            }  # fmt: skip
    return found


def read(file: str) -> Listing:
    lines = (line.partition(":") for line in Path(file).read_text().splitlines() if not line.startswith("#"))
    return {module: names.replace("|", " ").split() for module, _, names in lines}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump(surface(read(sys.argv[1])), sys.stdout)
