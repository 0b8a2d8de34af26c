"""`celery shell`: a Python prompt at which the application and its tasks have names."""

from __future__ import annotations

import code
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from celery.bin.base import CeleryCommand, CeleryOption, CommandError, handle_preload_options

HEADING = "Shell Options"


def _invoke_ipython_shell(names: dict[str, Any]) -> None:
    import_module("IPython").start_ipython(argv=[], user_ns=names)


def _invoke_bpython_shell(names: dict[str, Any]) -> None:
    import_module("bpython").embed(names)


def _invoke_ptpython_shell(names: dict[str, Any]) -> None:
    import_module("ptpython.repl").embed(names, names)


def _invoke_fallback_shell(names: dict[str, Any]) -> None:
    try:
        readline = import_module("readline")
        rlcompleter = import_module("rlcompleter")
    except ImportError:
        pass
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab:complete")
    code.interact(local=names, exitmsg="")


SHELLS: tuple[tuple[str, Callable[[dict[str, Any]], None]], ...] = (
    ("IPython", _invoke_ipython_shell),
    ("bpython", _invoke_bpython_shell),
    ("ptpython", _invoke_ptpython_shell),
)


def _invoke_default_shell(names: dict[str, Any]) -> None:
    """The first that is installed; Python's own where input does not come from a terminal."""
    for package, invoke in SHELLS if sys.stdin.isatty() else ():
        try:
            import_module(package)
        except ImportError:
            continue
        invoke(names)
        return
    _invoke_fallback_shell(names)


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@click.option("-I", "--ipython", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Use IPython.")
@click.option("-B", "--bpython", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Use bpython.")
@click.option("--python", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Use Python's own prompt.")
@click.option(
    "-T", "--without-tasks", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Give the tasks no names."
)
@click.option("--eventlet", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Patch with eventlet first.")
@click.option("--gevent", is_flag=True, cls=CeleryOption, help_group=HEADING, help="Patch with gevent first.")
@click.pass_context
@handle_preload_options
def shell(
    ctx: click.Context,
    ipython: bool = False,
    bpython: bool = False,
    python: bool = False,
    without_tasks: bool = False,
    eventlet: bool = False,
    gevent: bool = False,
) -> None:
    """Start a Python prompt with the application at hand.

    \b
    app, celery      the application
    Task, chord, group, chain, chunks, xmap, xstarmap, subtask
    every task       by the last part of its name
    """
    if sys.path[0] != "" and os.getcwd() not in sys.path:  # noqa: PTH109 - an entry of the path
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    for library, wanted in (("eventlet", eventlet), ("gevent", gevent)):
        if wanted:
            _patch(library)
    app = ctx.obj.app
    app.loader.import_default_modules()
    names = _names(app, with_tasks=not without_tasks)
    chosen = (ipython, "IPython", _invoke_ipython_shell), (bpython, "bpython", _invoke_bpython_shell)
    for wanted, package, invoke in chosen:
        if wanted:
            try:
                import_module(package)
            except ImportError as error:
                raise CommandError(f"{package} is not installed: pip install {package.lower()}.") from error
            invoke(names)
            return
    (_invoke_fallback_shell if python else _invoke_default_shell)(names)


def _names(app: Any, *, with_tasks: bool) -> dict[str, Any]:
    canvas = import_module("celery.canvas")
    tools = ("chord", "group", "chain", "chunks", "xmap", "xstarmap", "subtask")
    names: dict[str, Any] = {"app": app, "celery": app, "Task": app.Task}
    names.update({name: getattr(canvas, name) for name in tools})
    if with_tasks:
        own = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
        names.update({name.rpartition(".")[2]: task for name, task in sorted(own.items())})
    return names


def _patch(library: str) -> None:
    try:
        module = import_module(library if library == "eventlet" else "gevent.monkey")
    except ImportError as error:
        raise CommandError(f"{library} is not installed: pip install 'celery[{library}]'.") from error
    (module.monkey_patch if library == "eventlet" else module.patch_all)()
