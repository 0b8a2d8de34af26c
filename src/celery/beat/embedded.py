"""Beat inside of another program: a thread of it, or a process beside it that ends with it."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from typing import Any

import msgspec

from celery.beat.service import Service
from celery.platforms import set_process_title
from celery.utils.log import get_logger
from celery.worker.child import app_reference, load_app, picklable_settings

logger = get_logger("celery.beat")

PROGRAM = "from celery.beat.embedded import main; main()"
AGAIN_AFTER = 5.0
"""Seconds after which an embedded beat that failed is started again."""
PATIENCE = 10.0
"""Seconds that one may take to end."""


class Order(msgspec.Struct, frozen=True):
    """What a process has to know: the app, as `app_reference` gives it, and how to log."""

    app: str | bytes
    settings: bytes
    options: dict[str, Any]
    loglevel: int
    logfile: str | None


class _Embedded(ABC):
    """Keeps one `Service` running, in the way that a subclass has, until it is stopped."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.options = kwargs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="celery-beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have it end, its schedule written."""
        self._stopping.set()
        self._end()
        self._thread.join(PATIENCE)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                trouble = self._run()
            except Exception as error:  # whatever a scheduler of the user's raises, the worker goes on
                logger.exception("beat: The embedded beat failed")
                trouble = str(error)
            if self._stopping.is_set():
                return
            logger.error("beat: The embedded beat ended (%s). It is started again in %g s.", trouble, AGAIN_AFTER)
            self._stopping.wait(AGAIN_AFTER)

    @abstractmethod
    def _run(self) -> str:
        """Run until it ends; how it did."""

    @abstractmethod
    def _end(self) -> None:
        """Have `_run` end."""


class _Threaded(_Embedded):
    """Beat in a thread of this process."""

    service: Service | None = None

    def _run(self) -> str:
        self.app.set_current()
        self.service = Service(self.app, **self.options)
        if not self._stopping.is_set():
            self.service.start(embedded_process=True)
        return "it was stopped"

    def _end(self) -> None:
        if self.service is not None:
            self.service.stop()


class _Process(_Embedded):
    """Beat in a process of its own, which holds the reading end of a pipe: when that closes, whyever, it ends."""

    def __init__(self, app: Any, *, loglevel: int = 30, logfile: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._order = Order(app_reference(app), picklable_settings(app), kwargs, loglevel, logfile)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _run(self) -> str:
        process = self._process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE)  # noqa: S603 - ourselves
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps((sys.path, self._order)))
            process.stdin.flush()
        except BrokenPipeError:
            logger.debug("beat: The embedded beat ended before it had begun")
        if self._stopping.is_set():
            self._end()
        return f"exit code {process.wait()}"

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            logger.warning("beat: The embedded beat did not end within %g s and is killed", PATIENCE)
            process.kill()
            process.wait()


def EmbeddedService(  # noqa: N802 - the public name
    app: Any, max_interval: float | None = None, *, thread: bool = False, **kwargs: Any
) -> Any:
    """A beat to `start()` and `stop()` inside of this program: in a process of its own, or in a *thread* of this one.

    *kwargs* are those of `Service`; for a process also `loglevel` and `logfile`.
    """
    if thread:
        for name in ("loglevel", "logfile"):
            kwargs.pop(name, None)
        return _Threaded(app, max_interval=max_interval, **kwargs)
    return _Process(app, max_interval=max_interval, **kwargs)


def main() -> None:
    """The process of `_Process`: what it is to do comes in on stdin, and when that ends so does it."""
    source = sys.stdin.buffer
    paths, order = pickle.load(source)
    sys.path[:] = paths
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker too, which then ends this
    app = load_app(order.app)
    app.set_current()
    app.set_default()
    app.conf.update(pickle.loads(order.settings))
    app.log.setup(order.loglevel, order.logfile, redirect_stdouts=bool(app.conf.worker_redirect_stdouts),
                  redirect_level=app.conf.worker_redirect_stdouts_level)  # fmt: skip
    set_process_title("celery beat", info="embedded")
    app.loader.init_worker()
    app.finalize()
    service = Service(app, **order.options)
    signal.signal(signal.SIGTERM, lambda *_: service.stop())

    def follow() -> None:
        source.read()
        service.stop()

    threading.Thread(target=follow, name="celery-beat-lifeline", daemon=True).start()
    service.start(embedded_process=True)
