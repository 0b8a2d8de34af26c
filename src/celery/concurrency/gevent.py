"""The gevent pool. `celery worker -P gevent` has gevent take over the process before all other imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import gevent
from gevent import select

from celery.concurrency.classic import apply_target as run_target
from celery.concurrency.crowd import Run
from celery.concurrency.green import GreenPool
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.descriptors import Poll
from celery.utils.timer2 import Timer as Timer


def apply_target(
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    propagate: tuple[type[BaseException], ...] = (),
    **_: Any,
) -> None:
    """As `celery.concurrency.base.apply_target`; the place that runs it is this greenlet."""
    run_target(target, args, kwargs, callback, accept_callback, getpid=getpid or get_ident, propagate=propagate)


def apply_timeout(
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    timeout: float | None = None,
    timeout_callback: Callable[[bool, float | None], Any] | None = None,
    Timeout: Any = gevent.Timeout,  # noqa: N803 - the public name
    apply_target: Callable[..., Any] = apply_target,
    **rest: Any,
) -> Any:
    """`apply_target` for at most *timeout* seconds; then `timeout_callback(False, timeout)`: it was no soft limit."""
    limit = Timeout(timeout)
    try:
        with limit:
            return apply_target(target, args, kwargs, callback, accept_callback, getpid, propagate=(Timeout,), **rest)
    except Timeout as reached:
        if reached is not limit:
            raise
        return timeout_callback(False, timeout) if timeout_callback is not None else None


class GeventPool(GreenPool):
    """Greenlets of gevent."""

    name = "gevent"

    def _spawn(self, run: Run) -> Any:
        return gevent.spawn(self._run, run)

    def _kill(self, greenlet: Any) -> None:
        greenlet.kill(block=False)

    @contextmanager
    def _soft_limit(self, seconds: float) -> Iterator[None]:
        limit = gevent.Timeout.start_new(seconds, SoftTimeLimitExceeded())
        try:
            yield
        finally:
            limit.close()

    def poller(self) -> Poll:
        poll: Poll = select.poll()
        return poll


TaskPool = GeventPool
