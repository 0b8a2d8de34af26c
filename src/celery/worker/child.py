"""What runs where tasks run: makes the runner of a slot, in a child process or in the worker's own.

A child process does not inherit the application: it imports it by the reference that `app_reference` found.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from celery import signals
from celery.app.backends import make_backend
from celery.app.parts import Parts
from celery.app.runner import make_runner
from celery.concurrency.base import Boot, Runner
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)


class ChildOptions(msgspec.Struct, frozen=True):
    """What a child has to know besides its app. `settings` were changed since the app was imported."""

    loglevel: int = logging.WARNING
    logfile: str | None = None
    redirect_stdouts: bool = True
    redirect_level: str = "WARNING"
    colorize: bool | None = None
    settings: bytes = b""


def boot(app_ref: str | bytes, hostname: str, options: ChildOptions) -> Runner:
    """Prepare this process to run tasks: application, settings, logging, process signals. Called once per process."""
    app = load_app(app_ref)
    app.set_current()
    app.set_default()
    if options.settings:
        app.conf.update(pickle.loads(options.settings))
    _set_up_logging(app, hostname, options)
    app.loader.init_worker()
    app.loader.init_worker_process()
    app.finalize()
    signals.worker_process_init.send(sender=hostname)
    _leave_store(app)
    return _closing(make_runner(app, hostname), hostname)


def _leave_store(app: Celery) -> None:
    """Results go to the worker: a child opens the store only for a task that asks for some, and most never do."""
    if type(app).backend is Parts.backend and "backend" not in vars(app):
        app.backend = make_backend(app, store_later=True)


def boot_here(app: Celery, hostname: str, *, process_signals: bool = True) -> Runner:
    """The runner of slots that share the worker's process, where everything is set up already."""
    if process_signals:
        signals.worker_process_init.send(sender=hostname)
        return _closing(make_runner(app, hostname), hostname)
    return make_runner(app, hostname)


def child_boot(app: Celery, hostname: str, options: ChildOptions) -> Boot:
    """A picklable `boot` for *app*."""
    settings = picklable_settings(app)
    return partial(boot, app_reference(app), hostname, msgspec.structs.replace(options, settings=settings))


def _closing(runner: Runner, hostname: str) -> Runner:
    """*runner* with what is to be done when its slot ends: pools call `close` where a runner has it."""

    def close() -> None:
        error = sys.exc_info()[1]  # what ends this process, if it is not asked to
        code = error.code if isinstance(error, SystemExit) else int(error is not None)
        signals.worker_process_shutdown.send(sender=hostname, pid=os.getpid(), exitcode=code)

    runner.close = close  # type: ignore[attr-defined]
    return runner


def _set_up_logging(app: Celery, hostname: str, options: ChildOptions) -> None:
    app.log.setup(
        options.loglevel,
        options.logfile,
        redirect_stdouts=options.redirect_stdouts,
        redirect_level=options.redirect_level,
        colorize=options.colorize,
        hostname=hostname,
    )


# --- finding the application in another process -----------------------------------------------------------------------


def app_reference(app: Celery) -> str | bytes:
    """How a child process gets *app*: `module:attribute` where a module has it, else the pickled app.

    A pickled app has the tasks of the modules it imports, but not those that were made in a function.  Raises
    ImproperlyConfigured when neither is possible.
    """
    names = [
        f"{name}:{attribute}"
        for name, module in list(sys.modules.items())
        if name != "__mp_main__" and not name.startswith("celery.")
        for attribute, value in list((getattr(module, "__dict__", None) or {}).items())
        if value is app
    ]
    if names:
        # Where several modules have it, the one that is named like the app, else the one that has it closest to home.
        # The program's own file comes last: to have it, a child has to run it again.
        return min(
            names, key=lambda name: (_is_main(name), name.partition(":")[0] != app.main, name.count("."), len(name))
        )
    try:
        return pickle.dumps(app)
    except Exception as error:
        raise ImproperlyConfigured(
            f"The app {app.main!r} cannot be given to child processes ({error}): make it a global of a module that can "
            f"be imported, or use -P threads or -P solo."
        ) from error


def _is_main(reference: str) -> bool:
    return reference.startswith("__main__:")


def load_app(reference: str | bytes) -> Celery:
    """The app that `app_reference` referred to."""
    app: Celery = pickle.loads(reference) if isinstance(reference, bytes) else symbol_by_name(reference)
    return app


def picklable_settings(app: Celery) -> bytes:
    """What was set on *app*, for children that import it anew; values that cannot be pickled are left to the import."""
    kept: dict[str, Any] = {}
    changes: Mapping[str, Any] = app.conf.changes
    for name, value in changes.items():
        try:
            pickle.dumps(value)
        except Exception as error:  # noqa: BLE001 - whatever a value's pickling raises, the value stays here
            logger.debug("Setting %s is not handed to child processes: %s", name, error)
        else:
            kept[name] = value
    return pickle.dumps(kept)
