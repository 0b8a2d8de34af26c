"""An app whose tasks say what happened to them, with a worker in threads, for whole workflows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from celery import Celery
from celery.canvas.signature import Signature
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import Ignore, Reject
from celery.result import allow_join_result
from rig.quiet import is_quiet

SOON = 40.0


class Stage:
    """The app, its tasks as attributes, and what they have noted."""

    worker: TestWorkController

    def __init__(self, broker: str, backend: str) -> None:
        self.app: Celery = TestApp(broker=broker, backend=backend)
        self.noted: list[Any] = []
        self.gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._add_tasks()
        self._add_callbacks()
        self._add_changes()

    def note(self, *words: Any) -> None:
        with self._lock:
            self.noted.append(words if len(words) > 1 else words[0])

    def gate(self, name: str) -> threading.Event:
        with self._lock:
            return self.gates.setdefault(name, threading.Event())

    def notes(self, count: int, *kinds: str) -> list[Any]:
        """What was noted, once there are *count* notes (which begin with one of *kinds*), and no more come."""

        def found() -> list[Any]:
            return [note for note in list(self.noted) if not kinds or note[0] in kinds]

        self.wait(lambda: len(found()) >= count, lambda: f"{count} notes, not {found()}")
        self.settle()
        return found()

    def counted(self, count: int, *kinds: str) -> Counter[Any]:
        return Counter(self.notes(count, *kinds))

    def settle(self) -> None:
        """Until nothing is waiting or running any more."""
        consumer = self.worker.consumer
        assert consumer is not None
        names = [self.app.conf.task_default_queue, "other"]
        self.wait(lambda: is_quiet(consumer, names))

    def wait(self, condition: Callable[[], Any], what: Callable[[], str] = lambda: "this") -> None:
        deadline = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < deadline, f"not within {SOON} s: {what()}"
            time.sleep(0.002)

    def get(self, result: Any, **options: Any) -> Any:
        with allow_join_result():
            return result.get(timeout=SOON, **options)

    def error(self, result: Any) -> BaseException:
        """What *result* has failed with."""
        found = self.get(result, propagate=False)
        assert isinstance(found, BaseException), found
        return found

    def ended(self, result: Any) -> str:
        """The state in which *result* has ended. Where none are stored they come a moment after the task has ended."""
        if self.app.store is None:
            self.wait(result.ready, lambda: f"the end of {result.id}")
        return str(self.meta(result)["status"])

    def meta(self, result: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.app.backend.get_task_meta(result.id, cache=False)
        return found

    def _add_tasks(self) -> None:
        stage, task = self, self.app.task

        @task(name="add", shared=False)
        def add(x: float = 0, y: float = 0) -> float:
            return x + y

        @task(name="total", shared=False)
        def total(numbers: list[float], *more: Any) -> float:
            stage.note("total", list(numbers))
            return sum(numbers)

        @task(name="same", shared=False)
        def same(*args: Any) -> Any:
            stage.note("same", *args)
            return args[0] if args else None

        @task(name="fail", shared=False)
        def fail(*args: Any, text: str = "no") -> None:
            raise ValueError(text)

        @task(name="picky", shared=False, typing=False)
        def picky(only: Any) -> None:
            """Its arguments are checked when it is called."""

        @task(name="ignored", shared=False)
        def ignored(*args: Any) -> None:
            raise Ignore("not worth it")

        @task(name="rejected", shared=False, acks_late=True)
        def rejected(*args: Any) -> None:
            raise Reject("broken", requeue=False)

        @task(name="retried", bind=True, shared=False)
        def retried(self: Any, value: Any, times: int = 2) -> Any:
            if self.request.retries < times:
                raise self.retry(countdown=0)
            return value

        @task(name="opaque", shared=False)
        def opaque(*args: Any) -> Any:
            return threading.Lock()

        @task(name="behind", shared=False)
        def behind(value: Any, gate: str | None = None, opens: str | None = None) -> Any:
            """Waits for a gate, and opens another."""
            if gate is not None:
                assert stage.gate(gate).wait(SOON)
            if opens is not None:
                stage.gate(opens).set()
            return value

        @task(name="about", bind=True, shared=False)
        def about(self: Any, *args: Any) -> dict[str, Any]:
            request = self.request
            return {
                "id": request.id, "root": request.root_id, "parent": request.parent_id, "group": request.group,
                "index": request.group_index, "priority": request.delivery_info["priority"],
                "stamps": request.stamps, "headers": request.headers, "args": list(args),
            }  # fmt: skip

        for made in (add, total, same, fail, picky, ignored, rejected, retried, opaque, behind, about):
            setattr(self, made.name, made)

    def _add_callbacks(self) -> None:
        stage, task = self, self.app.task

        @task(name="told", shared=False)
        def told(request: Any, exc: Any, traceback: Any) -> None:
            stage.note("told", request.id, type(exc).__name__, str(exc))

        @task(name="mourn", shared=False)
        def mourn(task_id: str) -> str:
            stage.note("mourn", task_id)
            return task_id

        @task(name="clumsy", shared=False)
        def clumsy(request: Any, exc: Any, traceback: Any) -> None:
            stage.note("clumsy", request.id)
            raise KeyError("the callback fails too")

        for made in (told, mourn, clumsy):
            setattr(self, made.name, made)

    def _add_changes(self) -> None:
        task = self.app.task

        @task(name="grow", bind=True, shared=False)
        def grow(self: Any, value: Any, more: list[Signature[Any]], lazy: bool = False) -> Any:
            for sig in more:
                added = self.add_to_chord(self.app.signature(sig), lazy=lazy)
                if lazy:
                    with allow_join_result():
                        added.apply_async().get(timeout=SOON)
            return value

        @task(name="become", bind=True, shared=False)
        def become(self: Any, *args: Any, sig: Any = None) -> Any:
            raise self.replace(self.app.signature(sig))

        for made in (grow, become):
            setattr(self, made.name, made)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stage has no task {name!r}")


@contextmanager
def staged(broker: str, backend: str, *, pool: str = "threads", concurrency: int = 4) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(broker, backend)
        stack.callback(stage.app.close)
        stage.worker = stack.enter_context(
            start_worker(stage.app, pool=pool, concurrency=concurrency, perform_ping_check=False, shutdown_timeout=SOON)
        )
        yield stage
