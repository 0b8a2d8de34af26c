"""The pool port: slots that run jobs and say what became of them.

A pool knows nothing of tasks, brokers or applications: it is handed `boot`, a picklable callable that is called once
in every process (or thread) that will run jobs and returns the runner for them.  It never calls back: the worker's
loop waits on `filenos` and collects with `poll`, so that everything the loop does happens on one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from celery.concurrency.classic import BasePool as BasePool
from celery.concurrency.classic import apply_target as apply_target
from celery.exceptions import PoolError
from celery.utils.descriptors import Poll, poll
from celery.utils.log import get_logger
from celery.wire.message import Job, Outcome

logger = get_logger("celery.pool")
Runner = Callable[[Job], Outcome]
"""Runs one job to its end. Never raises but for SystemExit and what ends the process.

It may have `close()`, called when its slot ends, and `begin(job, home)`, for pools of coroutines: called on the thread
of the loop *home* (a `LoopThread`), the coroutine that runs the job there, or a function that runs it in any thread.
"""
Boot = Callable[[], Runner]
"""Prepares a slot: loads the application, sends the process signals. May raise; the pool then fails to start."""


def close_runner(runner: Runner | None) -> None:
    """Tell *runner* that its slot has ended, if it wants to know."""
    close = getattr(runner, "close", None)
    if close is not None:
        close()


class PoolCapabilities(msgspec.Struct, frozen=True):
    """Facts about a pool, read instead of its name."""

    processes: bool = False
    """Jobs run outside the worker's process: they can be killed, and can die."""
    soft_limits: bool = False
    """Soft time limits are enforced."""
    hard_limits: bool = False
    """Hard time limits are enforced."""
    limits: str = ""
    """How far limits reach, where that is not everywhere: a sentence for whoever sets one."""
    cancels: bool = False
    """`kill` ends jobs, although they run in the worker's process."""
    windows: bool = False
    """Takes several jobs a slot, so that tiny ones need no wake-up each."""


class PoolOptions(msgspec.Struct, frozen=True):
    """How slots are kept. Times in seconds, memory in KiB of resident set."""

    max_tasks: int | None = None
    max_memory: int | None = None
    start_timeout: float = 30.0
    start_method: str = "forkserver"
    preload: tuple[str, ...] = ()
    """Modules that a process template imports once, before any slot is forked from it."""
    window: int = 64
    """Most jobs a slot holds at once, where the pool has windows; 1 means exactly one (`-O fair`)."""


class Running(msgspec.Struct, frozen=True):
    """A job in a slot. `started` is the Unix time at which it began, None while it waits in the slot's window."""

    tag: int
    pid: int
    started: float | None


class Errands(Protocol):
    """Runs functions in the slots of a pool: the worker's loop brings it."""

    def apply(
        self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Any
    ) -> Any: ...


class Pool(ABC):
    """Runs jobs. Every method belongs to the thread that called `start`, except where it says otherwise."""

    name: str = ""
    can: PoolCapabilities = PoolCapabilities()
    errands: Errands | None = None

    def __init__(self, size: int, boot: Boot, options: PoolOptions | None = None) -> None:
        self.size = size
        self.boot = boot
        self.options = options or PoolOptions()

    @abstractmethod
    def start(self) -> None:
        """Make the slots. Returns when every slot can run jobs; raises `PoolError` when one cannot."""

    @abstractmethod
    def free(self) -> int:
        """How many more jobs `submit` would take now."""

    def idle(self) -> int:
        """How many of them would begin at once, behind no other."""
        return self.free()

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand out jobs, at most `free()` of them. Does not block."""

    @abstractmethod
    def poll(self) -> list[Outcome]:
        """What has ended since the last call. Does not block. Also does the upkeep: replaces slots, kills at limits."""

    @abstractmethod
    def filenos(self) -> list[int]:
        """Descriptors that turn readable when `poll` may have something to say. Ask again after each `poll`."""

    def poller(self) -> Poll:
        """What the loop waits with. Jobs that run on the loop's own thread run on meanwhile."""
        return poll()

    @abstractmethod
    def wait_hint(self) -> float | None:
        """Seconds after which `poll` should be called although nothing became readable (a limit, a dying slot)."""

    def lull(self) -> float:
        """Seconds for which there is no use in looking: every slot has plenty of tiny jobs left. Usually none."""
        return 0.0

    @abstractmethod
    def running(self) -> list[Running]:
        """The jobs that were submitted and have not been collected. Any thread, while the pool's own thread goes on.

        Of a job that begins or ends meanwhile it says either; a RuntimeError means: ask in the pool's own thread.
        """

    @abstractmethod
    def withdraw(self) -> list[int]:
        """Take back every job that has not started, where that is possible; their tags."""

    @abstractmethod
    def kill(self, tag: int, signal: int) -> bool:
        """Send *signal* to the process that runs job *tag*; False where it is not running or cannot be killed.

        The job then ends with an `Outcome` of state LOST.
        """

    @abstractmethod
    def resize(self, size: int) -> None:
        """Grow now; shrink as slots come free."""

    def restart(self) -> None:
        """Boot anew: every slot is replaced once its running job has ended. Does not block for that."""
        raise PoolError(f"The pool {self.name} cannot be restarted.")

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes that run jobs."""

    def given(self) -> list[int]:
        """How many jobs each of the processes has been given so far, where slots are processes. Any thread."""
        return []

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Have *target* called in a slot, beside the tasks. Returns at once; any thread.

        Options: `callback(value)`, `error_callback(einfo)`, `accept_callback(pid, monotonic time)`,
        `timeout_callback(soft, seconds)`, and the limits `soft_timeout` and `timeout`, in seconds.
        """
        if self.errands is None:
            raise PoolError("Functions run in a pool only while a worker drives it.")
        return self.errands.apply(target, args or (), kwargs or {}, options)

    @abstractmethod
    def stop(self, timeout: float | None = None) -> list[Outcome]:
        """Warm: no new jobs, wait up to *timeout* seconds for the running ones, end the slots; the last outcomes."""

    @abstractmethod
    def terminate(self) -> list[Outcome]:
        """Cold: kill what runs and end the slots now; LOST and RETURNED outcomes for every job that was out."""
