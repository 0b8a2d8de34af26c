"""What a process is that children are forked from: single-threaded, with the application imported once.

A `nursery` starts it as an interpreter that does nothing but `main`, and tells it over a socket what to do.  Each
message is a pickle, after its length; the file descriptors it speaks of come with the length.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.process
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from celery.concurrency.child import end_with_parent
from celery.concurrency.frames import Notice, notice_frame
from celery.concurrency.process import STATUS

LENGTH = struct.Struct("<I")
MOST_DESCRIPTORS = 5
TEMPLATE_NAME, CHILD_NAME = "celery-template", "celery-pool"
"""What these processes are called in lists of processes, where the system lets them choose."""
READY = b"R"
"""What the template says when it has imported what it was to import."""


class Wish(NamedTuple):
    """What an interpreter that was started is to be. With it comes its lifeline, if it is to be a template."""

    modules: tuple[str, ...] = ()
    """To be imported before anything is forked."""
    forks: bool = True
    """It is a template; otherwise it becomes the child of the one birth that follows."""
    adopted: bool = False
    """The worker is the parent of what is forked, not the template."""


class Birth(NamedTuple):
    """A child that is asked for.

    With it come the descriptors of its voice, its stream, its permits and its lifeline, and, where the worker cannot
    see it end, of a pipe that tells of its end.
    """

    name: str
    life: Callable[..., None]
    """Called in the child with the descriptors of its voice, stream, permits and lifeline, and *arguments*."""
    arguments: tuple[Any, ...]
    authkey: bytes
    path: tuple[str, ...]
    argv: tuple[str, ...]
    folder: str | None


def send(channel: socket.socket, message: Wish | Birth, descriptors: Sequence[int] = ()) -> None:
    """Send a message with descriptors, which stay open here."""
    payload = pickle.dumps(message)
    socket.send_fds(channel, [LENGTH.pack(len(payload))], descriptors)
    channel.sendall(payload)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """The next message, still pickled, and its descriptors; empty when the worker has hung up."""
    head, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, MOST_DESCRIPTORS)
    if not head:
        return b"", descriptors
    size = LENGTH.unpack(head)[0]
    for number in descriptors:
        os.set_inheritable(number, False)
    payload = bytearray()
    while len(payload) < size:
        part = channel.recv(size - len(payload))
        if not part:
            return b"", descriptors
        payload += part
    return bytes(payload), descriptors


def main(number: int) -> None:
    """What the interpreter does: *number* is its end of the socket to the worker."""
    # The worker's ladder decides when it ends: by closing its end, not by a signal to the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.set_inheritable(number, False)
    channel = socket.socket(fileno=number)
    payload, descriptors = receive(channel)
    if not payload:
        return
    wish: Wish = pickle.loads(payload)
    if wish.forks:
        call_itself(TEMPLATE_NAME)
        end_with_parent(descriptors[0])
        prepare(wish.modules)
        channel.sendall(READY)
        (Bearer if wish.adopted else ReportingBearer)(channel, descriptors[0]).serve()
        # It has done nothing that would be to finish.
        os._exit(0)
    payload, descriptors = receive(channel)
    channel.close()
    if payload:
        live(payload, descriptors)


def prepare(modules: Sequence[str]) -> None:
    """Import *modules*. What cannot be imported is left to the children, whose boot reports it."""
    for module in modules:
        with contextlib.suppress(Exception, SystemExit):
            import_module(module)
    if threading.active_count() > 1:
        sys.stderr.write(
            f"Importing {', '.join(modules)} starts threads, which forked processes do not have: start them in a"
            " handler of worker_process_init, or set worker_pool_start_method to 'spawn'.\n"
        )
    # What is buffered here would be written again by every child.
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing imported so far becomes garbage: leave it out of collections, so that its pages stay shared.
    gc.collect()
    gc.freeze()


class Bearer:
    """Forks a child for each `Birth`, until the worker hangs up.

    The child's parent is not this process but one between them, which ends at once: so the kernel gives the child to
    the worker, which has declared itself the reaper of its orphans.  What becomes of this process is nothing to it.
    """

    def __init__(self, channel: socket.socket, lifeline: int) -> None:
        self.channel = channel
        self.own: tuple[int, ...] = (channel.fileno(), lifeline)

    def serve(self) -> None:
        while True:
            payload, descriptors = receive(self.channel)
            if not payload:
                return
            self.bear(payload, descriptors)
            for number in descriptors:
                os.close(number)

    def bear(self, payload: bytes, descriptors: list[int]) -> None:
        between = self.fork(descriptors)
        if between is None:
            return
        if between:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(between, 0)
            return
        own = os.getpid()
        if self.fork(descriptors) == 0:
            wait_for_parent(own)
            self.begin(payload, descriptors)
        os._exit(0)

    def fork(self, descriptors: list[int]) -> int | None:
        """`os.fork`; None if there can be no process, of which the worker is told on the child's stream."""
        try:
            return os.fork()
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.write(descriptors[0], notice_frame(Notice("failed", f"no process could be forked: {exc}")))
            return None

    def begin(self, payload: bytes, descriptors: list[int]) -> NoReturn:
        for number in self.own:
            os.close(number)
        live(payload, descriptors)


