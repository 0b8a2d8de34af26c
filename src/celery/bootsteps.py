"""Steps: parts of a worker that its users add, made, started and stopped in the order of what they require.

A blueprint sorts steps so that each comes after those it `requires`, makes them, and starts them in that order; they
are stopped in the opposite one.  The worker's own services are no steps: they start in one written order
(`celery.worker.controller`); `celery.worker.components` and `celery.worker.consumer` have their names, so that
steps can require them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery.utils.graph import DependencyGraph, GraphFormatter
from celery.utils.imports import instantiate, qualname, symbol_by_name
from celery.utils.log import get_logger

logger = get_logger(__name__)

RUN, CLOSE, TERMINATE = 0x1, 0x2, 0x3


class StepFormatter(GraphFormatter):
    """How steps are drawn."""

    blueprint_prefix = "⧉"
    conditional_prefix = "∘"

    def label(self, obj: Any) -> str:
        prefix = ""
        if obj is not None:
            prefix = self.blueprint_prefix if obj.last else self.conditional_prefix if obj.conditional else ""
            prefix = f"{prefix} " if prefix else ""
        return f"{prefix}{getattr(obj, 'label', None) or getattr(obj, 'alias', obj)}"


class StepType(type):
    """Names a step class by where it is defined, and resolves what it requires when that is asked for."""

    name: str
    requires: Any

    def __new__(mcs, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> Any:
        module = attrs.get("__module__")
        qualified = f"{module}.{name}" if module else name
        attrs.setdefault("name", qualified)
        attrs.setdefault("__qualname__", name)
        return super().__new__(mcs, name, bases, attrs)

    def __str__(cls) -> str:
        return cls.name

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """Something that is made when the worker is. *parent* is the worker, or its consumer."""

    name: str
    label: str | None = None
    conditional = False
    """May not be wanted: see `include_if`."""
    requires: Any = ()
    """Steps that come before this one: classes, or `module:Class`."""
    last = False
    enabled = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """*kwargs* are the options of the worker."""

    def include_if(self, parent: Any) -> Any:
        """Whether it is wanted."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """An object of a class that may be given by its path."""
        return instantiate(name, *args, **kwargs)

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        return (True, self.create(parent)) if self.include_if(parent) else (False, None)

    def include(self, parent: Any) -> bool:
        """Make it, if it is wanted; whether it was."""
        return self._should_include(parent)[0]

    def create(self, parent: Any) -> Any:
        """Make what the step is about."""

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"

    @property
    def alias(self) -> str:
        return self.label or self.name.rsplit(".", 1)[-1]

    def info(self, obj: Any) -> Any:
        """What `inspect stats` shows of it."""


class StartStopStep(Step):
    """A step that is started and stopped. What `create` returned is in `obj`, and is started and stopped with it."""

    obj: Any = None

    def start(self, parent: Any) -> Any:
        if self.obj:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        if self.obj:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Before any step is stopped: no more work comes."""

    def terminate(self, parent: Any) -> Any:
        """Stop at once."""
        if self.obj:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None

    def include(self, parent: Any) -> bool:
        wanted, made = self._should_include(parent)
        if wanted:
            self.obj = made
            parent.steps.append(self)
        return wanted


class ConsumerStep(StartStopStep):
    """A step with consumers of kombu's on the worker's broker: override `get_consumers(channel)`.

    They have a connection and a thread of their own; their callbacks run in that.  When the connection is lost they
    are made anew.  Needs a broker that kombu knows too (Redis, AMQP and so on, not `sqlite:`).
    """

    requires: Any = ("celery.worker.consumer:Connection",)
    consumers: Any = None

    def get_consumers(self, channel: Any) -> Sequence[Any]:
        """kombu's consumers on *channel*."""
        raise NotImplementedError(
            f"The step {type(self).__name__} has no get_consumers(channel): it has to return kombu's consumers."
        )

    def start(self, c: Any) -> None:
        self._stopped = threading.Event()
        self._connection = self._connect(c)
        self._thread = threading.Thread(target=self._run, args=(c,), name=f"celery-{self.alias}", daemon=True)
        self._thread.start()

    def stop(self, c: Any) -> None:
        self._end()

    shutdown = stop

    def _connect(self, c: Any) -> Any:
        connection = c.connect()
        connection.ensure_connection(max_retries=3)
        self.consumers = list(self.get_consumers(connection.channel()) or ())
        for consumer in self.consumers:
            consumer.consume()
        return connection

    def _run(self, c: Any) -> None:
        while not self._stopped.is_set():
            try:
                self._connection.drain_events(timeout=0.5)
            except TimeoutError:
                continue
            except Exception:
                if self._stopped.is_set():
                    return
                # Of the connection, or of a callback of the user's: in either case the next message is served.
                logger.exception("Step %s: consuming failed, trying again", self.alias)
                self._again(c)

    def _again(self, c: Any) -> None:
        self._stopped.wait(1.0)
        try:
            self._connection.close()
            self._connection = self._connect(c)
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            logger.warning("Step %s: no connection: %s", self.alias, error)

    def _end(self) -> None:
        stopped = getattr(self, "_stopped", None)
        if stopped is None:
            return
        stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
        try:
            self._connection.close()
        except Exception as error:  # noqa: BLE001 - it may be lost already
            logger.debug("Step %s: its connection did not close: %s", self.alias, error)


