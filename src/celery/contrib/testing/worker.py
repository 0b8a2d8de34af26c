"""A worker inside a test: `with start_worker(app): …`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.concurrency import get_implementation
from celery.result import AsyncResult, allow_join_result
from celery.utils.dispatch import Signal
from celery.utils.nodenames import anon_nodename
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.controller import WorkController

if TYPE_CHECKING:
    from celery.app.base import Celery

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})


class TestWorkController(WorkController):
    """A worker that runs in a thread of a test's process, and can be waited for."""

    __test__ = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failure: BaseException | None = None
        self._settled = threading.Event()
        super().__init__(*args, **kwargs)

    def start(self) -> None:
        """Run until stopped; an error that ends it is kept in `failure`."""
        try:
            super().start()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._settled.set()

    def on_consumer_ready(self, consumer: Consumer) -> None:
        super().on_consumer_ready(consumer)
        self._settled.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def ensure_started(self, timeout: float = 60.0) -> None:
        """Wait until tasks are claimed; raises what kept the worker from it."""
        if not self._settled.wait(timeout):
            raise RuntimeError(f"The worker did not start within {timeout} seconds.")
        if self.failure is not None:
            raise self.failure


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 30.0,
    shutdown_timeout: float = 30.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """Run a worker for *app* in a thread while the block lasts.

    With *perform_ping_check* the block begins when the task `celery.ping` has come back; the app needs that task
    (import `celery.contrib.testing.tasks`) and a result backend.  Raises RuntimeError when the worker does not stop
    within *shutdown_timeout* seconds.
    """
    test_worker_starting.send(sender=app)
    worker = None
    try:
        with _start_worker_thread(
            app,
            concurrency=concurrency,
            pool=pool,
            loglevel=loglevel,
            logfile=logfile,
            perform_ping_check=perform_ping_check,
            shutdown_timeout=shutdown_timeout,
            **kwargs,
        ) as worker:
            if perform_ping_check:
                _ping(app, ping_task_timeout)
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


def _ping(app: Celery, timeout: float) -> None:
    with allow_join_result():
        answer: AsyncResult[str] = app.tasks["celery.ping"].delay()
        assert answer.get(timeout=timeout) == "pong"


@contextmanager
def _start_worker_thread(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    WorkController: Any = TestWorkController,  # noqa: N803 - the public name
    perform_ping_check: bool = True,
    shutdown_timeout: float = 30.0,
    **kwargs: Any,
) -> Iterator[Any]:
    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check and "celery.ping" not in app.tasks:
        raise RuntimeError("start_worker() pings with the task celery.ping: import celery.contrib.testing.tasks first.")
    if isinstance(pool, str):
        # Here, and not by the worker in its thread: eventlet keeps a copy of the module threading, which takes the
        # thread that first imports eventlet for the main one. Nobody could wait for its end any more.
        get_implementation(pool)
    worker = WorkController(
        app=app,
        hostname=kwargs.pop("hostname", anon_nodename()),
        pool=pool,
        concurrency=concurrency,
        loglevel=loglevel,
        logfile=logfile,
        without_heartbeat=kwargs.pop("without_heartbeat", True),
        **kwargs,
    )
    thread = threading.Thread(target=worker.start, name="celery-test-worker", daemon=True)
    thread.start()
    try:
        worker.ensure_started()
        yield worker
    finally:
        worker.stop()
        thread.join(shutdown_timeout)
        if thread.is_alive():
            raise RuntimeError(
                f"The worker did not stop within {shutdown_timeout} seconds: does a task still run? Give "
                f"start_worker() a longer shutdown_timeout."
            )
        state.reset_state()


@contextmanager
def _start_worker_process(
    app: Celery, concurrency: int = 1, pool: str = "solo", loglevel: str | int = WORKER_LOGLEVEL, **kwargs: Any
) -> Iterator[Any]:
    """Kept for the API: the worker runs in a thread."""
    with _start_worker_thread(app, concurrency, pool, loglevel, **kwargs) as worker:
        yield worker


def setup_app_for_worker(app: Celery, loglevel: str | int, logfile: str | None) -> None:
    """Make *app* the current and default one, and have it log."""
    app.finalize()
    app.set_current()
    app.set_default()
    app.log.already_setup = False
    app.log.setup(loglevel, logfile)


__all__ = [
    "WORKER_LOGLEVEL",
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
]
