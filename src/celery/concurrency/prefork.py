"""The prefork pool: slots are processes, forked from a clean template, fed in windows over a socket each.

The worker's thread that owns the pool does everything here: no locks, no helper threads, nothing shared with the
children but a socket, a pipe and a lifeline each (`frames` says how they are used).
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import pickle
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from multiprocessing.process import current_process
from typing import Any, cast

from celery.concurrency.base import Boot, Pool, PoolCapabilities, PoolOptions, Runner, Running, close_runner
from celery.concurrency.child import WORKER_SIGRESET as WORKER_SIGRESET
from celery.concurrency.child import Channel, ParentGone, end_as_asked, end_with_parent, leave, prepare_signals, serve
from celery.concurrency.frames import Notice, notice_frame
from celery.concurrency.nursery import Nursery, main_module
from celery.concurrency.outcomes import plain, returned
from celery.concurrency.slot import Slot, open_slot
from celery.concurrency.template import prepare_main
from celery.concurrency.window import share
from celery.exceptions import PoolError, TimeLimitExceeded
from celery.signals import worker_before_create_process
from celery.wire.message import Job, Outcome

logger = logging.getLogger("celery.pool")

MOST_WINDOW = 256
"""The permits of a window must fit into the smallest pipe a system may give us."""
MOST_LULL = 0.002
"""Seconds for which children that are busy with tiny jobs are left alone, so that outcomes come in batches."""
COLD_GRACE = 2.0
"""Seconds that idle children get to end by themselves in a cold shutdown."""
MOST_FAILURES = 6
"""Children in a row that die before they did anything, after which the pool gives up."""
FIRST_RETRY = 0.1
"""Seconds until a child that died at its start is replaced; each further one doubles them."""
LINGER = 300.0
"""Seconds that a template is kept after it was needed for a replacement: deaths come in crowds."""
QUICK_DEATH = 1.0
"""Seconds; a child that lived no longer and finished no job died at its start."""


def process_initializer(boot: Boot) -> Runner:
    """Prepare a child: the first thing of the application that runs in it. Instrumentation wraps this function."""
    return boot()


def process_destructor(pid: int, exitcode: int) -> None:
    """The last thing that runs in a child, after its runner is closed. Instrumentation wraps this function."""


def run_child(
    voice: int,
    stream: int,
    permits: int,
    lifeline: int,
    boot: bytes,
    options: PoolOptions,
    main: dict[str, Any] | None,
    index: int,
) -> None:
    """The life of a child, from its first step to its end. The nursery has it called."""
    current_process().index = index  # type: ignore[attr-defined]  # what %i in the name of a log file is made of
    channel = Channel(voice, socket.socket(fileno=stream), permits)
    prepare_signals()
    runner: Runner | None = None
    try:
        end_with_parent(lifeline)
        channel.send(notice_frame(Notice("born", str(os.getpid()))))
        try:
            if main is not None:
                prepare_main(main)
            runner = process_initializer(pickle.loads(boot))
        except Exception as exc:
            text = plain(f"{type(exc).__name__}: {exc}")
            channel.send(notice_frame(Notice("failed", text)))
            logger.debug("A pool process could not boot", exc_info=True)
            sys.exit(1)
        channel.send(notice_frame(Notice("ready")))
        leave(channel, serve(runner, channel, options))
    except (ParentGone, BrokenPipeError, ConnectionResetError):
        # Nobody is left to tell; what this process ran will be swept with its worker's lease.
        return
    finally:
        _close(runner)
        end_as_asked()


def _close(runner: Runner | None) -> None:
    error = sys.exc_info()[1]
    code = error.code if isinstance(error, SystemExit) else int(error is not None)
    try:
        close_runner(runner)
    finally:
        process_destructor(os.getpid(), code if isinstance(code, int) else int(code is not None))
        # The process ends without them; they run once in any case.
        atexit._run_exitfuncs()


class PreforkPool(Pool):
    """Processes that run one job at a time each.

    `boot` must be picklable. The module it comes from and `options.preload` are imported in the template that children
    are forked from. `start_method` is `forkserver` (also called `fork`) or `spawn`, which imports the application anew
    in every child.

    A template is there while children are being made. It stays where they will be replaced as a matter of course, and
    for `LINGER` seconds after one was; else it ends, for it holds as much memory as a child, and the first child that
    has to be replaced takes as long as the application takes to import.

    What `submit` takes beyond the windows of the children waits in the pool, as does what was taken back from a child
    that turned out to be busy.
    """

    name = "prefork"
    can = PoolCapabilities(processes=True, soft_limits=True, hard_limits=True, windows=True)

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        super().__init__(size, boot, options)
        method = {"fork": "forkserver"}.get(self.options.start_method, self.options.start_method)
        if method not in {"forkserver", "spawn"}:
            raise PoolError(
                f"There is no start method {self.options.start_method!r} for pool processes; use 'fork' or 'spawn'."
            )
        modules = [name for name in (__name__, *self.options.preload, _home(boot)) if name != "__main__"]
        self.nursery = Nursery(modules, forks=method == "forkserver")
        self._watched = -1
        self._template_until = 0.0
        self._window = max(1, min(self.options.window, MOST_WINDOW))
        self._boot_bytes = b""
        self._boot_needs_main = False
        self._slots: list[Slot] = []
        self._selector: selectors.DefaultSelector | None = None
        self._waiting: deque[Job] = deque()
        self._ended: list[Outcome] = []
        self._running = self._starting = False
        self._failures = 0
        self._failure = ""
        self._retry_at = 0.0
        self._made = 0
        self._last_mean: float | None = None
        self._owner = 0

    # -- the port ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        try:
            self._boot_bytes = pickle.dumps(self.boot)
        except Exception as exc:
            raise PoolError(
                f"The pool could not start: {self.boot!r} cannot be sent to another process ({exc}); use a function at"
                " the top of a module."
            ) from exc
        self._boot_needs_main = b"__main__" in self._boot_bytes
        self._selector = selectors.DefaultSelector()
        self._running, self._starting, self._owner = True, True, os.getpid()
        atexit.register(self._end_at_exit)
        try:
            self._start_slots()
        except BaseException:
            self.terminate()
            raise
        self._starting = False

    def _start_slots(self) -> None:
        until = time.monotonic() + self.options.start_timeout
        for _ in range(self.size):
            self._launch()
        while not all(slot.ready for slot in self._slots):
            left = until - time.monotonic()
            if left <= 0:
                raise PoolError(
                    f"A pool process was not ready within {self.options.start_timeout:g} seconds: look for slow imports"
                    " in the application, or raise worker_proc_alive_timeout."
                )
            self._collect(left)
            if self._failure:
                raise PoolError(f"The pool could not start: {self._failure}")
        self._tend_template(time.monotonic())

    def free(self) -> int:
        now, most = time.monotonic(), self._window
        return max(0, sum([slot.room(most, now) for slot in self._slots]) - len(self._waiting))

    def idle(self) -> int:
        return max(0, sum([slot.ready and not slot.jobs for slot in self._slots]) - len(self._waiting))

    def submit(self, jobs: Sequence[Job]) -> None:
        if not self._running:
            raise PoolError("The pool does not run: call start() before submit().")
        self._waiting.extend(jobs)
        self._dispatch(time.monotonic())

    def poll(self) -> list[Outcome]:
        if self._running:
            self._collect(0.0)
            now = time.monotonic()
            self._keep_up(now)
            if self._waiting:
                self._dispatch(now)
        ended, self._ended = self._ended, []
        if not ended and self._failures >= MOST_FAILURES:
            raise PoolError(
                f"The pool gives up: {self._failures} processes in a row ended before they took a task. The last"
                f" one: {self._failure}"
            )
        return ended

    def filenos(self) -> list[int]:
        # A selector is readable when one of its files is ready: also when a full socket takes bytes again.
        return [] if self._selector is None else [int(cast("Any", self._selector).fileno())]

    def wait_hint(self) -> float | None:
        if not self._running:
            return 0.0 if self._ended else None
        now = time.monotonic()
        if self._ended or (self._waiting and any(slot.room(self._window, now) for slot in self._slots)):
            return 0.0
        times = [when for slot in self._slots if (when := slot.next_look(self.options.start_timeout)) is not None]
        if self._active() < self.size:
            times.append(self._retry_at)
        if self.nursery.runs and not self._keeps_template:
            times.append(self._template_until)
        return max(0.0, min(times) - now) if times else None

    def lull(self) -> float:
        if self._ended or self._waiting:
            return 0.0
        return min(MOST_LULL, min([slot.lull() for slot in self._slots], default=0.0))

    def running(self) -> list[Running]:
        unix = time.time() - time.monotonic()
        found = []
        # Copies, which are made in one go: another thread may be asking.
        for slot in list(self._slots):
            started: float | None = unix + slot.started
            for job in list(slot.jobs.values()):
                found.append(Running(job.tag, slot.pid, started))
                started = None
        return [*found, *(Running(job.tag, 0, None) for job in list(self._waiting))]

    def withdraw(self) -> list[int]:
        for slot in self._slots:
            self._waiting.extend(slot.take_back())
        tags = [job.tag for job in self._waiting]
        self._waiting.clear()
        return tags

    def kill(self, tag: int, signal: int) -> bool:
        for slot in self._slots:
            number = next((number for number, job in slot.jobs.items() if job.tag == tag), None)
            if number is not None and self._still_runs(slot, number):
                slot.send_signal(signal)
                return True
        return False

    def resize(self, size: int) -> None:
        self.size = size
        surplus = self._active() - size
        if surplus > 0:
            active = [slot for slot in self._slots if not slot.asked_to_end]
            for slot in sorted(active, key=lambda slot: (len(slot.jobs), -slot.born))[:surplus]:
                self._unwind(slot)
                slot.ask_to_end()
        elif self._running:
            self._refill(time.monotonic())

    def restart(self) -> None:
        if not self.nursery.busy and self.nursery.adopts:
            # The next one imports what is on the disk now. (Elsewhere it is the parent of the children.)
            self.nursery.end()
            self._watch_template()
        for slot in [slot for slot in self._slots if not slot.asked_to_end]:
            self._unwind(slot)
            slot.ask_to_end()
        if self._running:
            self._refill(time.monotonic())

    def pids(self) -> list[int]:
        return [slot.pid for slot in self._slots if slot.pid]

    def given(self) -> list[int]:
        return [slot.given for slot in self._slots if slot.pid]

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        if not self._running:
            return self._last_outcomes()
        until = None if timeout is None else time.monotonic() + timeout
        self._close_down()
        while self._slots:
            now = time.monotonic()
            if until is not None and now >= until:
                return self.terminate()
            self._keep_up(now)
            hints = [
                when - now for slot in self._slots if (when := slot.next_look(self.options.start_timeout)) is not None
            ]
            if until is not None:
                hints.append(until - now)
            self._collect(max(0.0, min(hints)) if hints else None)
        return self._last_outcomes()

    def terminate(self) -> list[Outcome]:
        if self._selector is None:
            return self._last_outcomes()
        self._close_down()
        for slot in self._slots:
            self._read(slot, time.monotonic())
            if slot.jobs:
                slot.send_signal(signal.SIGKILL)
        until = time.monotonic() + COLD_GRACE
        while self._slots and (left := until - time.monotonic()) > 0:
            self._collect(left)
        for slot in self._slots.copy():
            slot.send_signal(signal.SIGKILL)
            self._bury(slot)
        return self._last_outcomes()

    # -- slots ---------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        assert self._selector is not None
        worker_before_create_process.send(sender=self)
        self._made += 1
        index = self._free_index()
        slot = open_slot(
            self.nursery,
            run_child,
            f"ForkPoolWorker-{self._made}",
            (self._boot_bytes, self.options, main_module() if self._boot_needs_main else None, index),
            mean=self._last_mean,
        )
        slot.index = index
        self._watch_template()
        self._selector.register(slot.voice, selectors.EVENT_READ, slot)
        self._slots.append(slot)
        self._watch_end(slot)

    def _free_index(self) -> int:
        """The lowest place that no child has, counted from 0: one that leaves has given its place up."""
        taken = {slot.index for slot in self._slots if slot.leaving is None and not slot.asked_to_end}
        return next(index for index in itertools.count() if index not in taken)

    def _watch_end(self, slot: Slot) -> None:
        if slot.sentinel is None and slot.process.sentinel is not None:
            assert self._selector is not None
            slot.sentinel = slot.process.sentinel
            self._selector.register(slot.sentinel, selectors.EVENT_READ, slot)

    def _watch_template(self) -> None:
        """Look at the template there is, and at no other any more."""
        assert self._selector is not None
        number = self.nursery.fileno() if self.nursery.runs else -1
        if number != self._watched:
            if self._watched >= 0:
                self._selector.unregister(self._watched)
            if number >= 0:
                self._selector.register(number, selectors.EVENT_READ, self.nursery)
            self._watched = number

    @property
    def _keeps_template(self) -> bool:
        """The children need it, or will be replaced as a matter of course."""
        return not self.nursery.adopts or self.options.max_tasks is not None or self.options.max_memory is not None

    def _tend_template(self, now: float) -> None:
        nursery = self.nursery
        if nursery.runs and not nursery.busy and not self._keeps_template and now >= self._template_until:
            nursery.end()
            self._watch_template()

    def _active(self) -> int:
        return sum(not slot.asked_to_end for slot in self._slots)

    def _refill(self, now: float) -> None:
        """Start the children that are missing, unless the last ones died at their start a moment ago."""
        while self._active() < self.size and now >= self._retry_at and self._failures < MOST_FAILURES:
            self._template_until = now + LINGER
            try:
                self._launch()
            except (OSError, EOFError) as exc:
                self._count_failure(f"no process could be started: {exc!r}", now)

    def _collect(self, timeout: float | None) -> None:
        """Read what the children have said, waiting up to *timeout* seconds for the first word."""
        assert self._selector is not None
        dead: list[Slot] = []
        events = self._selector.select(timeout)
        now = time.monotonic()
        for key, _ in events:
            if key.data is self.nursery:
                self.nursery.attend()
                self._watch_template()
                continue
            slot: Slot = key.data
            if key.fileobj is slot.stream:
                slot.flush()
                slot.watch(self._selector)
            elif key.fileobj == slot.voice:
                self._read(slot, now)
                if slot.notices:
                    self._heed(slot, now)
                if slot.hung_up:
                    # It would be readable for ever; the sentinel follows.
                    slot.ignore(self._selector)
                    if slot.sentinel is None:
                        dead.append(slot)
            else:
                dead.append(slot)
        for slot in dead:
            self._bury(slot)

    def _read(self, slot: Slot, now: float) -> None:
        outcomes = slot.read(now)
        if outcomes:
            self._ended += outcomes
            # Children that run jobs do not die at their start.
            self._failures = 0

    def _heed(self, slot: Slot, now: float) -> None:
        notices, slot.notices = slot.notices, []
        for notice in notices:
            if notice.kind == "born":
                slot.process.known_as(int(notice.text))
                self.nursery.settle(slot.process)
                self._watch_end(slot)
            elif notice.kind == "ready":
                slot.ready = not slot.asked_to_end
            elif notice.kind == "failed":
                slot.failure = notice.text
            else:
                if not slot.asked_to_end:
                    logger.info("Pool process %d ends: %s.", slot.pid, notice.text)
                slot.ready, slot.asked_to_end, slot.leaving = False, True, now
                self._unwind(slot)

    def _unwind(self, slot: Slot) -> None:
        """Take back what has not started in *slot*, to be given to the next free one."""
        self._waiting.extendleft(reversed(slot.take_back()))

    def _dispatch(self, now: float) -> None:
        if not self._running:
            return
        waiting, most = self._waiting, self._window
        slots = sorted([slot for slot in self._slots if slot.ready], key=lambda slot: len(slot.jobs))
        for slot, count in zip(slots, share(len(waiting), [slot.room(most, now) for slot in slots]), strict=True):
            if count:
                slot.give([waiting.popleft() for _ in range(count)], now)
                if slot.blocked and self._selector is not None:
                    slot.watch(self._selector)

    # -- upkeep --------------------------------------------------------------------------------------------------

    def _keep_up(self, now: float) -> None:
        """Hold the limits, take windows back from behind long jobs, replace who left."""
        for slot in self._slots:
            when = slot.next_look(self.options.start_timeout)
            if when is None or now < when:
                continue
            if slot.leaving is not None:
                logger.warning("Pool process %d did not end by itself: killed.", slot.pid)
                slot.leaving = now
                slot.send_signal(signal.SIGKILL)
            elif not slot.ready and not slot.asked_to_end:
                slot.failure = f"It was not ready within {self.options.start_timeout:g} seconds."
                slot.born = now
                if slot.pid:
                    slot.send_signal(signal.SIGKILL)
                else:
                    # The template hangs, or is gone.
                    self.nursery.end()
                    self._watch_template()
            else:
                self._enforce(slot, now)
        if self._running:
            if self._failures and self._active() == self.size and self._settled(now):
                self._failures = 0
            if len(self._slots) != self.size or self._active() < self.size:
                self._refill(now)
            self._tend_template(now)

    def _settled(self, now: float) -> bool:
        """Every child has outlived the time in which one dies at its start."""
        return all(slot.ready and now - slot.born > QUICK_DEATH for slot in self._slots)

    def _enforce(self, slot: Slot, now: float) -> None:
        """The running job of *slot* is longer than its window was made for, or at its hard limit."""
        number, job = next(iter(slot.jobs.items()))
        if job.hard is None or now < slot.started + job.hard:
            self._unwind(slot)
        elif self._still_runs(slot, number):
            slot.timed_out, slot.ready = True, False
            slot.send_signal(signal.SIGKILL)

    def _still_runs(self, slot: Slot, number: int) -> bool:
        """Whether that job runs in *slot* and nothing else can start there: what is killed now is this job."""
        # In this order: a child that has started the next job has sent the outcome of this one before.
        self._unwind(slot)
        self._read(slot, time.monotonic())
        return number in slot.jobs

    def _bury(self, slot: Slot) -> None:
        """Settle what a dead child leaves behind."""
        assert self._selector is not None
        self._slots.remove(slot)
        slot.ignore(self._selector)
        if slot.sentinel is not None:
            self._selector.unregister(slot.sentinel)
        self.nursery.settle(slot.process)
        ending = slot.finish() if slot.pid else self.nursery.trouble or "It ended before it had begun."
        now = time.monotonic()
        began = slot.started
        self._read(slot, now)
        self._heed(slot, now)
        self._ended += [returned(job) for job in slot.take_back()]
        for job in slot.jobs.values():
            state, detail = "LOST", ending
            if slot.timed_out:
                state, detail = "TIMEOUT", repr(TimeLimitExceeded(job.hard))
            self._ended.append(Outcome(job.tag, state, now - began, detail=detail))
        slot.close()
        self._last_mean = slot.pace.mean
        in_vain = not (slot.finished or slot.jobs or slot.asked_to_end)
        if self._running and in_vain and (not slot.ready or now - slot.born < QUICK_DEATH):
            self._count_failure(slot.failure or ending, now)

    def _count_failure(self, text: str, now: float) -> None:
        self._failures += 1
        self._failure = text
        self._retry_at = now + FIRST_RETRY * 2 ** (self._failures - 1)
        if not self._starting:
            logger.error("A pool process ended before it took a task: %s", text)

    # -- the end -------------------------------------------------------------------------------------------------

    def _close_down(self) -> None:
        """Nothing new starts: everything unstarted is returned, and children end after their running jobs."""
        self._running = False
        for slot in self._slots.copy():
            self._unwind(slot)
            if not slot.pid:
                self._bury(slot)
                continue
            booting = not slot.ready and not slot.asked_to_end and not slot.timed_out
            slot.ask_to_end()
            if booting:
                slot.send_signal(signal.SIGKILL)
        self._ended += [returned(job) for job in self._waiting]
        self._waiting.clear()

    def _last_outcomes(self) -> list[Outcome]:
        self.nursery.end()
        if self._selector is not None:
            self._selector.close()
            self._selector = None
            atexit.unregister(self._end_at_exit)
        ended, self._ended = self._ended, []
        return ended

    def _end_at_exit(self) -> None:
        # A fork of the worker that exits must leave the worker's children alone.
        if os.getpid() == self._owner:
            self.terminate()


def _home(boot: Boot) -> str:
    """The module that *boot* comes from."""
    while isinstance(boot, partial):
        boot = boot.func
    return getattr(boot, "__module__", None) or __name__


TaskPool = PreforkPool
