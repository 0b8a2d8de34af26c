"""The worker's consumers at the broker: the one it claims with, and former ones whose tasks still run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from celery.brokers.base import NOTHING, Consumer, Needs, Verdict
from celery.exceptions import BrokerError
from celery.utils.log import get_logger
from celery.wire.message import Delivery, Record, Settlement

logger = get_logger(__name__)

Make = Callable[[Sequence[str]], Consumer]
Claim = tuple[int | str, int]
"""A message and the fence of one claim of it: it may be claimed here again, by another consumer."""


def _start(
    consumer: Consumer, deliveries: Sequence[Delivery], records: Sequence[Record], needs: Needs
) -> list[Verdict]:
    return consumer.start(deliveries, records, needs) if needs else consumer.start(deliveries, records)


def claim_of(delivery: Delivery) -> Claim:
    return delivery.tag, delivery.fence


class Claims(Consumer):
    """A consumer whose queues can change. Who claimed a message settles it, so a former one stays until all is settled.

    Threads: as any consumer; `change` and `renounce` belong to the loop.
    """

    def __init__(self, queues: Sequence[str], make: Make) -> None:
        self.queues = tuple(queues)
        self._make = make
        self._now = make(self.queues)
        self.name = self._now.name
        self._former: dict[Claim, Consumer] = {}
        self._leaving: list[Consumer] = []
        """Those in whose place another one has not claimed yet."""

    def change(self, queues: Sequence[str], kept: Iterable[Delivery]) -> None:
        """Claim from *queues* from now on. *kept*: what was claimed and will be settled.

        The former consumer listens until the new one does: a queue may go with its last listener.
        """
        new = self._make(queues)
        old, self._now = self._now, new
        self.queues = tuple(queues)
        for delivery in kept:
            self._former.setdefault(claim_of(delivery), old)
        self._leaving.append(old)

    def renounce(self) -> None:
        """The lease was lost: begin anew. What the lost consumer had claimed it may still try to settle, in vain."""
        self.change(self.queues, ())

    def claim(self, limit: int, timeout: float = 0.0, wanted: Mapping[str, int] = NOTHING) -> list[Delivery]:
        # Limits are mentioned only where there are some: not every driver knows of them.
        found = self._now.claim(limit, timeout, wanted) if wanted else self._now.claim(limit, timeout)
        if self._leaving:
            self._take_over()
        return found

    def _take_over(self) -> None:
        leaving, self._leaving = self._leaving, []
        for consumer in leaving:
            if consumer in self._former.values():
                consumer.rest()
        self._retire(leaving)

    def foresee(self, start: int, claim: int = 0) -> None:
        self._now.foresee(start, claim)

    def start(
        self, deliveries: Sequence[Delivery], records: Sequence[Record] = (), needs: Needs = NOTHING
    ) -> list[Verdict]:
        if not self._former:
            return _start(self._now, deliveries, records, needs)
        verdicts: dict[Claim, Verdict] = {}
        for owner, owned in self._by_owner(deliveries):
            verdicts.update(zip(map(claim_of, owned), _start(owner, owned, records, needs), strict=True))
        return [verdicts[claim_of(delivery)] for delivery in deliveries]

    def park(self, deliveries: Sequence[Delivery], needs: Needs) -> list[Verdict]:
        if not self._former:
            return self._now.park(deliveries, needs)
        verdicts: dict[Claim, Verdict] = {}
        for owner, owned in self._by_owner(deliveries):
            verdicts.update(zip(map(claim_of, owned), owner.park(owned, needs), strict=True))
        return [verdicts[claim_of(delivery)] for delivery in deliveries]

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        if not self._former:
            return self._now.settle(settlements)
        return self._settle_each(settlements)

    def settle_and_start(
        self,
        settlements: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        records: Sequence[Record] = (),
        needs: Needs = NOTHING,
    ) -> tuple[list[bool], list[Verdict]]:
        if self._former:
            return self._settle_each(settlements), self.start(deliveries, records, needs)
        if needs:
            return self._now.settle_and_start(settlements, deliveries, records, needs)
        return self._now.settle_and_start(settlements, deliveries, records)

    def _settle_each(self, settlements: Sequence[Settlement]) -> list[bool]:
        deliveries = [settlement.delivery for settlement in settlements]
        by_claim = dict(zip(map(claim_of, deliveries), settlements, strict=True))
        applied: dict[Claim, bool] = {}
        for owner, owned in self._by_owner(deliveries):
            claims = [claim_of(delivery) for delivery in owned]
            applied.update(zip(claims, owner.settle([by_claim[claim] for claim in claims]), strict=True))
        self._forget(deliveries)
        return [applied[claim_of(delivery)] for delivery in deliveries]

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        for owner, owned in self._by_owner(deliveries):
            owner.let_go(owned)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        if not self._former:
            self._now.release(deliveries)
            return
        for owner, owned in self._by_owner(deliveries):
            owner.release(owned)
        self._forget(deliveries)

    def _by_owner(self, deliveries: Sequence[Delivery]) -> list[tuple[Consumer, list[Delivery]]]:
        """Who claimed what."""
        owned: dict[Consumer, list[Delivery]] = {}
        for delivery in deliveries:
            owned.setdefault(self._former.get(claim_of(delivery), self._now), []).append(delivery)
        return list(owned.items())

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        """They are no longer held here."""
        gone = [former for delivery in deliveries if (former := self._former.pop(claim_of(delivery), None)) is not None]
        self._retire(dict.fromkeys(gone))

    def renew(self) -> bool:
        kept = self._now.renew()
        for consumer in {*self._former.values(), *self._leaving}:
            consumer.renew()
        return kept

    def everyone(self) -> set[Consumer]:
        """Those that have a lease now. Any thread."""
        return {self._now, *self._former.values()}

    def wake(self) -> None:
        self._now.wake()

    def fileno(self) -> int:
        return self._now.fileno()

    def due_in(self) -> float | None:
        return self._now.due_in()

    def close(self) -> None:
        former = {*self._former.values(), *self._leaving}
        self._former.clear()
        self._leaving.clear()
        self._now.close()
        self._retire(former)

    def _retire(self, consumers: Iterable[Consumer]) -> None:
        """Close those that have nothing left to settle."""
        for consumer in consumers:
            if consumer is self._now or consumer in self._leaving or consumer in self._former.values():
                continue
            try:
                consumer.close()
            except BrokerError as error:
                logger.warning("Could not close a former consumer; its lease will end by itself: %s", error)