class ReportingBearer(Bearer):
    """Is the parent of what it forks, and reports how each child ends on the last descriptor that came with it."""

    def __init__(self, channel: socket.socket, lifeline: int) -> None:
        super().__init__(channel, lifeline)
        self.reports: dict[int, int] = {}
        self.wake, waker = os.pipe()
        self.own = (*self.own, self.wake, waker)
        for number in (self.wake, waker):
            os.set_blocking(number, False)
        signal.set_wakeup_fd(waker)
        self.handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> None:
        while True:
            readable = select.select([self.channel.fileno(), self.wake], [], [])[0]
            if self.wake in readable:
                os.read(self.wake, 4096)
                self.report()
            if self.channel.fileno() in readable:
                payload, descriptors = receive(self.channel)
                if not payload:
                    return
                self.bear(payload, descriptors)

    def bear(self, payload: bytes, descriptors: list[int]) -> None:
        *used, report = descriptors
        pid = self.fork(descriptors)
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, self.handler)
            for number in (report, *self.reports.values()):
                os.close(number)
            self.begin(payload, used)
        if pid:
            self.reports[pid] = report
        else:
            os.close(report)
        for number in used:
            os.close(number)

    def report(self) -> None:
        while self.reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            report = self.reports.pop(pid, None)
            if report is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(report, STATUS.pack(os.waitstatus_to_exitcode(status)))
                os.close(report)


def call_itself(name: str) -> None:
    """Let this process be called *name* by the system; its command line stays."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:  # noqa: PTH123 - a file of the kernel's
        file.write(name)


def wait_for_parent(before: int) -> None:
    """Wait until *before*, the parent of this process, has ended and the worker is its parent."""
    until = time.monotonic() + 1
    while os.getppid() == before and time.monotonic() < until:
        time.sleep(0.0001)


def live(payload: bytes, descriptors: list[int]) -> NoReturn:
    """Be the child that was asked for, from its first step to the end of this process."""
    code = 1
    try:
        birth: Birth = pickle.loads(payload)
        _settle(birth)
        birth.life(*descriptors[:4], *birth.arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nobody is left who could hear of it
        traceback.print_exc()
    finally:
        # As an interpreter ends, but for what it does with modules and objects.
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code & 0xFF)


def prepare_main(data: dict[str, Any]) -> None:
    """Have the names of the worker's main module here, which *data* says how to find: it is run as `__mp_main__`."""
    process = multiprocessing.process.current_process()
    # Where nothing keeps it from doing in here what it does there, it is told so.
    process._inheriting = True  # type: ignore[attr-defined]
    try:
        import_module("multiprocessing.spawn").prepare(data)
    finally:
        del process._inheriting  # type: ignore[attr-defined]


def _settle(birth: Birth) -> None:
    """Be where the worker is, and called what it calls this process."""
    call_itself(CHILD_NAME)
    sys.path[:] = birth.path
    sys.argv[:] = birth.argv
    if birth.folder is not None:
        with contextlib.suppress(OSError):
            os.chdir(birth.folder)
    process = multiprocessing.process
    # What the application started while the template imported it is the template's.
    process._children.clear()  # type: ignore[attr-defined]
    process.current_process().name = birth.name
    process.current_process().authkey = birth.authkey
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
