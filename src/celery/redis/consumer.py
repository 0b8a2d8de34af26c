"""A lease over queues on Redis: claims, starts, settles and gives back, a script for each.

Waiting costs nothing and takes nothing: the last thing that an empty claim does is to read its lists, and the server
tells a second connection, once, when one of them changes (`CLIENT TRACKING`), whoever the producer is.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from celery.brokers.base import NOTHING, Consumer, Needs, Verdict
from celery.exceptions import BrokerError
from celery.redis.address import Address
from celery.redis.channel import Channel
from celery.redis.envelopes import unwrap
from celery.redis.link import Lane, Link
from celery.redis.outbox import Addressed, Joined, Outbox
from celery.redis.permits import Group, Permits, read_verdicts
from celery.redis.relay import Listening
from celery.redis.scripts import Script, Scripts
from celery.redis.wire import pack
from celery.utils.bell import Chime
from celery.utils.descriptors import Gathering
from celery.utils.turns import Turns
from celery.wire.message import Delivery, Record, Settlement

logger = logging.getLogger(__name__)

INVALIDATED = "__redis__:invalidate"
"""The channel on which the server tells that a key has changed."""
LOOK_AGAIN = 1.0
"""Seconds after which a waiting claim looks by itself, should the server's word have been lost."""
HOLD_OFF = 0.001
"""Seconds within which a consumer that came once in vain comes again; doubled with every further time, up to 256."""
LOOK_BLINDLY = 0.1
"""The same where the server does not tell."""
MOST_BEGUN = 16
"""Messages that are marked as started when they are claimed. Where there are more, a step for all costs little."""
_WRAPPED = b'{"wrapped":'

_encode = msgspec.msgpack.Encoder().encode
Watched = tuple[int, int] | None
Plan = tuple[list[Any], list[Any], list[Any], list[Any], list[Any], list[Any]]


