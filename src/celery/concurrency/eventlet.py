"""The eventlet pool. `celery worker -P eventlet` has eventlet take over the process before all other imports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from celery import signals
from celery.concurrency.classic import apply_target as run_target
from celery.concurrency.crowd import Run
from celery.concurrency.green import GreenPool
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.descriptors import Poll, SelectPoll
from celery.utils.timer2 import Timer as Timer
from celery.wire.message import Outcome

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is deprecated: the pool says so when it starts
    import eventlet
    from eventlet import hubs
    from eventlet.green import select

logger = logging.getLogger("celery.pool")


def apply_target(
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    **_: Any,
) -> None:
    """As `celery.concurrency.base.apply_target`; the place that runs it is this greenlet."""
    run_target(target, args, kwargs, callback, accept_callback, getpid=getpid or get_ident)


class EventletPool(GreenPool):
    """Green threads of eventlet."""

    name = "eventlet"

    def start(self) -> None:
        logger.warning(
            "The eventlet pool is deprecated, as eventlet itself is: move to -P gevent, or to -P asyncio where your"
            " tasks are coroutines."
        )
        super().start()
        signals.eventlet_pool_started.send(sender=self)

    def stop(self, timeout: float | None = None) -> list[Outcome]:
        if self._runner is None:
            return []
        signals.eventlet_pool_preshutdown.send(sender=self)
        return super().stop(timeout)

    def _close(self) -> None:
        super()._close()
        signals.eventlet_pool_postshutdown.send(sender=self)

    def _spawn(self, run: Run) -> Any:
        if signals.eventlet_pool_apply.receivers:
            signals.eventlet_pool_apply.send(sender=self, target=self._runner, args=(run.job,), kwargs={})
        return eventlet.spawn(self._run, run)

    def _kill(self, greenlet: Any) -> None:
        # `eventlet.kill` would switch to it at once; the loop has other things to do.
        hubs.get_hub().schedule_call_global(0, _exit, greenlet)

    @contextmanager
    def _soft_limit(self, seconds: float) -> Iterator[None]:
        limit = eventlet.Timeout(seconds, SoftTimeLimitExceeded())
        try:
            yield
        finally:
            limit.cancel()

    def poller(self) -> Poll:
        return SelectPoll(select.select)


def _exit(greenlet: Any) -> None:
    if not greenlet.dead:
        greenlet.throw()


TaskPool = EventletPool
