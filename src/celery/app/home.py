"""Where the embedded broker lives when no other is configured: one SQLite file for each app, in a folder of the user.

A producer and a worker that were started from different folders meet in it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from celery.exceptions import ImproperlyConfigured
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import pathlib
    from urllib import parse
else:
    pathlib = deferred("pathlib")
    parse = deferred("urllib.parse")


def state_folder() -> pathlib.Path:
    """The folder for embedded state, made if it does not exist.

    `CELERY_HOME` names it; else it is `celery` in `XDG_STATE_HOME`, else `~/.local/state/celery`. Raises
    `ImproperlyConfigured` when it cannot be made or written to.
    """
    named = os.environ.get("CELERY_HOME")
    folder = (
        pathlib.Path(named) if named else pathlib.Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "celery")
    )
    folder = _absolute(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(_advise(folder, f"cannot be made ({error.strerror})")) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImproperlyConfigured(_advise(folder, "cannot be written to"))
    return folder


def embedded_url(app_name: str) -> str:
    """URL of the SQLite file of the app called *app_name*."""
    name = re.sub(r"[^\w.-]+", "_", app_name).strip(".") or "celery"
    return f"sqlite:///{parse.quote(str(state_folder() / f'{name}.db'))}"


def _absolute(folder: pathlib.Path) -> pathlib.Path:
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise ImproperlyConfigured(
            "The user of this process has no home folder for the embedded broker: set CELERY_HOME to a folder that can"
            " be written to, or set broker_url."
        ) from error


def _advise(folder: pathlib.Path, trouble: str) -> str:
    return (
        f"The folder {str(folder)!r} of the embedded broker {trouble}: set CELERY_HOME to a folder that can be written"
        " to, or set broker_url."
    )


__all__ = ["embedded_url", "state_folder"]
