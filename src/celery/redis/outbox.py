"""Publishing: which lists a message reaches, and the one request that puts it there."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from celery.exceptions import BrokerError
from celery.redis.envelopes import INNER, step_of, wrap
from celery.redis.link import Link
from celery.redis.scripts import Scripts
from celery.redis.wire import pack
from celery.utils.routing import ROUTED, Binding, routes
from celery.wire.message import Outgoing, Queue, Unique

FRESH = 5.0
"""Seconds that bindings are remembered; a message that finds none looks at once."""

HEARD = 2
"""In the last place of an address: it is a channel, whose listeners are told, now or never."""
REPLY_KEPT = 86400.0
"""Seconds that a reply queue is kept which nobody reads, where the message does not say."""

Addressed = tuple[str, int, int, str, int]
"""(queue, step, due in ms or 0 (below: ms that a reply queue is kept), task id, 1 if it must be held back even where no
worker of ours listens, or HEARD)."""


class Outbox:
    """Sends for one broker. Thread-safe."""

    def __init__(
        self,
        link: Link,
        scripts: Scripts,
        steps: tuple[int, ...],
        channel_of: Callable[[str, str], str],
        plan: Callable[[], Iterable[Queue]],
    ) -> None:
        self._channel_of = channel_of
        self._plan = plan
        self._link = link
        self._scripts = scripts
        self._steps = steps
        self._known: set[str] = set()
        self._bindings: dict[str, tuple[float, list[Binding], bool]] = {}
        self._keys: dict[tuple[str, int | None], bytes] = {}
        self._lock = threading.Lock()

    def declare(self, queues: Sequence[Queue]) -> None:
        """Make the queues and their bindings known, to original Celery too."""
        for queue in queues:
            if queue.exchange.name and queue.exchange.type not in ROUTED:
                raise BrokerError(
                    f"Exchange {queue.exchange.name!r} has type {queue.exchange.type!r}, which redis:// does not "
                    f"route: use direct, topic or fanout."
                )
        prefix = self._link.prefix
        added: list[str] = []
        for queue in queues:
            if not queue.fleeting:
                added += f"{prefix}celeriac.queues", queue.name
            exchange = queue.exchange
            if exchange.name:
                bound = ["", ""] if queue.fleeting else [queue.routing_key, queue.name]
                ours = json.dumps([exchange.name, exchange.type, *bound])
                added += f"{prefix}celeriac.bindings", ours
                if exchange.type != "fanout":  # which is pub/sub there
                    added += f"{prefix}_kombu.binding.{exchange.name}", _member(queue, self._scripts.sep)
        if added:
            self._link.run(self._scripts["declare"], (), added)
        self._bindings.clear()
        self._known.update(queue.name for queue in queues)

    def send(self, messages: Sequence[Outgoing]) -> set[str]:
        """Publish all of them, or none; the queues they reached."""
        if len(messages) == 1:
            message = messages[0]
            if not message.exchange and message.due is None and not message.inner and not message.reply:
                return self._send_one(message)
        elif not messages:
            return set()
        plan, blobs = self.address(messages)
        reached = {addressed[0] for addressed in plan if addressed[4] != HEARD}
        targets = {(addressed[0], addressed[1]) for addressed in plan}
        self.make_known({addressed[0] for addressed in plan if addressed[2] >= 0 and addressed[4] != HEARD})
        with self._link.lane() as lane:
            lane.number += 1
            mark = f"{self._link.prefix}celeriac.sent.{lane.name}"
            if len(targets) == 1 and not any(addressed[2] or addressed[4] == HEARD for addressed in plan):
                [(queue, step)] = targets
                keys: Sequence[Any] = (mark, self._scripts.ready_key(queue, step))
                self._link.run(self._scripts["push"], keys, (lane.number, *blobs), lane)
            else:
                args = (self._scripts.now(), lane.number, msgspec.msgpack.encode(plan), *blobs)
                self._link.run(self._scripts["publish"], (mark,), args, lane)
        return reached

    def send_once(self, message: Outgoing, unique: Unique, instead_of: str) -> tuple[str, set[str]]:
        """Publish unless another task holds the key; who holds it now, and the queues that were reached."""
        plan, blobs = self.address((message,))
        reached = {addressed[0] for addressed in plan}
        self.make_known(reached)
        with self._link.lane() as lane:
            lane.number += 1
            mark = f"{self._link.prefix}celeriac.sent.{lane.name}"
            args = (
                self._scripts.now(), lane.number, unique.key, int(unique.until * 1000), message.task_id, instead_of,
                msgspec.msgpack.encode(plan), *blobs,
            )  # fmt: skip
            holder = self._link.run(self._scripts["once"], (mark,), args, lane).decode()
        return holder, reached if holder == message.task_id else set()

    def address(self, messages: Sequence[Outgoing]) -> tuple[list[Addressed], list[bytes]]:
        """Where each of them goes (several times where several queues are bound) and what goes there.

        Raises `BrokerError` for one that reaches no queue.
        """
        now = self._scripts.time()
        plan: list[Addressed] = []
        blobs: list[bytes] = []
        for message in messages:
            step = INNER if message.inner else step_of(self._steps, message.priority)
            due = int(message.due * 1000) if message.due is not None and message.due > now else 0
            if message.reply:
                left = (message.expires or now + REPLY_KEPT) - now
                due = -max(1, int(left * 1000))
            entry = wrap(message.envelope, message.task_id, now)
            wrapped = int(entry is not message.envelope)
            targets, fanout = ((message.routing_key,), False) if not message.exchange else self._targets(message)
            if fanout:
                plan.append((self._channel_of(message.exchange, message.routing_key), 0, 0, message.task_id, HEARD))
                blobs.append(entry)
            elif not targets[0]:
                raise _unroutable(message)
            for queue in targets:
                plan.append((queue, step, due, message.task_id, wrapped))
                blobs.append(entry)
        return plan, blobs

    def _send_one(self, message: Outgoing) -> set[str]:
        """The common case, with as few steps as it can have."""
        queue = message.routing_key
        key = self._keys.get((queue, message.priority))
        if key is None:
            if not queue:
                raise _unroutable(message)
            self.make_known({queue})
            key = self._scripts.ready_key(queue, step_of(self._steps, message.priority)).encode()
            self._keys[queue, message.priority] = key
        entry = message.envelope
        if not entry.startswith(b'{"body"'):
            entry = wrap(entry, message.task_id, self._scripts.time())
        script = self._scripts["push"]
        link = self._link
        lane = link.take()
        try:
            lane.number += 1
            mark = f"{link.prefix}celeriac.sent.{lane.name}"
            link.exchange(lane, pack(("EVALSHA", script.sha, 2, mark, key, lane.number, entry)), scripts=(script,))
        finally:
            lane.lock.release()
        return {queue}

    def _targets(self, message: Outgoing) -> tuple[tuple[str, ...], bool]:
        """The queues that a message for an exchange reaches, and whether there may be others who listen to it."""
        exchange = message.exchange
        known = self._bindings.get(exchange)
        if known is not None and time.monotonic() - known[0] < FRESH:
            found = _named(routes(known[1], exchange, message.routing_key))
            if found:
                return found, known[2]
        bindings, fanout = self._read_bindings(exchange)
        found = _named(routes(bindings, exchange, message.routing_key))
        if not found and not fanout:
            raise _unroutable(message)
        return found, fanout

    def _read_bindings(self, exchange: str) -> tuple[list[Binding], bool]:
        """Ours, and those that kombu's users have declared; whether the exchange is known to be fanout."""
        prefix = self._link.prefix
        ours, theirs = self._link.calls(
            [["SMEMBERS", f"{prefix}celeriac.bindings"], ["SMEMBERS", f"{prefix}_kombu.binding.{exchange}"]]
        )
        found: list[Binding] = [tuple(binding) for raw in ours if (binding := json.loads(raw))[0] == exchange]
        fanout = any(binding[1] == "fanout" for binding in found) or any(
            queue.exchange.name == exchange and queue.exchange.type == "fanout" for queue in self._plan()
        )
        # Who is bound to a fanout exchange in kombu's set listens to its channel, and reads no list.
        for raw in () if fanout else theirs:
            key, pattern, queue = [*raw.decode().split(self._scripts.sep), "", ""][:3]
            if not any(binding[2] == key and binding[3] == queue for binding in found):
                found.append((exchange, "topic" if pattern else "direct", key, queue))
        found.sort()
        self._bindings[exchange] = (time.monotonic(), found, fanout)
        return found, fanout

    def make_known(self, queues: set[str]) -> None:
        """So that `stats` lists them."""
        new = queues - self._known
        if new:
            self._link.call("SADD", f"{self._link.prefix}celeriac.queues", *new)
            with self._lock:
                self._known |= new


