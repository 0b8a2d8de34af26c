"""The broker port: batched publish, claim, start and settle, with leases and fences.

A driver fills these three classes; `celery.contrib.testing.contract` ships the suites that say whether it did.
Everything speaks in sequences: one call is one atomic step and, on a network, one round trip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from celery.brokers.answers import Joins, OnReply, Replies
from celery.brokers.book import Book
from celery.exceptions import BrokerError
from celery.utils.clock import SYSTEM, Clock
from celery.wire.message import Delivery, Outgoing, Permit, Queue, Record, Settlement, Unique

if TYPE_CHECKING:
    from celery.backends.store import Store

MOST_REVOKED = 50_000
LEASE = 30.0
"""Seconds a consumer's lease lasts unless `renew` is called; a worker renews every third of it."""

GRANTED = 30.0
"""Seconds for which a permit is kept for a parked message that it has woken; then others may have it."""

Kind = Literal["ready", "leased", "delayed", "parked", "dead"]
Verdict = Literal["ok", "lost", "revoked", "parked"]
Needs = Mapping[int | str, Sequence[Permit]]
"""By tag: the permits without which a delivery must not be started."""
NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Capabilities(msgspec.Struct, frozen=True):
    """Facts about a broker, read by the worker and by the contract suites instead of the driver's name."""

    durable: bool = False
    """What `publish` returned from survives the end of every process."""
    shared: bool = False
    """Other processes can connect to the same URL."""
    delay: bool = True
    """Holds messages until they are due."""
    lease: bool = True
    """Claims are leases that other workers sweep when their owner dies."""
    transactional: bool = False
    """Settlement and effects on a store that `fuses` says yes to are one atomic step."""
    fanout: bool = True
    """Has a bus for remote control and events."""
    priorities: bool = True
    """Delivers urgent messages first."""
    most_urgent: int = 9
    """The priority that is served first: 9 (AMQP's meaning) or 0 (kombu's on Redis)."""
    steps: tuple[int, ...] = tuple(range(10))
    """The priorities that are told apart: a message has the largest of them that is not above its own."""
    keeps_places: bool = True
    """A message that comes back takes the place that it had; if not, it is the next one of its priority."""
    max_bytes: int | None = None
    """Largest envelope in bytes, None if only memory limits it."""
    limits: bool = False
    """Gives permits when deliveries are started, and parks those for which there is none (`Permit`)."""
    unique: bool = False
    """Has keys that one task holds at a time: `publish_once`."""
    pauses: bool = False
    """Queues can be paused for all workers."""
    weights: bool = False
    """Consumers share between their queues by weight, or serve them strictly in order."""
    withdraws: bool = False
    """`revoke` brings messages that wait for their time or for a permit forward, and keeps revocations of stamps."""
    fifo: bool = True
    """Delivers messages of one priority in the order in which they were published."""
    ordered: bool = True
    """Messages that come back are in their order, and do not overtake those that have not been claimed."""
    marks: bool = True
    """Knows by itself of every message how often it was started, and whether its last owner died with it.

    Without that a consumer keeps marks in the result store it is given; with no store either, it is told to `let_go`.
    """
    lists: bool = True
    """Says what it holds: `entries` has ready, delayed and leased messages, `stats` counts them for all consumers."""
    revokes: bool = True
    """Keeps revocations, and claims and starts see them.

    Without that they are kept in the result store, if there is one (`Broker.aside`): whoever is told of one, starts
    later or renews its lease knows of it.
    """


class QueueStats(msgspec.Struct, frozen=True):
    """One queue now. `oldest` is the age in seconds of the oldest ready message, None when there is none."""

    name: str
    ready: int = 0
    leased: int = 0
    delayed: int = 0
    dead: int = 0
    oldest: float | None = None
    consumers: int = 0
    parked: int = 0
    """Messages that wait for a permit."""
    paused: bool = False


class Entry(msgspec.Struct, frozen=True):
    """A message as `Broker.entries` lists it. Times are Unix seconds; `since` is when it came into this state."""

    tag: int | str
    queue: str
    kind: Kind
    task_id: str
    envelope: bytes
    since: float
    due: float | None = None
    deliveries: int = 0
    reason: str = ""
    owner: str = ""


