"""Redis as a broker: kombu's lists, and beside them leases, delays, dead messages and revocations.

Every step is one Lua script (`celery/redis/*.lua`), so there is no moment in which a message is nowhere, and it runs by
the server's clock.  A script may be carried out twice: an answer that was lost is asked for again.  docs/redis.md lists
the keys.
"""

from __future__ import annotations

import logging
import re
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from celery.backends.store import Store
from celery.brokers.answers import OnReply
from celery.brokers.base import MOST_REVOKED, Broker, Capabilities, Entry, Kind, QueueStats
from celery.brokers.replies import QueuedReplies
from celery.exceptions import BrokerError
from celery.redis.book import RedisBook
from celery.redis.bus import RedisBus
from celery.redis.consumer import RedisConsumer
from celery.redis.envelopes import SEP, STEPS, read_steps, sent_at, task_of, unwrap
from celery.redis.link import Link
from celery.redis.outbox import Outbox
from celery.redis.relay import Listening, Relay, Relays
from celery.redis.replylists import ReplyList
from celery.redis.scripts import Scripts
from celery.utils.clock import SYSTEM, Clock
from celery.utils.digests import sha1
from celery.utils.turns import Turns
from celery.wire.message import Outgoing, Queue, Unique

logger = logging.getLogger(__name__)

PAGE = 500
"""Messages looked at in one request, where many are looked at."""


