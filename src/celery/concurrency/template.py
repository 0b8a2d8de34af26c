"""The process that children are forked from: single-threaded, with the application imported once.

Importing this module is what prepares it: `multiprocessing` imports it in its fork server, as the only preloaded
module, and what else is to be imported comes in the environment.  (Named directly to `multiprocessing`, a module that
raises anything but ImportError would kill the fork server, and the path of the worker would not be looked at.)
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, cast

VARIABLE = "CELERY_POOL_TEMPLATE"


def ensure_running(context: BaseContext, modules: Sequence[str]) -> None:
    """Start the fork server of *context*, which will import *modules*, unless it runs already.

    A fork server that something else in this process has started is used as it is.
    """
    context.set_forkserver_preload([__name__])
    os.environ[VARIABLE] = json.dumps({"path": sys.path, "modules": list(modules)})
    try:
        forkserver.ensure_running()
    finally:
        # Its own copy of the environment is made; nobody else is to become a template.
        del os.environ[VARIABLE]


def prepare(wish: str) -> None:
    """Become the template. What cannot be imported is left to the children, whose boot reports it."""
    # The worker's ladder decides when the template ends: by closing its pipe, not by a signal to the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wishes = cast("dict[str, Any]", json.loads(wish))
    sys.path[:] = wishes["path"]
    for module in wishes["modules"]:
        with contextlib.suppress(Exception, SystemExit):
            import_module(module)
    if threading.active_count() > 1:
        names = ", ".join(wishes["modules"])
        sys.stderr.write(
            f"Importing {names} starts threads, which forked processes do not have: start them in a handler of"
            " worker_process_init, or set worker_pool_start_method to 'spawn'.\n"
        )
    # What is buffered here would be written again by every child.
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing imported so far becomes garbage: leave it out of collections, so that its pages stay shared.
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep `multiprocessing` from running the main module again in a child that needs nothing of it."""
    names = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: names[name] for name in ("__spec__", "__file__") if name in names}
    names.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        names.update(kept)


if VARIABLE in os.environ:
    prepare(os.environ.pop(VARIABLE))