class RedisConsumer(Consumer):
    """Its requests go over one connection of its own, one at a time; `renew` over any of the link's."""

    def __init__(
        self,
        link: Link,
        scripts: Scripts,
        outbox: Outbox,
        queues: Sequence[str],
        name: str,
        store: Address | None,
        lease: float,
        *,
        turns: Turns,
        listening: Listening,
    ) -> None:
        self.queues = tuple(queues)
        self.name = name
        self._link = link
        self._scripts = scripts
        self._outbox = outbox
        self._store = store
        self._commit_script: Script = scripts.commit(store)
        self._lease = int(lease * 1000)
        self._turns = turns
        self._listening = listening
        self._keys = [scripts.ready_key(queue, step) for step in scripts.steps for queue in self.queues]
        self._keys += [f"{link.prefix}celeriac.{kind}.{queue}" for kind in ("due", "gates") for queue in self.queues]
        self._chime = Chime()
        self._lane: Lane = link.open_lane()
        self._channel: Channel | None = None
        self._tracked: tuple[int, int] | None = None
        self._blind = False
        self._ready = Gathering(self._chime.fileno())
        self._woken = self._rung = False
        self._in_vain = 0
        self._hold_off_until = 0.0
        self._batch = 0
        self._next = 1
        self._due_at: float | None = None
        self._troubled: set[str] = set()
        self._id = 0
        self._held: set[int] = set()
        """Numbers of what this registration has claimed and not settled or given back. Others can only take it all."""
        self._doubtful: set[int] = set()
        """Those of them that may have been given back: the server is asked whether they are held."""
        self._permits = Permits()
        self._claims: deque[tuple[int, int]] = deque()
        self._begin = self._wish = 0
        """How many to mark as started with the next claim; how many to claim together with the next settlement."""
        self._granted: tuple[Watched, int, Any] | None = None
        """What was claimed with it, for the next `claim`: how many may be marked as started, and the answer."""
        self._begun: set[int] = set()
        """Numbers of what is marked as started, and `start` was not asked about yet."""
        self._register()

    # -- claiming --------------------------------------------------------------------------------------------------

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        if self._chime.closed:
            raise BrokerError(f"Consumer {self.name!r} is closed: ask the broker for a new one.")
        end = time.monotonic() + timeout
        while True:
            told = self._forget_bells()
            claimed = [] if told and self._granted is None and self._holds_off() else self._claim(limit, wanted)
            if len(claimed) >= limit:
                self._ring()
            self._learn(told, found=bool(claimed))
            left = end - time.monotonic()
            if claimed or left <= 0 or self._woken or self._chime.closed:
                self._woken = False
                return claimed
            due = self.due_in()
            self._ready.wait(min(left, LOOK_AGAIN, left if due is None else due))

    def foresee(self, start: int, claim: int = 0) -> None:
        self._begin, self._wish = min(start, MOST_BEGUN), claim

    def _plan_claim(self, limit: int, wanted: Mapping[str, int]) -> tuple[int, tuple[Any, ...]]:
        """How many may be marked as started, and what the script is told, after the time."""
        begin, self._begin, self._wish = self._begin, 0, 0
        wants: bytes | str = _encode(list(wanted.items())) if wanted else ""
        turn, kept = self._whose_turn(), self._outstanding()
        return begin, (self._id, f"{limit} {begin}", self._next, turn, wants, kept, *self.queues)

    def _claim(self, limit: int, wanted: Mapping[str, int]) -> list[Delivery]:
        if self._begun:
            self._unmark()
        for _ in range(3):
            if self._granted is not None:
                (watched, begin, answer), self._granted, self._begin = self._granted, None, 0
            else:
                watched = self._track()
                begin, args = self._plan_claim(limit, wanted)
                answer = self._ask("claim", self._keys, *args)
            if not answer:  # swept: what was held is lost to others, and it goes on as a new consumer
                self._register()
                self._listening.bind()
                continue
            due, runs, notes, entries, troubles, emptied, now, large = answer
            if large:
                self._claims.append((self._next, now))
            self._due_at = None if due < 0 else self._scripts.monotonic() + due / 1000
            if troubles:
                self._complain(troubles)
            if entries:
                self._record_turns(runs, emptied)
                return self._receive(runs, notes, entries, begin)
            if watched == self._connections():  # else a connection was remade meanwhile, and nobody would tell
                break
        return []

    def _outstanding(self) -> str:
        """The large claims of which something is still held, as the script keeps them: numbers and times."""
        claims = self._claims
        if not claims:
            return ""
        lowest = min(self._held, default=self._next)
        while claims and (claims[1][0] if len(claims) > 1 else self._next) <= lowest:
            claims.popleft()
        return " ".join([f"{number} {now}" for number, now in claims])

    def _whose_turn(self) -> bytes | str:
        turns = self._turns
        if turns.strict or len(self.queues) == 1:
            return ""
        return _encode([(turns.passed[queue], turns.weights[queue]) for queue in self.queues])

    def _record_turns(self, runs: Sequence[int], emptied: Sequence[int]) -> None:
        if self._turns.strict or len(self.queues) == 1:
            return
        counts: dict[str, int] = {}
        for index, count in zip(runs[0::2], runs[1::2], strict=True):
            queue = self.queues[index - 1]
            counts[queue] = counts.get(queue, 0) + count
        self._turns.record(counts, [self.queues[index - 1] for index in emptied])

    def _receive(self, runs: list[int], notes: list[int], entries: list[bytes], begin: int) -> list[Delivery]:
        number, base = self._next, self._id << 32
        found: list[Delivery] = []
        place = 0
        for index, count in zip(runs[0::2], runs[1::2], strict=True):
            queue = self.queues[index - 1]
            for entry in entries[place : place + count]:
                if entry.startswith(_WRAPPED):
                    entry = unwrap(entry)  # noqa: PLW2901
                found.append(Delivery(base + number, queue, entry, number))
                number += 1
            place += count
        self._held.update(range(self._next, number))
        if begin:
            self._begun.update(range(self._next, min(number, self._next + begin)))
            self._begun.difference_update([self._next + place - 1 for place in notes[0::4]])
        self._next = number
        for at in range(0, len(notes), 4):
            place, deliveries, interrupted, revoked = notes[at : at + 4]
            plain = found[place - 1]
            found[place - 1] = Delivery(
                plain.tag,
                plain.queue,
                plain.envelope,
                plain.fence,
                deliveries,
                bool(interrupted),
                deliveries > 0,
                bool(revoked),
            )
        return found

    def _complain(self, troubles: Sequence[bytes]) -> None:
        """Of keys that hold something else than messages: once each, and the other queues go on."""
        for key in {raw.decode() for raw in troubles} - self._troubled:
            self._troubled.add(key)
            logger.error(
                "The key %r is no list of messages: its queue is not consumed. Delete or rename the key, or choose "
                "another name for the queue.",
                key,
            )

    # -- starting and settling -------------------------------------------------------------------------------------

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        return self.settle_and_start((), deliveries, records, needs)[1]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self.settle_and_start(settlements, ())[0]

    def settle_and_start(
        self,
        settlements: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        records: Sequence[Record] = (),
        needs: Needs = NOTHING,
    ) -> tuple[list[bool], list[Verdict]]:
        if not (settlements or deliveries or records):
            return [], []
        if self._store is None and (records or any(s.records or s.messages or s.arrivals for s in settlements)):
            raise ValueError("This consumer has no store in the same place: store results and send messages first.")
        if self._begun:
            marked = self._take_begun(() if needs else deliveries)
            if marked and not (settlements or records or needs):
                return [], ["ok"] * len(deliveries)
        blobs: list[bytes] = []
        joined = Joined(self._outbox)
        done, kept, ends, reached = self._plan_ends(settlements, blobs, joined)
        starts = self._plan_starts(deliveries, needs)
        begun = [_fields(record, blobs) for record in records]
        self._batch += 1
        blobs += joined.entries
        plan = (done[0], kept, ends[0], starts, begun, joined.messages)
        fences = [settlement.delivery.fence for settlement in settlements]
        try:
            answer = self._ask_commit(plan, blobs)
        except BrokerError:
            self._doubtful.update(fences, [delivery.fence for delivery in deliveries])
            raise
        applied_done, applied_ends, letters, woken = (text.decode() for text in answer[:4])
        for trouble in answer[4:]:
            logger.error("A result could not be stored: %s", trouble.decode(errors="replace"))
        self._held.difference_update(fences)
        applied = [False] * len(settlements)
        for place, letter in zip(done[1], applied_done or "1" * len(done[1]), strict=True):
            applied[place] = letter == "1"
        for place, letter in zip(ends[1], applied_ends, strict=True):
            applied[place] = letter == "1"
        moved = self._granted is None and (woken != "0" or not reached.isdisjoint(self.queues))
        if moved or "p" in letters:
            self._ring()  # also because there may be a time from which on the next of the parked ones may start
        verdicts = read_verdicts(starts, deliveries, letters)
        gone = []
        if letters.count("o") < len(deliveries):
            gone = [d.fence for d, told in zip(deliveries, verdicts, strict=True) if told in {"lost", "parked"}]
            self._held.difference_update(gone)
        if self._permits.known or self._doubtful:
            self._learn_what_started(deliveries, verdicts, [*fences, *gone])
        return applied, verdicts

    def _learn_what_started(
        self, deliveries: Sequence[Delivery], verdicts: Sequence[Verdict], ended: Iterable[int]
    ) -> None:
        revoked = set[int]()
        if "revoked" in verdicts:
            revoked = {d.fence for d, told in zip(deliveries, verdicts, strict=True) if told == "revoked"}
        # Of those it stays unknown whether they had been started before.
        self._permits.forget([*ended, *(revoked - self._doubtful)])
        self._doubtful.difference_update(ended, {delivery.fence for delivery in deliveries} - revoked)

    def _take_begun(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether all of them were marked as started when they were claimed. Others lose the mark that they have."""
        low = self._id << 32
        numbers = {delivery.fence for delivery in deliveries if delivery.tag == low + delivery.fence}
        marked = len(numbers) == len(deliveries) and numbers <= self._begun
        self._begun -= numbers
        if self._begun:
            self._unmark()
        return marked

    def _unmark(self) -> None:
        """What was marked as started, in the hope that it would be, was not."""
        command: tuple[str | int, ...] = "SREM", f"{self._link.prefix}celeriac.started.{self._id}", *self._begun
        with self._lane.lock:
            self._link.exchange(self._lane, pack(command))
        self._begun.clear()

    def _plan_ends(
        self, settlements: Sequence[Settlement], blobs: list[bytes], joined: Joined
    ) -> tuple[tuple[list[Any], list[int]], list[Any], tuple[list[Any], list[int]], set[str]]:
        """(done and whose they are, their records, the other ends and whose they are, queues that get messages).

        *blobs* is filled in the order in which the script reads it: the records of all that is done come first.
        """
        low, by_queue = self._id << 32, dict[str, tuple[list[str], list[int]]]()
        ends: list[Any] = []
        whose_ends: list[int] = []
        end_blobs: list[bytes] = []
        reached: set[str] = set()
        seen: set[int] = set()
        for place, settlement in enumerate(settlements):
            delivery = settlement.delivery
            number = delivery.fence
            if delivery.tag != low + number or number in seen:
                continue  # claimed before the lease was lost, or said twice
            seen.add(number)
            if settlement.verb == "done" and not (settlement.messages or settlement.arrivals or settlement.frees):
                if (pair := by_queue.get(delivery.queue)) is None:
                    pair = by_queue[delivery.queue] = [], []
                pair[0].append(str(number))
                pair[1].append(place)
            else:
                ends.append(self._plan_end(settlement, end_blobs, reached, joined))
                whose_ends.append(place)
        done: list[Any] = []
        whose: list[int] = []
        kept: list[Any] = []
        groups: Iterable[tuple[Group, list[int]]] = [
            ((queue, numbers), places) for queue, (numbers, places) in by_queue.items()
        ]
        if self._permits.known:
            groups = [
                part for group, places in groups for part in self._permits.by_slots(group, places, self._doubtful)
            ]
        for group, places in groups:
            done.append(group)
            for at, place in enumerate(places, len(whose) + 1):
                kept += [(*_fields(record, blobs), at) for record in settlements[place].records]
            whose += places
        blobs += end_blobs
        return (done, whose), kept, (ends, whose_ends), reached

    def _plan_end(
        self, settlement: Settlement, blobs: list[bytes], reached: set[str], joined: Joined
    ) -> tuple[Any, ...]:
        delivery = settlement.delivery
        records = [_fields(record, blobs) for record in settlement.records]
        messages: list[Addressed] = []
        if settlement.messages:
            messages, entries = self._outbox.address(settlement.messages)
            blobs += entries
            reached |= {message[0] for message in messages}
        arrivals = []
        for arrival in settlement.arrivals:
            sent = joined.add(arrival.message, reached) if arrival.message is not None else ()
            arrivals.append((arrival.group, arrival.index, arrival.size, int(arrival.grows), *sent))
            blobs.append(arrival.value)
        if settlement.verb == "requeue":
            reached.add(delivery.queue)
        delay = int(settlement.delay * 1000)
        return (
            delivery.queue, str(delivery.fence), settlement.verb, delay, settlement.reason, records, messages, arrivals,
            settlement.frees, self._permits.slots(delivery.fence),
        )  # fmt: skip

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        if self._begun:
            self._unmark()
        groups = self._plan_starts(deliveries, needs, remember=False)
        letters = self._ask("park", (), self._id, _encode(groups)).decode()
        verdicts = read_verdicts(groups, deliveries, letters)
        gone = zip(deliveries, verdicts, strict=True)
        self._held.difference_update([delivery.fence for delivery, told in gone if told != "ok"])
        if "p" in letters:
            self._ring()
        return verdicts

    def _plan_starts(self, deliveries: Sequence[Delivery], needs: Needs, *, remember: bool = True) -> list[Group]:
        """What is to be marked as started; the permits that it needs are remembered until it has ended."""
        doubt = bool(self._doubtful) and not self._doubtful.isdisjoint([delivery.fence for delivery in deliveries])
        if not needs:
            return [(queue, numbers, doubt) for queue, numbers in self._numbers(deliveries).items()]
        mine = [delivery for delivery in deliveries if self._holds(delivery)]
        return self._permits.plan(mine, needs, doubt=doubt, remember=remember)

    def _numbers(self, deliveries: Sequence[Delivery]) -> dict[str, list[str]]:
        """The numbers of those that this registration claimed and still holds, by queue."""
        found: dict[str, list[str]] = {}
        held, low = self._held, self._id << 32
        for delivery in deliveries:
            number = delivery.fence
            if number in held and delivery.tag == low + number:
                if (numbers := found.get(delivery.queue)) is None:
                    numbers = found[delivery.queue] = []
                numbers.append(str(number))
        return found

    def _holds(self, delivery: Delivery) -> bool:
        return delivery.fence in self._held and delivery.tag == (self._id << 32) + delivery.fence

    def release(self, deliveries: Sequence[Delivery]) -> None:
        groups: Iterable[Group] = list(self._numbers(deliveries).items())
        if not groups:
            return
        if self._permits.known:
            slots = {
                number: keys
                for _, numbers in groups
                for number in numbers
                if (keys := self._permits.slots(int(number)))
            }
            groups = [(queue, numbers, slots) for queue, numbers in groups]
        fences = [delivery.fence for delivery in deliveries]
        self._doubtful.update(fences)  # until it is answered they may be held or not
        back = self._ask("release", (), self._id, _encode(groups))
        self._held.difference_update(fences)
        self._begun.difference_update(fences)
        self._doubtful.difference_update(fences)
        self._permits.forget(fences)
        if back:
            self._ring()

    # -- the lease -------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        return bool(self._link.run(self._scripts["renew"], (), (self._scripts.now(), self._id, self._lease)))

    @contextmanager
    def renew_apart(self) -> Iterator[Callable[[], object]]:
        link, script = self._link.twin(), self._scripts["renew"]
        try:
            yield lambda: link.run(script, (), (self._scripts.now(), self._id, self._lease))
        finally:
            link.close()

    def rest(self) -> None:
        self._listening.close()

    def close(self) -> None:
        if self._chime.closed:
            return
        self._chime.close()
        with ExitStack() as ending:  # the last first
            ending.callback(self._hang_up)
            ending.callback(self._ask, "leave", (), self._id)
            ending.callback(self._listening.close)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._ready.close()
        lane, self._lane = self._lane, Lane(self._link)
        with lane.lock:  # others may go on with it; then it is one of theirs
            lane.close()
            lane.kept = False

    def _register(self) -> None:
        """As a new consumer: what an earlier registration held is not this one's."""
        names = json.dumps(self.queues)
        while True:
            number = random.randrange(1, 2**31)
            if self._ask("register", (), number, self._lease, self.name, names, self._listening.own, *self.queues):
                self._id = number
                self._granted = None
                self._begun.clear()
                self._held.clear()
                self._doubtful.clear()
                self._permits.known.clear()
                self._claims.clear()
                return

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._woken = True
        self._ring()

    def notice(self, reached: Iterable[str] | None) -> None:
        """Somebody in this process, whose connection may be ours, put messages into these queues (None: into some)."""
        if reached is None or not set(reached).isdisjoint(self.queues):
            self._ring()

    def fileno(self) -> int:
        return self._ready.fileno()

    def due_in(self) -> float | None:
        now = self._scripts.monotonic()
        waits = [] if self._due_at is None else [max(0.0, self._due_at - now)]
        if self._blind:
            waits.append(LOOK_BLINDLY)
        if now < self._hold_off_until:
            waits.append(self._hold_off_until - now)
        return min(waits, default=None)

    def _ring(self) -> None:
        self._rung = True
        self._chime.ring()

    def _forget_bells(self) -> bool:
        """Whether the server, and nobody here, has told of a change."""
        self._chime.clear()
        here, self._rung, told = self._rung, False, False
        while self._channel is not None and self._channel.get(0) is not None:
            told = True
        return told and not here

    def _holds_off(self) -> bool:
        return self._scripts.monotonic() < self._hold_off_until

    def _learn(self, told: bool, *, found: bool) -> None:
        """The server tells every idle consumer of a message that one of them gets.

        Those who often come in vain wait a little before they come again, each for a time of its own, so that a
        thousand idle workers do not ask a thousand times for one message: whoever waits least takes it.
        """
        now = self._scripts.monotonic()
        if found:
            self._in_vain, self._hold_off_until = 0, 0.0
        elif told and now >= self._hold_off_until:
            self._in_vain = min(self._in_vain + 1, 8)
            self._hold_off_until = now + random.uniform(0.0, HOLD_OFF * 2**self._in_vain)

    def _connections(self) -> Watched:
        """Which connections there are now: tracking ends with either of the two."""
        return None if self._channel is None else (self._lane.made, self._channel.generation)

    def _track(self) -> Watched:
        """Have the server tell of changes to what this consumer's connection reads, if it does not do so yet."""
        if self._blind:
            return None
        if self._channel is None:
            self._channel = Channel(self._link)
            self._channel.subscribe(INVALIDATED)
            self._ready.add(self._channel.fileno())
        if self._tracked != self._connections():
            # The channel's as it was before it is asked who it is, the lane's as it is when it has been told.
            generation = self._channel.generation
            command = ("CLIENT", "TRACKING", "ON", "REDIRECT", self._channel.client_id(), "NOLOOP")
            try:
                with self._lane.lock:
                    self._link.exchange(self._lane, pack(command))
                    self._tracked = self._lane.made, generation
            except BrokerError as error:
                if error.temporary:
                    raise
                if "does not exist" in str(error):  # the channel's connection has just been remade: the next time
                    return None
                self._blind = True
                logger.warning("This server does not tell of changes; looking every %s s: %s", LOOK_BLINDLY, error)
        return self._tracked

    # -- requests --------------------------------------------------------------------------------------------------

    def _ask(self, script: str, keys: Sequence[Any], *args: Any) -> Any:
        with self._lane.lock:
            return self._link.run(self._scripts[script], keys, (self._scripts.now(), *args), self._lane)

    def _ask_commit(self, plan: Plan, blobs: Sequence[bytes]) -> Any:
        now, wish = self._scripts.now(), self._wish
        args = (now, self._id, self._batch, _encode(plan), *blobs)
        if not wish or self._granted is not None:
            with self._lane.lock:
                return self._link.run(self._commit_script, (), args, self._lane)
        watched = self._track()
        begin, wanted = self._plan_claim(wish, NOTHING)
        claim = self._scripts["claim"], self._keys, (now, *wanted)
        with self._lane.lock:
            answer, granted = self._link.run_in_turn([(self._commit_script, (), args), claim], self._lane)
        self._granted = watched, begin, granted
        return answer


def _fields(record: Record, blobs: list[bytes]) -> tuple[str, str, str, str]:
    """A record as the script reads it; its value goes to the *blobs*."""
    blobs.append(record.value)
    ttl = record.ttl
    return record.key, record.state, record.writer, "0" if ttl is None else str(max(1, int(ttl * 1000)))
