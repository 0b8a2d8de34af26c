"""What installed distributions declare: their entry points and versions.

`importlib.metadata` answers that, and loads the packages `email` and `zipfile` and more to do so: four megabytes in
every process of a worker, nearly always to learn that there is nothing.  So it is asked only where a look into the
folders of `sys.path` does not settle the question.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str) -> Sequence[EntryPoint]:
    """The entry points of *group*."""
    if not _has_foreign_finders() and not any(_declares(path, group) for path in sys.path):
        return ()
    return tuple(import_module("importlib.metadata").entry_points(group=group))


def version(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    begin = f"{distribution}-"
    for path in sys.path:
        for name in _metadata_in(path):
            if name.startswith(begin) and name.endswith(".dist-info"):
                return name.removeprefix(begin).removesuffix(".dist-info")
    metadata = import_module("importlib.metadata")
    try:
        return str(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return None


def _has_foreign_finders() -> bool:
    """Somebody has taught this interpreter other places where distributions are."""
    return any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path)


def _declares(path: str, group: str) -> bool:
    """Whether a distribution in this entry of `sys.path` names *group*, or could: an archive is not looked into."""
    if os.path.isfile(path):  # noqa: PTH113 - entries of sys.path are strings
        return True
    wanted = f"[{group}]".encode()
    for name in _metadata_in(path):
        try:
            with open(os.path.join(path, name, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123 - as above
                if wanted in file.read():
                    return True
        except OSError:
            continue  # it has none
    return False


def _metadata_in(path: str) -> Iterator[str]:
    """The folders in *path* that describe distributions."""
    try:
        names = os.listdir(path or ".")  # noqa: PTH208 - as above
    except OSError:
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")) or name == "EGG-INFO":
            yield name


__all__ = ["entry_points", "version"]
