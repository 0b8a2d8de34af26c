"""The bus of one space."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from celery.brokers.base import NO_SLOT, Bus, Slot, Subscription
from celery.memory.space import Space
from celery.utils.bell import Chime, wait_until


class MemoryBus(Bus):
    """Hands payloads to the subscriptions of the same space."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def publish(self, topic: str, payload: bytes) -> None:
        with self._space.lock:
            for subscription in self._space.subscriptions:
                subscription.offer(topic, payload)

    def hears(self, topic: str) -> bool:
        with self._space.lock:
            return any(subscription.wants(topic) for subscription in self._space.subscriptions)

    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> MemorySubscription:
        subscription = MemorySubscription(self._space, topics)
        with self._space.lock:
            self._space.subscriptions.append(subscription)
        return subscription


class MemorySubscription(Subscription):
    """An unbounded line of what arrived."""

    def __init__(self, space: Space, topics: Sequence[str]) -> None:
        self._space = space
        self._names = frozenset(topics)
        self._beginnings = tuple(topic[:-1] for topic in topics if topic.endswith("*"))
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._chime = Chime()

    def wants(self, topic: str) -> bool:
        """Whether it was asked for."""
        return topic in self._names or topic.startswith(self._beginnings)

    def offer(self, topic: str, payload: bytes) -> None:
        """Take (topic, payload) if it was asked for."""
        if self.wants(topic):
            self._arrived.append((topic, payload))
            self._chime.ring()

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        wait_until(self._chime, lambda: bool(self._arrived) or self._chime.closed, timeout)
        if self._chime.closed or not self._arrived:
            return None
        first = self._arrived.popleft()
        if not self._arrived:
            self._chime.clear()
            if self._arrived:
                self._chime.ring()
        return first

    def fileno(self) -> int:
        return self._chime.fileno()

    def close(self) -> None:
        with self._space.lock:
            if self in self._space.subscriptions:
                self._space.subscriptions.remove(self)
        self._chime.close()