class Broker(ABC):
    """A connection to one URL. Thread-safe; connects lazily; safe to use after a fork (it reconnects).

    Methods raise `celery.exceptions.BrokerError` when the store cannot be reached or refuses, with one sentence that
    says what to do; within `timeout` seconds (option `timeout`, default 5) and with nothing half done.
    """

    can: Capabilities = Capabilities()

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None, clock: Clock = SYSTEM) -> None:
        self.url = url
        self.options: dict[str, Any] = dict(options or {})
        self.clock = clock
        self.lease = float(self.options.get("lease", LEASE))
        self.plan: Callable[[], Iterable[Queue]] = tuple
        """The queues that the application has in mind: what a message is sent to and is not there is made like that."""
        self.aside: Callable[[], Store | None] = lambda: None
        """The result store of the application, for what this broker cannot keep itself."""
        self.ended: Callable[[str, float], bool] = lambda task_id, since: False
        """Whether there is a result of this task from after that Unix time: its message may be there twice."""

    def introduce(self, who: str) -> None:  # noqa: B027 - most stores have nobody to tell
        """Call the connections that are made from now on those of *who*, where the store lists connections."""

    def describe(self) -> str:
        """Product and version of the server, for reports; empty where there is none. Connects."""
        return ""

    @abstractmethod
    def connect(self) -> None:
        """Reach the store now rather than at the first use."""

    @abstractmethod
    def close(self) -> None:
        """Let go of every connection. May be called twice; the broker may be used again."""

    @abstractmethod
    def declare(self, queues: Sequence[Queue]) -> None:
        """Create the queues and their bindings. Idempotent."""

    @abstractmethod
    def publish(self, messages: Sequence[Outgoing]) -> None:
        """On return the store has all of them; when it raises it has none (or, if the link broke, may have all)."""

    @abstractmethod
    def consumer(
        self,
        queues: Sequence[str],
        *,
        name: str,
        store: Store | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> Consumer:
        """A consumer of *queues* under lease. *store*: where effects go when `fuses(store)`.

        *weights*: how many messages of a queue are claimed for one of a queue without a weight, while both have some.
        The option `queue_order_strategy` set to `priority` has every queue served before those that follow it.
        """

    def fuses(self, store: Store) -> bool:
        """Whether settlements can commit their effects on *store* in the same atomic step."""
        return False

    @abstractmethod
    def sweep(self) -> int:
        """Return to their queues the messages of consumers whose lease ran out. Any process may call it at any time.

        Permits of such consumers, and those that are kept for messages that do not come for them, go to others.
        """

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Delete ready, delayed and parked messages of *queue*; how many there were. Leased and dead ones stay."""

    @abstractmethod
    def stats(self, queues: Sequence[str] | None = None) -> list[QueueStats]:
        """The named queues, or all that the store knows, sorted by name."""

    @abstractmethod
    def entries(self, kind: Kind, queues: Sequence[str] | None = None, limit: int = 100) -> list[Entry]:
        """Messages in one state, those next to be delivered (dead: longest dead) first."""

    @abstractmethod
    def remove(self, tags: Sequence[int | str]) -> int:
        """Delete ready, delayed, parked or dead messages; how many there were. Leased ones stay."""

    @abstractmethod
    def replay(self, tags: Sequence[int | str]) -> int:
        """Move dead messages back to their queues with a fresh delivery count; how many there were."""

    @abstractmethod
    def revoke(self, task_ids: Sequence[str], ttl: float, most: int = MOST_REVOKED) -> None:
        """Record that these tasks must not run, for *ttl* seconds. Seen by every later claim and start.

        Of more than *most* records those that would end first are dropped.
        """

    @abstractmethod
    def revoked(self) -> list[str]:
        """The task ids under revocation."""

    # What not every store can do; `can` says which.

    def withdraw(self, task_ids: Sequence[str]) -> list[Entry]:
        """Make the delayed and parked messages of these tasks ready now; what they are as ready ones.

        Whoever claims them sees that they are revoked, and ends them.
        """
        return []

    def revoke_stamps(self, stamps: Mapping[str, Sequence[str]], ttl: float, most: int = MOST_REVOKED) -> None:
        """Record that tasks whose stamp of such a name has one of these values must not run, for *ttl* seconds."""
        raise self._cannot("keep revocations of stamps")

    def revoked_stamps(self) -> dict[str, list[str]]:
        """The values under revocation, by the name of the stamp."""
        return {}

    def publish_once(self, message: Outgoing, unique: Unique, instead_of: str = "") -> str:
        """Publish unless another task than that of *message* holds the key; the id of the task that holds it now.

        In one step.  *instead_of*: a task that holds the key in vain, because it has ended.
        """
        raise self._cannot("keep tasks unique")

    def pause(self, queues: Sequence[str]) -> None:
        """Nothing is claimed from these queues, by any consumer, until `resume`. Durable; publishing goes on."""
        raise self._cannot("pause queues")

    def resume(self, queues: Sequence[str]) -> None:
        """End a pause. Idempotent."""
        raise self._cannot("pause queues")

    def paused(self) -> list[str]:
        """The names of the paused queues."""
        return []

    def _cannot(self, what: str) -> BrokerError:
        return BrokerError(f"The broker {self.url.partition(':')[0]}:// cannot {what}.")

    @abstractmethod
    def bus(self) -> Bus:
        """The fan-out channel of this store."""

    def _may_be_unheard(self, exchange: str) -> bool:
        """Whether a message for *exchange* is for those who listen now, of whom there may be none."""
        return any(queue.exchange.name == exchange and queue.fleeting for queue in self.plan())

    def replies(self, on_reply: OnReply, expires: float | None) -> Replies | None:
        """Reply queues for results that are wanted for *expires* seconds; None where the broker has none."""
        return None

    def joins(self) -> Joins | None:
        """Joins for apps without a result store; None where the broker keeps none."""
        return None

    def book(self, name: str) -> Book | None:
        """The schedule book *name* of beats that share this broker; None where it has none."""
        return None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Consumer(ABC):
    """One lease over several queues. All methods but `renew` and `wake` belong to one thread."""

    queues: tuple[str, ...]
    name: str

    @abstractmethod
    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        """Move up to *limit* messages to this consumer, leased and fenced, in one atomic step.

        First those that are parked under the keys that *wanted* names, up to so many of each.  Then, in the order in
        which queues take turns (or strictly, or by weight: see `Broker.consumer`), urgent ones first, of those the
        oldest first.  Paused queues have none.  Delayed messages that are due count as ready.  With nothing to claim
        it waits up to *timeout* seconds for a message, a due one or `wake`; it never polls faster than the store
        notifies.  Expired messages are delivered too: whoever claims them says what becomes of them.
        """

    def foresee(self, start: int, claim: int = 0) -> None:  # noqa: B027 - a hint, which may be passed over
        """Say what will be asked next, so that it may be done in one step: fewer round trips before a task runs.

        *start*: up to so many of what the next `claim` gives, its first ones, will be given to `start` at once; they
        may be marked as started when they are claimed, and `start` need not ask.  *claim*: `claim` with this limit is
        called when the next settlement has returned, and must be.
        """

    @abstractmethod
    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        """Mark as started, one verdict each, in one step: `lost`, `revoked` and `parked` ones must not be run.

        *records* are stored in the same step if this broker fuses with the consumer's store.

        *needs*: the permits that deliveries have to have.  One that gets all of them has them until its lease ends in
        whatever way; one that does not get all is `parked`: its lease has ended, and it waits in the store, in the
        order of its queue, until there is one.  The first of those that wait for a slot is given it when it becomes
        free, for `GRANTED` seconds, and is ready again, at the front of its queue.
        """

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        """Park those that could not be started now for want of a permit: `parked`, or `lost`; one verdict each.

        For the others (`ok`) there is one now; they stay leased, and are not started.
        """
        return ["ok"] * len(deliveries)

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """End deliveries, with their effects where fused, in one step. False: the lease was lost, nothing applied."""

    def settle_and_start(
        self,
        settlements: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        records: Sequence[Record] = (),
        needs: Needs = NOTHING,
    ) -> tuple[list[bool], list[Verdict]]:
        """`settle`, then `start`: in one step (one commit, one round trip) where the store can, else one by one."""
        return self.settle(settlements), self.start(deliveries, records, needs) if needs else self.start(
            deliveries, records
        )

    def let_go(self, deliveries: Sequence[Delivery]) -> None:  # noqa: B027 - most stores can
        """These are started, and are not to be run again should this process die: the broker may forget them.

        They are settled all the same, or released.  Only asked of a broker that cannot mark what is started.
        """

    def rest(self) -> None:  # noqa: B027 - most fetch nothing that was not claimed
        """Nothing more is claimed here: fetch nothing more, and give back what was fetched and not claimed."""

    @abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back deliveries that were not run, to the front of their queues.

        Not counted as executions, also where they were marked as started (a pool returned them unopened).
        """

    @abstractmethod
    def renew(self) -> bool:
        """Keep every lease of this consumer for another `lease` seconds. Any thread. False: it had been swept."""

    def renew_apart(self) -> AbstractContextManager[Callable[[], object]]:
        """What renews as `renew` does and shares nothing with this consumer or its broker: no lock, no connection.

        For a thread that gevent and eventlet know nothing of; opened, called and closed in it.  Raises
        NotImplementedError where a store cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} renews only with its own connection.")

    @abstractmethod
    def wake(self) -> None:
        """Make a `claim` that waits return now. Any thread, also a signal handler."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that turns readable when `claim` may find something; `claim` resets it."""

    @abstractmethod
    def due_in(self) -> float | None:
        """Seconds until the next delayed message of these queues is due (0 if it is), None if there is none.

        Also until the next that waits for a rate may have its permit.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back everything not settled (what was started counts as interrupted) and leave. Idempotent."""


class Slot(msgspec.Struct, frozen=True):
    """The queue of one listener, on stores where listeners have queues; the others pass over what they need not know.

    `name`: empty has the store make one up.  `exclusive`: nobody else may listen under that name.  After `expires`
    seconds in which nobody listened it is gone, and what nobody took within `ttl` seconds is.  Stores that do not see
    who listens keep it for `lasts` seconds besides.
    """

    name: str = ""
    exclusive: bool = False
    durable: bool = False
    expires: float | None = None
    ttl: float | None = None
    lasts: float = 0.0


NO_SLOT = Slot()


class Bus(ABC):
    """Short-lived messages: remote control, replies, events. Nobody listening: the message is gone.

    A topic is an exchange, and after a `/` its routing key where there is one: `celery.pidbox`,
    `celeryev/worker.online`.  Payloads are those of `celery.wire.broadcast`.  Thread-safe.
    """

    @abstractmethod
    def publish(self, topic: str, payload: bytes) -> None:
        """Send to everyone who is subscribed now."""

    @abstractmethod
    def subscribe(self, topics: Sequence[str], slot: Slot = NO_SLOT) -> Subscription:
        """Listen from now on. A topic that ends in `*` matches every topic with that beginning."""

    def hears(self, topic: str) -> bool:
        """Whether anybody may listen to *topic* now; also true where that cannot be found out, or the store is away."""
        return True

    def post(self, exchange: str, key: str, payload: bytes, ttl: float) -> None:
        """Send to the one who has opened the box *key* of *exchange*. What nobody takes is gone after *ttl* seconds."""
        self.publish(f"{exchange}/{key}", payload)

    def open_box(self, exchange: str, key: str, slot: Slot = NO_SLOT) -> Box:
        """Take in what is posted to the box *key* of *exchange* from now on. A key belongs to one reader."""
        return _TopicBox(self.subscribe([f"{exchange}/{key}"], slot))


class Box(ABC):
    """What was posted to one reader. Belongs to one thread."""

    @abstractmethod
    def get(self, timeout: float) -> bytes | None:
        """The next payload; None when *timeout* seconds passed. Raises `BrokerError`."""

    @abstractmethod
    def close(self) -> None:
        """Take nothing more; what is in it is gone. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _TopicBox(Box):
    """On a bus that has no other way: a topic that nobody else listens to."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def get(self, timeout: float) -> bytes | None:
        found = self._subscription.get(timeout)
        return None if found is None else found[1]

    def close(self) -> None:
        self._subscription.close()


class Subscription(ABC):
    """What arrives on a bus. One thread, except `close`."""

    @abstractmethod
    def get(self, timeout: float | None = None) -> tuple[str, bytes] | None:
        """The next (topic, payload); None when *timeout* seconds passed or it was closed."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that turns readable when `get(0)` may find something."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening. Any thread; idempotent; a waiting `get` returns None."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
