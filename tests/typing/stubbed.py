"""A program written for the stubs of celery-types: it passes with them and with ours, and it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import celery.canvas
from celery import Celery, chain, group, shared_task, signature
from celery.app.base import Celery as App
from celery.app.control import Control, Inspect
from celery.app.task import Context, Task
from celery.canvas import Signature
from celery.exceptions import MaxRetriesExceededError, Retry, SoftTimeLimitExceeded
from celery.result import AsyncResult, EagerResult, GroupResult
from celery.schedules import crontab
from celery.signals import task_failure, worker_ready
from celery.utils.log import get_task_logger

P = ParamSpec("P")
R = TypeVar("R")

logger = get_task_logger(__name__)
app: Celery = Celery("stubbed", broker="memory://", backend="cache+memory://")
app.conf.task_always_eager = True
app.conf.beat_schedule = {"nightly": {"task": "stubbed.add", "schedule": crontab(hour="3", minute="0"), "args": (1, 2)}}


@app.task(name="stubbed.add")
def add(x: int, y: int) -> int:
    return x + y


@shared_task(bind=True, max_retries=3, default_retry_delay=1, name="stubbed.bound")
def bound(self: Task[Any, Any], text: str) -> str:
    request: Context = self.request
    try:
        return f"{text} {request.retries}"
    except SoftTimeLimitExceeded as exc:
        raise self.retry(exc=exc, countdown=5) from exc


class Base(Task[P, R]):
    """A base class for tasks, generic itself."""

    abstract = True

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        logger.error("%s failed: %r", task_id, exc)


@app.task(base=Base, name="stubbed.based")
def based(number: float) -> float:
    return number * 2


def send(task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
    return task.delay(*args, **kwargs)


def sign(task: Task[P, R], *args: Any) -> celery.canvas.Signature[R]:
    return task.s(*args)


def late(one: Signature[int], seconds: int) -> AsyncResult[int]:
    return one.apply_async(countdown=seconds, expires=3600.0, link=sign(based))


def value(result: AsyncResult[R]) -> R:
    return result.get(timeout=10)


@task_failure.connect
def failed(sender: Task[Any, Any] | None = None, exception: Exception | None = None, **kwargs: Any) -> None:
    logger.error("%s", exception)


@worker_ready.connect
def ready(**kwargs: Any) -> None:
    logger.info("ready")


@app.on_after_configure.connect
def periodic(sender: App, **kwargs: Any) -> None:
    sender.add_periodic_task(10.0, add.s(1, 1), name="every ten seconds")


def workers(control: Control) -> list[str]:
    inspect: Inspect = control.inspect(timeout=1.0)
    return sorted(inspect.active() or {})


def results() -> Sequence[Any]:
    first = send(add, 1, 2)
    eager: EagerResult[Any] = add.apply((3, 4))
    several = group(add.s(number, number) for number in range(3)).apply_async()
    chained = chain(add.s(1, 1), add.s(1)).apply_async()
    assert isinstance(several, GroupResult)
    named = signature("stubbed.add", args=(5, 6), app=app).apply_async()
    return [value(first), eager.get(), several.get(), chained.get(), named.get(), value(send(bound, "retries:"))]


call: Callable[[int, int], int] = add
ERRORS: tuple[type[Exception], ...] = (Retry, MaxRetriesExceededError)

if __name__ == "__main__":
    Task.__class_getitem__ = classmethod(lambda cls, *args, **kwargs: cls)  # type: ignore[attr-defined]
    print(results(), call(1, 1), value(send(based, 1.5)))
