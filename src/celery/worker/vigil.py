"""How the worker's loop sleeps: on descriptors that come and go."""

from __future__ import annotations

import math
from collections.abc import Iterable

from celery.utils.descriptors import POLLIN, Poll


class Vigil:
    """Waits until one of some descriptors is readable. One thread."""

    def __init__(self, poller: Poll, always: int) -> None:
        # Not epoll: a descriptor that is closed and opened again between two turns would silently be gone from it.
        self._poller = poller
        self._poller.register(always, POLLIN)
        self._watched: set[int] = set()

    def watch(self, wanted: Iterable[int]) -> None:
        """Wait for these from now on, beside the one that is always waited for."""
        wanted = set(wanted)
        if wanted == self._watched:
            return
        for descriptor in self._watched - wanted:
            self._poller.unregister(descriptor)
        for descriptor in wanted - self._watched:
            self._poller.register(descriptor, POLLIN)
        self._watched = wanted

    def sleep(self, seconds: float) -> list[int]:
        """The descriptors that are readable, after *seconds* at most."""
        return [descriptor for descriptor, _ in self._poller.poll(math.ceil(seconds * 1000))]
