"""Replacing the slots of a running pool, and the code they run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.worker.controller import WorkController

logger = get_logger(__name__)


def restart_pool(
    worker: WorkController,
    modules: Iterable[str] | None = None,
    reload: bool = False,
    reloader: Callable[[Any], Any] | None = None,
) -> None:
    """Import *modules* (those with tasks, if none are named), with *reload* anew; then replace all slots.

    Tasks that run end first.  *reloader* is called with a module instead of `importlib.reload`.  Raises what an import
    raises; then nothing is replaced.  Not from the thread of the worker's loop.
    """
    consumer = worker.consumer
    if consumer is None:
        return
    app = worker.app
    for name in list(app.loader.task_modules if modules is None else modules):
        if name in sys.modules and reload:
            logger.debug("reloading module %s", name)
            _forget_tasks_of(worker, name)
            (reloader or importlib.reload)(sys.modules[name])
        else:
            logger.debug("importing module %s", name)
            app.loader.import_from_cwd(name)
    app.finalize()
    consumer.ask(consumer.pool.restart, timeout=30.0)


def _forget_tasks_of(worker: WorkController, module: str) -> None:
    """The module makes its tasks again: the ones there are would be in the way."""
    assert worker.consumer is not None
    for name, task in list(worker.app.tasks.items()):
        if type(task).__module__ == module:
            worker.app.tasks.pop(name, None)
            worker.consumer.facts.forget(name)