def _named(queues: tuple[str, ...]) -> tuple[str, ...]:
    """Without the one that stands for listeners' own queues."""
    return tuple(queue for queue in queues if queue)


def _unroutable(message: Outgoing) -> BrokerError:
    return BrokerError(
        f"No queue is bound to exchange {message.exchange!r} with routing key {message.routing_key!r}: "
        f"declare the queue, or correct the route of the task."
    )


def _member(queue: Queue, sep: str) -> str:
    """A member of kombu's set of bindings: routing key, pattern (a regular expression; topic only), queue."""
    pattern = ""
    if queue.exchange.type == "topic":
        words = [{"*": r"[^.]+", "#": r".*"}.get(word, re.escape(word)) for word in queue.routing_key.split(".")]
        pattern = "^" + r"\.".join(words).replace(r"\..*", r"(\..*)?") + "$"
    return f"{queue.routing_key}{sep}{pattern}{sep}{queue.name}"


class Joined:
    """The messages of the joins that a batch may complete, each once: all parts of a join bring the same one."""

    def __init__(self, outbox: Outbox) -> None:
        self.messages: list[Addressed] = []
        self.entries: list[bytes] = []
        self._outbox = outbox
        self._places: dict[bytes, tuple[int, ...]] = {}

    def add(self, message: Outgoing, reached: set[str]) -> tuple[int, ...]:
        """The places (from 1) of *message* among the messages: several where several queues are bound."""
        places = self._places.get(message.envelope)
        if places is None:
            addressed, entries = self._outbox.address((message,))
            first = len(self.messages) + 1
            places = self._places[message.envelope] = tuple(range(first, first + len(addressed)))
            self.messages += addressed
            self.entries += entries
            reached |= {target[0] for target in addressed}
        return places
