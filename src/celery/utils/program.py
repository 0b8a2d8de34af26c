"""This very program: how it was started, and starting it again in its place."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn

_folder: str | None = None


def remember_folder() -> None:
    """Note the folder this program was started in, before it goes into another one."""
    global _folder
    if _folder is None:
        with contextlib.suppress(FileNotFoundError):
            _folder = os.getcwd()  # noqa: PTH109 - it is handed on as it is


def started_in() -> str | None:
    """The folder this program was started in; None if that is unknown."""
    return _folder


def command() -> list[str]:
    """The interpreter and its arguments that started this program; `sys.argv` has lost `-m` and `-X`."""
    return [sys.executable, *sys.orig_argv[1:]]


def run_again() -> NoReturn:
    """Run the program anew in this process, with the same arguments, folder and process id. Main thread.

    What was registered to run at the exit of this process runs first.  Files that are not inherited are closed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if _folder is not None:
        with contextlib.suppress(OSError):
            os.chdir(_folder)
    arguments = command()
    os.execv(arguments[0], arguments)  # noqa: S606 - this very program
