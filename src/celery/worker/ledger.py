"""Commits what came of tasks: settlement and effects in one step where broker and results share a store.

*Fused*: `Consumer.settle` does it all, fenced by the lease: all or nothing.  *Split*: results, then joins, then
follow-up messages, then the settlement.  Every step can be done twice (first terminal state wins, joins count distinct
parts, follow-ups carry their task ids), so a crash in between repeats work but never forks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from celery.backends.store import Store, messages_of
from celery.brokers.answers import Joins
from celery.brokers.base import NOTHING, Broker, Consumer, Needs, Verdict
from celery.wire.message import Delivery, Outgoing, Record, Settlement


class Ledger:
    """Commits in batches. One thread. Raises what the stores raise, and can then be asked again with the same batch."""

    def __init__(self, broker: Broker, store: Store | None) -> None:
        self.broker = broker
        self.store = store
        self.joins: Store | Joins | None = store if store is not None else broker.joins()
        self.fused = store is not None and broker.fuses(store)
        self.stale = 0
        """Settlements and results that were refused because another execution of the message came first."""
        self.committed = 0
        self.on_sent: Callable[[Sequence[Outgoing]], None] | None = None
        """Called with the messages of tasks once the broker has them."""

    @property
    def joined(self) -> Store | None:
        """The store to give a consumer: for effects of its settlements, or for marks that its broker cannot keep."""
        return self.store if self.fused or not self.broker.can.marks else None

    @property
    def forgetful(self) -> bool:
        """Whether nothing can tell later that a message was started."""
        return self.store is None and not self.broker.can.marks

    def prepare(self, settlements: Sequence[Settlement], started: Sequence[Record] = ()) -> list[Settlement]:
        """What is left to commit in one step; in a split ledger everything else, and *started*, is stored now.

        Asked again with what it returned, it stores nothing twice.
        """
        if self.fused:
            return settlements if isinstance(settlements, list) else list(settlements)
        # Messages are sent last: when anything before that fails, all of it can be done again.
        if started and self.store is not None:
            self.store.put(started)
        return self._store_effects(settlements)

    def commit(self, consumer: Consumer, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Commit all of them; those that were refused because the lease was lost."""
        settlements = self.prepare(settlements)
        return self._refused(settlements, consumer.settle(settlements))

    def commit_and_start(
        self,
        consumer: Consumer,
        settlements: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        records: Sequence[Record],
        needs: Needs = NOTHING,
    ) -> tuple[list[Settlement], list[Verdict]]:
        """`commit`, and mark *deliveries* as started: one wait for the disk, or one round trip, instead of two.

        *records* say that they have started, *needs* which permits they must have.  Settlements and records have gone
        through `prepare`.
        """
        if not deliveries:
            return self.commit(consumer, settlements), []
        started = records if self.fused else ()
        if not settlements:
            return [], consumer.start(deliveries, started, needs)
        applied, verdicts = consumer.settle_and_start(settlements, deliveries, started, needs)
        return self._refused(settlements, applied), verdicts

    def _refused(self, settlements: Sequence[Settlement], applied: Sequence[bool]) -> list[Settlement]:
        self.committed += len(settlements)
        if self.on_sent is not None:
            self._tell(settlements, applied)
        if all(applied):
            return []
        refused = [settlement for settlement, kept in zip(settlements, applied, strict=True) if not kept]
        self.stale += len(refused)
        return refused

    def _tell(self, settlements: Sequence[Settlement], applied: Sequence[bool]) -> None:
        messages = [
            m for settlement, kept in zip(settlements, applied, strict=True) if kept for m in settlement.messages
        ]
        if messages and self.on_sent is not None:
            self.on_sent(messages)

    def _store_effects(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        records = [record for settlement in settlements for record in settlement.records]
        arrivals = [arrival for settlement in settlements for arrival in settlement.arrivals]
        messages = [message for settlement in settlements for message in settlement.messages]
        if records and self.store is not None:
            self.stale += self.store.put(records).count(False)
        if arrivals and self.joins is not None:
            messages += messages_of(arrivals, self.joins.arrive(arrivals))
        if messages:
            self.broker.publish(messages)
            if self.on_sent is not None:
                self.on_sent(messages)
        if not (records or arrivals or messages):
            return settlements if isinstance(settlements, list) else list(settlements)
        return [msgspec.structs.replace(s, records=(), messages=(), arrivals=()) for s in settlements]