class Blueprint:
    """Steps in their order, and how far they have come."""

    GraphFormatter = StepFormatter
    name: str | None = None
    state: int | None = None
    started = 0
    default_steps: Iterable[Any] = ()
    state_to_name = {0: "initializing", RUN: "running", CLOSE: "closing", TERMINATE: "terminating"}

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], Any] | None = None,
        on_close: Callable[[], Any] | None = None,
        on_stopped: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name or self.name or qualname(type(self))
        self.types = {*(steps or ()), *self.default_steps}
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = threading.Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []
        self.graph: Any = None

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Make the steps of *parent*, in their order; *kwargs* are their options."""
        self.steps = self.claim_steps()
        self.order = [step(parent, **kwargs) for step in self._sorted()]
        for step in self.order:
            step.include(parent)
        return self

    def start(self, parent: Any) -> None:
        self.state = RUN
        if self.on_start is not None:
            self.on_start()
        for number, step in enumerate(parent.steps):
            self.started = number + 1
            logger.debug("%s: Starting %s", self.alias, step.alias)
            step.start(parent)

    def close(self, parent: Any) -> None:
        """Tell the steps that no more work comes."""
        if self.on_close is not None:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop what was started, the last one first. Happens once."""
        if self.state in {CLOSE, TERMINATE}:
            return
        if close:
            self.close(parent)
        self.state = CLOSE
        self.restart(parent, "terminate" if terminate else "stop")
        self.state = TERMINATE
        if self.on_stopped is not None:
            self.on_stopped()
        self.shutdown_complete.set()

    def restart(
        self, parent: Any, method: str = "stop", description: str = "restarting", propagate: bool = False
    ) -> None:
        """Call *method* of the steps, the last one first."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: Sequence[Any] = (),
    ) -> None:
        """Call *method* of every step that was started. Without *propagate* what one raises is logged."""
        steps = parent.steps[: self.started] if self.started else parent.steps
        for step in reversed(steps) if reverse else steps:
            call = getattr(step, method, None)
            if call is None:
                continue
            logger.debug("%s: %s %s...", self.alias, (description or method).capitalize(), step.alias)
            try:
                call(parent, *args)
            except Exception:
                if propagate:
                    raise
                logger.exception("Error on %s %s", description or method, step.alias)

    def join(self, timeout: float | None = None) -> None:
        """Wait until everything has stopped."""
        self.shutdown_complete.wait(timeout)

    def human_state(self) -> str:
        return self.state_to_name[self.state or 0]

    def info(self, parent: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for step in parent.steps:
            found.update(step.info(parent) or {})
        return found

    def connect_with(self, other: Any) -> None:
        """Draw another blueprint into this one's graph."""
        self.graph.adjacent.update(other.graph.adjacent)
        self.graph.add_edge(type(other.order[0]), type(self.order[-1]))

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    def claim_steps(self) -> dict[str, Any]:
        """Name -> class of every step, and of those that they require."""
        return dict(self.load_step(step) for step in self._all_steps())

    def load_step(self, step: Any) -> tuple[str, Any]:
        step = symbol_by_name(step)
        return step.name, step

    def _all_steps(self) -> set[Any]:
        found, waiting = set(), deque(symbol_by_name(step) for step in self.types)
        while waiting:
            step = waiting.popleft()
            if step not in found:
                found.add(step)
                waiting.extend(symbol_by_name(required) for required in step.requires)
        return found

    def _sorted(self) -> list[Any]:
        steps = sorted(self.steps.values(), key=lambda step: (step.last, step.name))
        self.graph = DependencyGraph(formatter=self.GraphFormatter(root=None))
        for step in steps:
            self.graph.add_arc(step)
            for required in step.requires:
                self.graph.add_edge(step, symbol_by_name(required))
        for last in (step for step in steps if step.last):
            for step in steps:
                if step is not last:
                    self.graph.add_edge(last, step)
        return list(self.graph.topsort())

    @property
    def alias(self) -> str:
        return str(self.name).rsplit(".", 1)[-1]


__all__ = [
    "CLOSE",
    "RUN",
    "TERMINATE",
    "Blueprint",
    "ConsumerStep",
    "StartStopStep",
    "Step",
    "StepFormatter",
    "StepType",
]
