"""`celery.itemwise`, the task behind `celery.contrib.xmap`: it calls another for items, and is retried for some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery._state import connect_on_app_finalize
from celery.canvas.signature import maybe_signature
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.deferred import deferred
from celery.utils.time import get_exponential_backoff_interval
from celery.wire.errors import exception_to_data

if TYPE_CHECKING:
    import inspect

    from celery.app import coroutines
    from celery.app.base import Celery
else:
    coroutines = deferred("celery.app.coroutines")
    inspect = deferred("inspect")

NAME = "celery.itemwise"
OK, ERROR = "ok", "error"
LONGEST = 600
"""Seconds between two tries of an item, at most."""


@connect_on_app_finalize
def add_itemwise_task(app: Celery) -> Any:
    """`celery.itemwise` calls *task* with each of *items*, and is retried with those for which it raised.

    *items* are pairs of position and item; *done* has the outcomes of former tries by position.  One item that is
    *alone* gives its value, or fails with its exception; of several, the outcomes are returned: `["ok", value]` or
    `["error", exception as data]` for each, in their order.
    """

    @app.task(bind=True, name=NAME, shared=False, lazy=False, max_retries=None)
    def itemwise(
        self: Any, task: Mapping[str, Any], items: list[Any], max_retries: int = 3, countdown: float | None = None,
        alone: bool = False, done: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        outcomes = {int(position): outcome for position, outcome in (done or {}).items()}
        failed, error = _try_each(app, task, items, outcomes)
        retries = self.request.retries
        if error is not None and retries < max_retries:
            pause = countdown
            if pause is None:
                pause = get_exponential_backoff_interval(1, retries, LONGEST, full_jitter=True)
            kept = {str(position): outcome for position, outcome in outcomes.items() if outcome[0] == OK}
            again = {"max_retries": max_retries, "countdown": countdown, "alone": alone, "done": kept}
            raise self.retry(
                args=(), kwargs={"task": task, "items": failed, **again}, exc=error, countdown=pause,
                max_retries=max_retries,
            )  # fmt: skip
        if alone and error is not None:
            raise error
        values = [outcomes[position] for position in sorted(outcomes)]
        return values[0][1] if alone else values

    return itemwise


def _try_each(
    app: Celery, task: Mapping[str, Any], items: list[Any], outcomes: dict[int, Any]
) -> tuple[list[Any], BaseException | None]:
    """Call the task for each item, adding to *outcomes*; what is to be tried again, and the first error."""
    signature = maybe_signature(task, app=app)
    assert signature is not None
    call = signature if signature.args or signature.kwargs else signature.type
    failed: list[Any] = []
    first: BaseException | None = None
    for number, (position, item) in enumerate(items):
        try:
            value = call(item)
            if inspect.iscoroutine(value):
                value = coroutines.run_coroutine(value)
        except Exception as error:  # noqa: BLE001 - whatever the task raises is what became of the item
            outcomes[position] = [ERROR, exception_to_data(error)]
            failed.append([position, item])
            first = first or error
            if isinstance(error, SoftTimeLimitExceeded):  # no time is left for the others: they were not tried
                for later, untried in items[number + 1 :]:
                    outcomes[later] = outcomes[position]
                    failed.append([later, untried])
                break
        else:
            outcomes[position] = [OK, value]
    return failed, first


__all__ = ["ERROR", "NAME", "OK"]
