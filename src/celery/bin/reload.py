"""`celery worker --reload`: run the worker as a child process, and replace it when its source changes.

For development.  The old worker ends warmly: what runs is finished, and its code is the old one.  A worker that cannot
start, because what was saved is half a program, is tried again at the next change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from celery.bin.base import CommandError
from celery.utils.program import command, started_in

RELOADED = "CELERY_RELOADED_BY"
"""The process that watches the source: its child, with the same arguments, is the worker itself."""
SETTLE_MS = 300
"""Milliseconds in which changes are taken for one: an editor or a checkout writes many files."""


def reloads(asked: bool) -> bool:
    """Whether this process is the one that watches."""
    return asked and os.environ.get(RELOADED) != str(os.getppid())


def folders(app: Any, more: Sequence[str]) -> list[str]:
    """What is watched: *more*, or the current folder and the one that the application's module comes from."""
    if more:
        return sorted({str(Path(folder).resolve()) for folder in more})
    found = {Path.cwd().resolve()}
    main = sys.modules.get(str(getattr(app, "main", "")).partition(".")[0])
    file = getattr(main, "__file__", None)
    if file and "site-packages" not in file:
        found.add(Path(file).resolve().parent)
    return sorted(
        str(path) for path in found if not any(path != other and path.is_relative_to(other) for other in found)
    )


def watch_and_run(paths: Iterable[str]) -> int:
    """Run the worker, again after every change under *paths*, until it is told to end; its exit code."""
    try:
        watchfiles = import_module("watchfiles")
    except ImportError as error:
        raise CommandError("--reload needs the package watchfiles: pip install 'celery[reload]'.") from error
    supervisor = Supervisor()
    with supervisor.signals():
        changes = watchfiles.watch(
            *paths,
            watch_filter=watchfiles.PythonFilter(),
            step=100,
            debounce=SETTLE_MS,
            stop_event=supervisor,
            raise_interrupt=False,
        )
        for change in changes:
            names = sorted({os.path.relpath(path) for _, path in change})
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            click.echo(f"reload: {shown} changed", err=True)
            supervisor.renew()
    return supervisor.end()


class Supervisor:
    """The worker's process, and who ends it. `ended` is set when there is nothing more to do here."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = False
        self._asked = 0
        """The signal by which somebody wants an end."""
        self._renewing = False
        self._lock = threading.RLock()

    def is_set(self) -> bool:
        """Whether watching is to end. Asked by who watches, whenever it has looked: so it does watch by then, and no
        change is missed after the worker has read the source."""
        if not self._begun:
            self._begun = True
            self.begin()
        return self.ended.is_set()

    def begin(self) -> None:
        """Start the worker, and watch how it ends."""
        env = {**os.environ, RELOADED: str(os.getpid())}
        with self._lock:
            if self._asked:
                return
            self._renewing = False
            self._process = subprocess.Popen(command(), env=env, cwd=started_in())  # noqa: S603 - this very program
            threading.Thread(target=self._wait_for, args=[self._process], name="celery-reload", daemon=True).start()
            if self._asked:  # while it was made, and there was nobody to pass it on to
                self._process.send_signal(self._asked)

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with self._lock:
            if self._renewing and not self._asked:
                return
            if self._asked or code == 0:
                self.ended.set()
                return
        click.echo(f"reload: the worker has ended with code {code}; it is tried again at the next change", err=True)

    def renew(self) -> None:
        """End the worker warmly, and start another."""
        with self._lock:
            self._renewing = True
            process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        self.begin()

    def signals(self) -> Any:
        """Pass on what this process is told, while the block runs."""
        return _Passing(self)

    def tell(self, number: int) -> None:
        """Somebody wants an end: the worker is told the same."""
        self._asked = number
        process = self._process
        if process is None or process.poll() is not None:
            self.ended.set()
        else:
            process.send_signal(number)

    def end(self) -> int:
        """Wait for the worker; its exit code."""
        process = self._process
        if process is None:
            return 0
        code = process.wait()
        return code if code >= 0 else 128 - code


class _Passing:
    NAMES = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGHUP")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in self.NAMES:
            number = getattr(signal, name)
            self._before[number] = signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: Any) -> None:
        supervisor = self._supervisor
        if number in {signal.SIGUSR1, signal.SIGHUP}:
            process = supervisor._process
            if process is not None and process.poll() is None:
                process.send_signal(number)
            return
        supervisor.tell(number)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