class RedisBroker(Broker):
    """A broker on one database of a Redis server.

    Options: those of kombu's Redis transport (`global_keyprefix`, `sep`, `priority_steps`, `queue_order_strategy`,
    connection options; see `celery.redis.address`), `lease` and `timeout` (seconds), and `strict`: refuse a server
    that may evict keys.
    """

    can = Capabilities(
        durable=True,
        shared=True,
        transactional=True,
        most_urgent=0,
        steps=STEPS,
        keeps_places=False,
        max_bytes=512_000_000,
        limits=True,
        unique=True,
        pauses=True,
        weights=True,
        withdraws=True,
    )

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        super().__init__(url, options=options, clock=clock)
        self.link = Link(url, self.options, error=BrokerError)
        self.place = self.link.address.place
        steps = read_steps(self.options.get("priority_steps"))
        self.can = msgspec.structs.replace(self.can, steps=steps)
        self._scripts = Scripts(self.link.address, steps, str(self.options.get("sep", SEP)), clock)
        self._outbox = Outbox(
            self.link,
            self._scripts,
            steps,
            self.bus().channel_of,
            lambda: self.plan(),  # noqa: PLW0108 - it is set later
        )
        self._consumers: weakref.WeakSet[RedisConsumer] | None = None
        self._relays = Relays(lambda queue: Relay(self.link, self.bus(), queue, self._scripts.sep, self.lease))
        self._strict_order = self.options.get("queue_order_strategy") == "priority"
        self._warned = False

    def introduce(self, who: str) -> None:
        self.link.address.introduce(who)

    def describe(self) -> str:
        server = self.link.server
        facts = (".".join(map(str, server.version)), server.mode, server.role, server.maxmemory_policy)
        return " ".join(["Redis", *filter(None, facts)])

    def connect(self) -> None:
        self.link.call("PING")
        policy = self.link.server.maxmemory_policy
        if policy in {"noeviction", ""} or self._warned:
            return
        text = (
            f"Redis at {self.place} evicts keys when its memory is full (maxmemory-policy {policy}): messages and "
            f"results would be lost. Set it to noeviction: CONFIG SET maxmemory-policy noeviction."
        )
        if self.options.get("strict"):
            raise BrokerError(text)
        logger.warning(text)
        self._warned = True

    def close(self) -> None:
        self.link.close()

    def declare(self, queues: Sequence[Queue]) -> None:
        self._outbox.declare(queues)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        reached = self._outbox.send(messages)
        if self._consumers is not None:
            self._ring(reached)

    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> RedisConsumer:
        self.connect()
        fused = None
        if store is not None and self.fuses(store):
            fused = store.link.address  # type: ignore[attr-defined]  # `fuses` has looked
        turns = Turns(queues, weights, strict=self._strict_order)
        listening = Listening(self._relays, [queue for queue in self.plan() if queue.fleeting and queue.name in queues])
        try:
            consumer = RedisConsumer(
                self.link, self._scripts, self._outbox, queues, name, fused, self.lease, turns=turns,
                listening=listening,
            )  # fmt: skip
        except BaseException:
            listening.close()
            raise
        if self._consumers is None:
            self._consumers = weakref.WeakSet()
        self._consumers.add(consumer)
        return consumer

    def fuses(self, store: Store) -> bool:
        link = getattr(store, "link", None)
        return isinstance(link, Link) and link.address.place == self.place

    def sweep(self) -> int:
        grace = int(self.lease / 3) if self.clock is SYSTEM else 0
        swept, woken = self._run("sweep", self._scripts.now(), grace)
        if swept or woken:
            self._ring(None)
        return int(swept)

    def purge(self, queue: str) -> int:
        return int(self._run("purge", self._scripts.now(), queue))

    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        if queues is not None and not queues:
            return []
        now = self._now()
        rows = self._run("stats", self._scripts.now(), *(queues or ()))
        found = []
        for name, ready, leased, delayed, dead, consumers, due, fronts, parked, paused in rows:
            moments = [moment for front in fronts if (moment := sent_at(front)) is not None]
            if due >= 0:
                moments.append(due / 1000)
            oldest = max(0.0, now - min(moments)) if moments else (0.0 if ready else None)
            found.append(
                QueueStats(name.decode(), ready, leased, delayed, dead, oldest, consumers, parked, bool(paused))
            )
        return sorted(found, key=lambda stats: stats.name)

    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        names = self._queues() if queues is None else list(queues)
        look = {
            "ready": self._ready,
            "delayed": self._delayed,
            "leased": self._leased,
            "parked": self._parked,
            "dead": self._dead,
        }[kind]
        found = [entry for name in names for entry in look(name, limit)]
        if kind == "delayed":
            found.sort(key=lambda entry: entry.due or 0.0)
        elif kind != "ready":
            found.sort(key=lambda entry: entry.since)
        return found[:limit]

    def remove(self, tags: Sequence[int | str]) -> int:
        gone: dict[str, list[str]] = {}
        removed = 0
        for tag in tags:
            if isinstance(tag, str) and "\n" in tag:
                queue, _, name = tag.partition("\n")
                task = self._remove_waiting(queue, name) or self._remove_ready(queue, name)
                if task is not None:
                    gone.setdefault(queue, []).append(task)
                    removed += 1
        for queue, tasks in gone.items():
            self._run("disown", self._scripts.now(), queue, *tasks)
        return removed + self._remove_dead(_dead_names(tags))

    def replay(self, tags: Sequence[int | str]) -> int:
        names = _dead_names(tags)
        replayed = 0
        for queue in self._queues() if names else ():
            for start in range(0, len(names), PAGE):
                some = names[start : start + PAGE]
                replayed += int(self._run("replay", self._scripts.now(), queue, *some))
        if replayed:
            self._ring(None)
        return replayed

    def revoke(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        self._note("celeriac.revoked", task_ids, ttl, most)

    def revoked(self) -> list[str]:
        return self._noted("celeriac.revoked")

    def withdraw(self, task_ids: Sequence[str]) -> list[Entry]:
        found = []
        for start in range(0, len(task_ids), PAGE):
            rows = self._run("withdraw", self._scripts.now(), *task_ids[start : start + PAGE])
            for raw_queue, raw, deliveries in rows:
                queue, since = raw_queue.decode(), sent_at(raw) or 0.0
                tag = f"{queue}\n{_digest(raw)}"
                found.append(Entry(tag, queue, "ready", task_of(raw), unwrap(raw), since, None, deliveries))
        if found:
            self._ring(None)
        return found

    def revoke_stamps(self, stamps: Mapping[str, Sequence[str]], ttl: float, most: int = MOST_REVOKED) -> None:
        pairs = [f"{name}\n{value}" for name, values in stamps.items() for value in values]
        self._note("celeriac.revoked_stamps", pairs, ttl, most)

    def revoked_stamps(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for pair in self._noted("celeriac.revoked_stamps"):
            name, _, value = pair.partition("\n")
            found.setdefault(name, []).append(value)
        return found

    def _note(self, key: str, names: Sequence[str], ttl: float, most: int) -> None:
        """Add names to a sorted set, each until its time; those beyond *most* that end first are dropped."""
        if not names:
            return
        key = f"{self.link.prefix}{key}"
        for start in range(0, len(names), PAGE):
            args = (self._scripts.now(), int(ttl * 1000), most, *names[start : start + PAGE])
            self.link.run(self._scripts["note"], (key,), args)

    def _noted(self, key: str) -> list[str]:
        found = self.link.call("ZRANGEBYSCORE", f"{self.link.prefix}{key}", f"({int(self._now() * 1000)}", "+inf")
        return sorted(name.decode() for name in found)

    def publish_once(self, message: Outgoing, unique: Unique, instead_of: str = "") -> str:
        holder, reached = self._outbox.send_once(message, unique, instead_of)
        if reached and self._consumers is not None:
            self._ring(reached)
        return holder

    def pause(self, queues: Sequence[str]) -> None:
        if queues:
            prefix = self.link.prefix
            self.link.calls(
                [["SADD", f"{prefix}celeriac.paused", *queues], ["SADD", f"{prefix}celeriac.queues", *queues]]
            )

    def resume(self, queues: Sequence[str]) -> None:
        if queues:
            self._run("resume", self._scripts.now(), *queues)
            self._ring(None)

    def paused(self) -> list[str]:
        return sorted(name.decode() for name in self.link.call("SMEMBERS", f"{self.link.prefix}celeriac.paused"))

    def book(self, name: str) -> RedisBook:
        return RedisBook(self.link, self._scripts, name, self._outbox)

    def replies(self, on_reply: OnReply, expires: float | None) -> QueuedReplies:
        return QueuedReplies(lambda name: ReplyList(self.link, name), on_reply)

    def bus(self) -> RedisBus:
        return RedisBus(self.link, self.options)

    # -- one queue -------------------------------------------------------------------------------------------------

    def _run(self, script: str, *args: Any) -> Any:
        return self.link.run(self._scripts[script], (), args)

    def _now(self) -> float:
        """The server's clock, in Unix seconds."""
        if self.clock is not SYSTEM:
            return self.clock.time()
        seconds, micros = self.link.call("TIME")
        return int(seconds) + int(micros) / 1e6

    def _ring(self, reached: Iterable[str] | None) -> None:
        for consumer in list(self._consumers or ()):
            consumer.notice(reached)

    def _queues(self) -> list[str]:
        names = self.link.call("SMEMBERS", f"{self.link.prefix}celeriac.queues")
        return sorted(name.decode() for name in names)

    def _ready(self, queue: str, limit: int) -> list[Entry]:
        """From the front, those of the most urgent step first; then what is due and not fetched yet."""
        found: list[Entry] = []
        for step in self._scripts.steps:
            left = limit - len(found)
            if left <= 0:
                break
            for raw in reversed(self.link.call("LRANGE", self._scripts.ready_key(queue, step), -left, -1)):
                digest = _digest(raw)
                counted = self.link.call("HGET", f"{self.link.prefix}celeriac.returned.{queue}", digest)
                deliveries = int(counted.split()[0]) if counted else 0
                since = sent_at(raw) or 0.0
                tag = f"{queue}\n{digest}"
                found.append(Entry(tag, queue, "ready", task_of(raw), unwrap(raw), since, None, deliveries))
        left = limit - len(found)
        if left > 0:
            found += self._held_back(queue, "-inf", str(int(self._now() * 1000)), left, "ready")
        return found

    def _delayed(self, queue: str, limit: int) -> list[Entry]:
        return self._held_back(queue, f"({int(self._now() * 1000)}", "+inf", limit, "delayed")

    def _held_back(self, queue: str, low: str, high: str, limit: int, kind: Kind) -> list[Entry]:
        key, later = f"{self.link.prefix}celeriac.due.{queue}", f"{self.link.prefix}celeriac.later.{queue}"
        flat = self.link.call("ZRANGEBYSCORE", key, low, high, "WITHSCORES", "LIMIT", 0, limit)
        if not flat:
            return []
        names, dues = flat[0::2], [float(score) / 1000 for score in flat[1::2]]
        found = []
        for name, due, raw in zip(names, dues, self.link.call("HMGET", later, *names), strict=True):
            if raw is not None:
                slip = _Slip(raw)
                tag = f"{queue}\n{name.decode()}"
                since = due if kind == "ready" else slip.since
                found.append(
                    Entry(tag, queue, kind, task_of(slip.entry), unwrap(slip.entry), since, due, slip.deliveries)
                )
        return found

    def _parked(self, queue: str, limit: int) -> list[Entry]:
        prefix = self.link.prefix
        flat = self.link.call("HGETALL", f"{prefix}celeriac.parked.{queue}")
        keys = {facts.partition(b" ")[2].decode() for facts in flat[1::2]}
        places: list[tuple[float, str, bytes]] = []
        for key in keys:
            line = self.link.call("ZRANGE", f"{prefix}celeriac.line.{queue}\n{key}", 0, limit - 1, "WITHSCORES")
            places += [(float(order), key, name) for name, order in zip(line[0::2], line[1::2], strict=True)]
        found = []
        places = sorted(places)[:limit]
        names = [name for _, _, name in places]
        slips = self.link.call("HMGET", f"{prefix}celeriac.later.{queue}", *names) if names else []
        for (_, key, name), raw in zip(places, slips, strict=True):
            if raw is not None:
                slip = _Slip(raw)
                tag, task = f"{queue}\n{name.decode()}", task_of(slip.entry)
                found.append(
                    Entry(tag, queue, "parked", task, unwrap(slip.entry), slip.since, None, slip.deliveries, key)
                )
        return found

    def _leased(self, queue: str, limit: int) -> list[Entry]:
        prefix = self.link.prefix
        found: list[Entry] = []
        for raw_id in self.link.call("ZRANGE", f"{prefix}celeriac.consumers", 0, -1):
            consumer = raw_id.decode()
            name, claims = self.link.call("HMGET", f"{prefix}celeriac.consumer.{consumer}", "name", "claims")
            owner, times = (name or b"").decode(), [int(word) for word in (claims or b"").split()]
            cursor = b"0"
            while len(found) < limit:
                key = f"{prefix}celeriac.held.{consumer}.{queue}"
                cursor, flat = self.link.call("HSCAN", key, cursor, "COUNT", PAGE)
                for number, raw in zip(flat[0::2], flat[1::2], strict=True):
                    slip = _Slip(raw)
                    since = slip.since or _claimed_at(int(number), times)
                    tag = int(consumer) << 32 | int(number)
                    task = task_of(slip.entry)
                    found.append(
                        Entry(tag, queue, "leased", task, unwrap(slip.entry), since, None, slip.deliveries, "", owner)
                    )
                if cursor == b"0":
                    break
        return found

    def _dead(self, queue: str, limit: int) -> list[Entry]:
        prefix = self.link.prefix
        names = self.link.call("ZRANGE", f"{prefix}celeriac.dead.{queue}", 0, limit - 1)
        if not names:
            return []
        found = []
        for name, raw in zip(
            names, self.link.call("HMGET", f"{prefix}celeriac.dead.slips.{queue}", *names), strict=True
        ):
            if raw is not None:
                size, _, rest = raw.partition(b"\n")
                reason, slip = rest[: int(size)].decode(errors="replace"), _Slip(rest[int(size) :])
                task = task_of(slip.entry)
                found.append(
                    Entry(
                        _dead_tag(name.decode()),
                        queue,
                        "dead",
                        task,
                        unwrap(slip.entry),
                        slip.since,
                        None,
                        slip.deliveries,
                        reason,
                    )
                )
        return found

    def _remove_waiting(self, queue: str, name: str) -> str | None:
        """Delete what is delayed or parked under *name*; its task."""
        return name.rstrip("+") if self._run("unpark", self._scripts.now(), queue, name) else None

    def _remove_ready(self, queue: str, digest: str) -> str | None:
        """Delete the ready message whose envelope has this digest; its task."""
        for step in self._scripts.steps:
            key, end = self._scripts.ready_key(queue, step), -1
            while page := self.link.call("LRANGE", key, end - PAGE + 1, end):
                for raw in page:
                    if _digest(raw) == digest and self.link.call("LREM", key, -1, raw):
                        return task_of(raw)
                end -= PAGE
        return None

    def _remove_dead(self, names: Sequence[str]) -> int:
        prefix, gone = self.link.prefix, 0
        for queue in self._queues() if names else ():
            for start in range(0, len(names), PAGE):
                some = names[start : start + PAGE]
                gone += self.link.calls(
                    [
                        ["MULTI"],
                        ["ZREM", f"{prefix}celeriac.dead.{queue}", *some],
                        ["HDEL", f"{prefix}celeriac.dead.slips.{queue}", *some],
                        ["EXEC"],
                    ]
                )[-1][0]
        return gone


class _Slip:
    """What stands before an entry while it is not in a ready list; `slips.lua` has the format."""

    __slots__ = ("deliveries", "entry", "since")

    def __init__(self, raw: bytes) -> None:
        if raw.startswith(b"{"):
            self.entry, self.since, self.deliveries = raw, 0.0, 0
            return
        head, _, self.entry = raw.partition(b"\n")
        _, deliveries, _, since = head.split()
        self.since, self.deliveries = int(since) / 1000, int(deliveries)


def _claimed_at(number: int, claims: Sequence[int]) -> float:
    """When the large claim was made that *number* is of, in Unix seconds. *claims*: first number, ms, and so on."""
    place = bisect_right(claims[0::2], number) - 1
    return claims[2 * place + 1] / 1000 if place >= 0 else 0.0


def _digest(entry: bytes) -> str:
    return sha1(entry)


def _dead_names(tags: Iterable[int | str]) -> list[str]:
    """The names in the dead set of those tags that are of dead messages."""
    found = []
    for tag in map(str, tags):
        if tag.isdecimal():
            found.append(f"{int(tag) >> 32}-{int(tag) & 0xFFFFFFFF}")
        elif re.fullmatch(r"[0-9a-f]{40}", tag):
            found.append(tag)
    return found


def _dead_tag(name: str) -> int | str:
    consumer, _, number = name.partition("-")
    return int(consumer) << 32 | int(number) if number else name
