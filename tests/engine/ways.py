"""Tasks whose messages go their own way: importable by the children of a pool. In tests by the fixture `ways`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject, TaskPredicate
from celery.worker.request import Request
from celery.worker.strategy import default
from engine.notes import note


def add_up(log: str, ids: list[str], numbers: list[int]) -> int:
    """Runs in a slot: one call for many messages."""
    note(log, f"sum {len(ids)} {os.getpid()}")
    return sum(numbers)


class Collecting(Task):  # type: ignore[type-arg]
    """Runs its messages in threes, or when `patience` has passed; each gets the sum of its batch as its result."""

    abstract = True
    acks_late = True
    patience = 0.5
    """Seconds."""
    flush: Any = None
    """Runs what waits. For the worker's loop."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.timer: Any = None

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> None:
            args, _, _ = message.payload
            self.waiting.append((message.headers["id"], args, ack))
            if self.timer is None:
                self.timer = consumer.timer.call_after(self.patience, flush)
            if len(self.waiting) == 3:
                flush()

        def flush() -> None:
            batch, self.waiting = self.waiting, []
            self.timer.cancel()
            self.timer = None
            ids, log = [id for id, _, _ in batch], batch[0][1][0]

            def keep(total: int) -> None:
                for id, _, ack in batch:
                    app.backend.mark_as_done(id, total)
                    ack(None, ())

            numbers = [args[1] for _, args, _ in batch]
            consumer.pool.apply_async(add_up, (log, ids, numbers), callback=keep)

        self.flush = flush
        return handle


@shared_task(base=Collecting, name="ways.collected")
def collected(log: str, number: int) -> None: ...


class Careful(Task):  # type: ignore[type-arg]
    """Looks at every message before it runs as all do."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
        run = default(task, app, consumer)

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
            what = message.payload[0][0]
            if what == "burn":
                return reject(None, (), requeue=False)
            if what == "ignore":
                return message.ack()
            if what == "raise":
                raise LookupError("no strategy for this")
            return run(message, body, ack, reject, callbacks, **kwargs)

        return handle


@shared_task(base=Careful, name="ways.careful")
def careful(what: str) -> str:
    return what


class Free(Task):  # type: ignore[type-arg]
    """Makes its requests itself and runs them in the pool, as strategies written for the original do."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:
        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> None:
            request = Request(
                message, on_ack=ack, on_reject=reject, app=app, task=task, hostname=consumer.hostname,
                eventer=consumer.event_dispatcher, connection_errors=consumer.connection_errors,
            )  # fmt: skip
            request.execute_using_pool(consumer.pool)

        return handle


@shared_task(base=Free, name="ways.free", bind=True)
def free(self: Any, what: str) -> Any:
    if what == "fail":
        raise ValueError(what)
    return [what, self.request.id, self.request.hostname]


class Watching(Request):
    """Notes what it is told."""

    def tell(self, *words: Any) -> None:
        note(self.args[0], " ".join(map(str, (self.name, *words))))

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        self.tell("accepted", isinstance(pid, int))

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        failed, value, runtime = failed__retval__runtime
        if not failed:
            self.tell("succeeded", value, runtime >= 0)
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        exc = exc_info.exception
        self.tell("failed", type(exc).__name__ if isinstance(exc, TaskPredicate) else repr(exc))
        if self.request_dict.get("again") and not self.delivery_info["redelivered"]:
            self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        super().on_timeout(soft, timeout)
        self.tell("timeout", soft, timeout)


class Watched(Task):  # type: ignore[type-arg]
    abstract = True
    Request = "engine.ways:Watching"


@shared_task(base=Watched, name="ways.watched", bind=True)
def watched(self: Any, log: str, what: str = "") -> Any:
    if what == "fail":
        raise ValueError(what)
    if what == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    if what == "reject":
        raise Reject("no", requeue=False)
    if what == "sleep":
        time.sleep(30)
    return what
