"""What a consumer on Redis remembers of permits: those with which it has started what it holds.

The server counts slots by key and consumer, and does not know which message has which; so it is told at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from celery.brokers.base import Needs, Verdict
from celery.wire.message import Delivery, Permit

_VERDICTS: dict[str, Verdict] = {"o": "ok", "l": "lost", "r": "revoked", "p": "parked"}
Group = tuple[Any, ...]
"""A queue, the numbers of some of its messages as text, and what holds for all of them."""


class Permits:
    """Of one registration. Belongs to the thread of its consumer."""

    def __init__(self) -> None:
        self.known: dict[int, Sequence[Permit]] = {}
        """By number, those with which it was started, or may have been."""

    def plan(self, deliveries: Sequence[Delivery], needs: Needs, *, doubt: bool, remember: bool) -> list[Group]:
        """Groups as `commit.lua` and `park.lua` have them. *doubt*: some may have been started already."""
        groups: dict[tuple[str, int, bool], Group] = {}
        known = self.known
        for delivery in deliveries:
            number, queue = delivery.fence, delivery.queue
            permits, again = needs.get(delivery.tag, ()), doubt
            if number in known:
                permits, again = known[number], True
            group = groups.get((queue, id(permits), again))
            if group is None:
                wanted = [_permit(permit) for permit in permits] or None
                slots = any(permit.slots for permit in permits)
                group = groups[queue, id(permits), again] = queue, list[str](), again, wanted, slots
            group[1].append(str(number))
            if remember and group[4]:
                known[number] = permits
        return list(groups.values())

    def slots(self, number: int) -> tuple[str, ...]:
        """The keys of the slots that it was started with."""
        permits = self.known.get(number) if self.known else None
        return tuple([permit.key for permit in permits if permit.slots]) if permits else ()

    def by_slots(self, group: Group, places: Sequence[int], doubtful: set[int]) -> Iterable[tuple[Group, list[int]]]:
        """Divide what is done of a queue into what holds slots and what does not."""
        parts: dict[int, tuple[tuple[str, ...], list[str], list[int]]] = {}
        known, numbers = self.known, group[1]
        found = [known.get(int(number), ()) for number in numbers]
        if len(set(map(id, found))) == 1:  # nearly always
            parts[0] = self.slots(int(numbers[0])), numbers, list(places)
        else:
            for permits, number, place in zip(found, numbers, places, strict=True):
                part = parts.get(id(permits))
                if part is None:
                    part = parts[id(permits)] = self.slots(int(number)), [], []
                part[1].append(number)
                part[2].append(place)
        queue, sure = group[0], doubtful.isdisjoint(map(int, group[1]))
        together: tuple[list[Any], list[str], list[int]] = [], [], []
        for keys, numbers, its_places in parts.values():
            if not keys:
                yield (queue, numbers), its_places
            elif sure:
                together[0].append((keys, len(numbers)))
                together[1].extend(numbers)
                together[2].extend(its_places)
            else:
                yield (queue, numbers, [(keys, len(numbers))]), its_places
        if together[1]:
            yield (queue, together[1], together[0]), together[2]

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.known.pop(number, None)


def read_verdicts(groups: Sequence[Group], deliveries: Sequence[Delivery], letters: str) -> list[Verdict]:
    """*letters* are for the numbers of the groups, in their order."""
    if len(letters) == len(deliveries) == letters.count("o"):
        return ["ok"] * len(letters)
    told = dict(zip([number for group in groups for number in group[1]], letters, strict=False))
    return [_VERDICTS[told.get(str(delivery.fence), "l")] for delivery in deliveries]


def _permit(permit: Permit) -> tuple[str, int, float, int]:
    """A permit as the script reads it."""
    return permit.key, permit.slots, permit.interval * 1000, permit.burst
