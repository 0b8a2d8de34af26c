"""Remote control, the worker's side: what a command is, and how it is added.

A command is a function of the control state (`app`, `hostname`, `consumer`, …) and its arguments; what it returns is
the node's answer, by convention `{"ok": …}` or `{"error": …}`.  Commands run on the mailbox's thread; what touches the
loop goes through `state.consumer.ask`.  The commands themselves are in `inspection`, `steering`, `revoking`,
`poolcontrol` and `eventcontrol`; `celery.worker.control` has all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as LoopBusy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from celery.concurrency.base import Running
from celery.worker.claimed import Claimed as Request

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.consumer import Consumer
    from celery.worker.controller import WorkController

Command = TypeVar("Command", bound=Callable[..., Any])
Arguments = Sequence[tuple[str, Callable[[str], Any]]]


LOOP_PATIENCE = 0.5
"""Seconds within which a loop that runs no task answers, also on a machine that is busy."""


class controller_info_t(NamedTuple):  # noqa: N801 - the public name
    """What is known of a command."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Arguments | None
    variadic: str | None


def ok(value: Any) -> dict[str, Any]:
    """A good answer."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """An answer that says what is wrong."""
    return {"error": value}


class ControlState:
    """What commands are given: this node. Commands of users find the attributes of the original here."""

    def __init__(self, app: Celery, hostname: str, consumer: Consumer, controller: WorkController) -> None:
        self.app = app
        self.hostname = hostname
        self.consumer = consumer
        self.controller = controller
        self.tset = set

    def __getitem__(self, name: str) -> Any:
        """The original's state is a map too."""
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def tell(self, call: Callable[[], Any]) -> bool:
        """Have the loop make *call*; whether it has.

        A loop that runs a task itself (the pool solo) makes it when the task has ended.
        """
        try:
            self.consumer.ask(call, timeout=LOOP_PATIENCE)
        except LoopBusy:
            return False
        return True

    def running(self) -> dict[int, Running]:
        """What is in the pool, by tag; without start times if the pool cannot say it."""
        try:
            found = self._ask_pool()
        except (LoopBusy, RuntimeError):
            return {request.tag: Running(request.tag, os.getpid(), request.time_start) for request in self.inside()}
        return {running.tag: running for running in found}

    def _ask_pool(self) -> list[Running]:
        pool = self.consumer.pool
        try:
            # Not by way of the loop, which may wait for a busy broker just now, or (solo) be inside a task.
            return pool.running()
        except RuntimeError:
            return self.consumer.ask(pool.running, timeout=LOOP_PATIENCE)

    def inside(self) -> list[Request]:
        return list(self.consumer.inside.values())

    def active(self) -> list[Request]:
        """Requests that run now."""
        running = self.running()
        found = []
        for request in self.inside():
            slot = running.get(request.tag)
            if slot is not None and slot.started is not None:
                request.time_start, request.worker_pid = slot.started, slot.pid
                found.append(request)
        return found

    def reserved(self) -> list[Request]:
        """Requests that were claimed and do not run yet."""
        active = {request.tag for request in self.active()}
        return [request for request in self.consumer.requests() if request.tag not in active]


class Panel:
    """The commands of a worker, by name."""

    data: dict[str, Callable[..., Any]] = {}
    meta: dict[str, controller_info_t] = {}

    @classmethod
    def register(
        cls,
        name: Any = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Arguments | None = None,
        variadic: str | None = None,
    ) -> Any:
        """A decorator that adds a command, with the options of `control_command`, or without: `@Panel.register`."""
        if callable(name):
            return cls.register()(name)

        def add(fun: Command) -> Command:
            control_name = name or fun.__name__
            said = help or (fun.__doc__ or "").strip().split("\n")[0]
            cls.data[control_name] = fun
            cls.meta[control_name] = controller_info_t(
                alias, type, visible, default_timeout, said, signature, args, variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return add


def control_command(**kwargs: Any) -> Callable[[Command], Command]:
    """A decorator for a command that changes something, of type `control`.

    Options: `name`, `type`, `args` (pairs of name and type, for the command line), `signature`, `help`, `visible`,
    `default_timeout`, `alias`, `variadic`.
    """
    decorator: Callable[[Command], Command] = Panel.register(**{"type": "control", **kwargs})
    return decorator


def inspect_command(**kwargs: Any) -> Callable[[Command], Command]:
    """A decorator for a command that only asks, of type `inspect`."""
    decorator: Callable[[Command], Command] = Panel.register(**{"type": "inspect", **kwargs})
    return decorator
