"""Remote control and events over Redis: PUBLISH and SUBSCRIBE, on channels named as kombu names its own."""

from __future__ import annotations

from collections.abc import Sequence

from celery.brokers.base import Bus, Subscription
from celery.redis.channel import Channel
from celery.redis.link import Link


class RedisBus(Bus):
    """Topics are channels `/<db>.<topic>`, so that two applications on two databases do not hear each other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._start = f"{link.prefix}/{link.address.db}."

    def publish(self, topic: str, payload: bytes) -> None:
        self._link.call("PUBLISH", self._start + topic, payload)

    def subscribe(self, topics: Sequence[str]) -> RedisSubscription:
        channel = Channel(self._link)
        names = [self._start + topic for topic in topics if not topic.endswith("*")]
        patterns = [_escape(self._start + topic[:-1]) + "*" for topic in topics if topic.endswith("*")]
        try:
            if names:
                channel.subscribe(*names)
            if patterns:
                channel.psubscribe(*patterns)
        except BaseException:
            channel.close()
            raise
        return RedisSubscription(channel, len(self._start))


class RedisSubscription(Subscription):
    """A connection of its own. What is sent while it is being remade is not heard."""

    def __init__(self, channel: Channel, skipped: int) -> None:
        self._channel = channel
        self._skipped = skipped

    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        found = self._channel.get(timeout)
        return None if found is None else (found[1].decode()[self._skipped :], found[2])

    def fileno(self) -> int:
        return self._channel.fileno()

    def close(self) -> None:
        self._channel.close()


def _escape(text: str) -> str:
    """*text* as a pattern that matches nothing else."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in text)
