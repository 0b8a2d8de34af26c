"""The gevent pool. `celery worker -P gevent` has gevent take over the process before all other imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import select

from celery.concurrency.crowd import Run
from celery.concurrency.green import GreenPool
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.descriptors import Poll


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
