"""What has ended and is not committed yet: kept until the broker has it, whatever keeps the broker from taking it.

An error that is about the state of the broker or of the result store (out of reach, locked, full) is raised, and the
batch is kept for the next try.  An error that is about a settlement is found out by trying each by itself; that one
goes to the dead set without its effects, so that it cannot keep the others from being committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from celery.backends.store import Store
from celery.brokers.base import NOTHING, Needs, Verdict
from celery.concurrency.outcomes import plain
from celery.exceptions import BackendError, BrokerError, DecodeError, InvalidTaskError
from celery.utils.log import get_logger
from celery.wire.message import Delivery, Record, Settlement
from celery.wire.protocol import peek
from celery.worker.aftermath import Aftermath
from celery.worker.claimed import Claimed as Request
from celery.worker.claims import Claims
from celery.worker.decisions import Dead, Facts
from celery.worker.facts import FactsTable
from celery.worker.ledger import Ledger

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger("celery.worker.consumer")

POISONED = 3
"""Commits that fail in a row, the broker not saying that it is in trouble, before each is tried by itself."""
MOST_SHOWN = 5
NOBODY = "is-the-store-there"
"""The id of no task."""


def some(names: Sequence[object]) -> str:
    """The first few of *names*, and how many more there are."""
    shown = ", ".join(map(str, names[:MOST_SHOWN]))
    return shown if len(names) <= MOST_SHOWN else f"{shown} and {len(names) - MOST_SHOWN} more"


def ask_store(store: Store | None, app: Celery) -> None:
    """Raise `BackendError` if results cannot be read. Whoever may read results may ask what is asked here."""
    if store is not None:
        store.get([app.backend.get_key_for_task(NOBODY)])


class Endings:
    """The settlements of one worker on their way to its ledger. One thread."""

    def __init__(self, source: Claims, ledger: Ledger, aftermath: Aftermath, facts: FactsTable, hostname: str) -> None:
        self.source = source
        self.ledger = ledger
        self.aftermath = aftermath
        self.facts = facts
        self.hostname = hostname
        self.waiting: list[Settlement] = []
        """Ended, not committed yet."""
        self._failures = 0

    def has_followers(self) -> bool:
        """Whether messages are sent when all of them are committed, which may be for this worker."""
        queues = self.source.queues
        for settlement in self.waiting:
            if settlement.messages or settlement.arrivals:
                joins = (arrival.message for arrival in settlement.arrivals if arrival.message is not None)
                if any(sent.exchange or sent.routing_key in queues for sent in (*settlement.messages, *joins)):
                    return True
        return False

    def commit(self) -> None:
        """Commit all of them. Raises what the broker or the store raises; then they all wait for the next try."""
        if self.waiting:
            self._together((), ())

    def commit_and_start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record], needs: Needs = NOTHING
    ) -> list[Verdict]:
        """`commit`, and mark *deliveries* as started, in one step where possible. *records* say that they are."""
        return self._together(deliveries, records, needs)

    def let_go(self, requests: Iterable[Request]) -> None:
        """Nothing will tell that these were started: what must not run twice is given up to the broker now."""
        early = [r.delivery for r in requests if r.facts.acks_early]
        if early:
            self.source.let_go(early)

    def _together(
        self, deliveries: Sequence[Delivery], records: Sequence[Record], needs: Needs = NOTHING
    ) -> list[Verdict]:
        if self._failures >= POISONED:
            self._commit_apart()
        try:
            # What a store of its own has taken need not be sent twice, should the rest of the step fail.
            self.waiting = self.ledger.prepare(self.waiting, records)
            refused, verdicts = self.ledger.commit_and_start(self.source, self.waiting, deliveries, records, needs)
        except (BrokerError, BackendError) as error:
            self._failures += not error.temporary
            raise
        except Exception:
            logger.exception(
                "The results of %s tasks cannot be stored together; each is tried alone", len(self.waiting)
            )
            self._commit_apart()
            # The records only tell that tasks have started: better without them than not at all.
            return self.ledger.commit_and_start(self.source, (), deliveries, (), needs)[1]
        self._committed(refused)
        return verdicts

    def _committed(self, refused: Sequence[Settlement]) -> None:
        self._failures = 0
        self.waiting = []
        if refused:
            tags = [settlement.delivery.tag for settlement in refused]
            logger.warning("The results of messages %s were refused: this worker's lease on them was lost", some(tags))

    def _commit_apart(self) -> None:
        """One of them must be why the broker refuses them all. That one goes to the dead set, bare."""
        refused: list[Settlement] = []
        while self.waiting:
            settlement = self.waiting[0]
            try:
                refused += self._commit_alone(settlement)
            except (BrokerError, BackendError) as error:
                if error.temporary:
                    raise
                self._probe()
                refused += self._commit_bare(settlement, error)
            except Exception as error:
                logger.exception("The result of message %s cannot be stored", settlement.delivery.tag)
                refused += self._commit_bare(settlement, error)
            self.waiting.pop(0)
        self._committed(refused)

    def _commit_alone(self, settlement: Settlement) -> list[Settlement]:
        return self.ledger.commit(self.source, [settlement])

    def _probe(self) -> None:
        """Raise if it is not the settlement: if the broker or the store refuses everything."""
        self.source.renew()
        ask_store(self.ledger.store, self.aftermath.app)

    def _commit_bare(self, settlement: Settlement, error: Exception) -> list[Settlement]:
        """What is left of a settlement whose effects are refused: the message in the dead set, and its failure."""
        delivery = settlement.delivery
        reason = plain(f"what the task sent or stored was refused: {error}")
        try:
            head = peek(delivery.envelope)
        except DecodeError:
            return self.ledger.commit(self.source, [Settlement(delivery, "dead", reason=reason)])
        request = Request(head, delivery, self.facts.get(head.task) or Facts(head.task), 0, self.hostname)
        bare = self.aftermath.refused(request, Dead(reason, InvalidTaskError(reason)))
        try:
            return self._commit_alone(bare)
        except Exception as again:
            if isinstance(again, BrokerError | BackendError) and again.temporary:
                raise
            logger.exception("Not even its failure can be stored: message %s goes to the dead set alone", delivery.tag)
            return self.ledger.commit(self.source, [Settlement(delivery, "dead", reason=reason)])
