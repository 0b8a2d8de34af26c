"""Whose turn it is among queues: in proportion to their weights, or strictly in order. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def weighed(names: Iterable[str], known: Container[str]) -> tuple[list[str], dict[str, int]]:
    """Names of queues, and the weights of those that were given as `name:weight`.

    One of the *known* queues may have such a name itself.
    """
    found: list[str] = []
    weights: dict[str, int] = {}
    for given in names:
        name, colon, weight = given.strip().rpartition(":")
        if colon and name and weight.isdecimal() and int(weight) > 0 and given.strip() not in known:
            weights[name] = int(weight)
            found.append(name)
        else:
            found.append(given)
    return found, weights


class Turns:
    """Remembers how far each queue has come: by a message of one of weight *n* by 1/*n*. Who is behind is served first.

    A queue that had nothing for a while does not catch up on it.
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, int] | None = None, *, strict: bool = False) -> None:
        self.names = tuple(names)
        self.weights = {name: max(1, (weights or {}).get(name, 1)) for name in names}
        self.strict = strict
        self.passed = dict.fromkeys(names, 0.0)

    def serve(self, limit: int, take: Callable[[str, int], Sequence[T]]) -> list[T]:
        """Up to *limit* of what `take(name, count)` gives; less than it was asked for means that there is no more."""
        if len(self.names) == 1:
            return list(take(self.names[0], limit))
        found: list[T] = []
        counts = dict.fromkeys(self.names, 0)
        left = list(self.names)
        while left and len(found) < limit:
            room, among = limit - len(found), tuple(left)
            for name in self.order(left):
                share = min(limit - len(found), self._share(name, among, room))
                taken = take(name, share)
                found += taken
                counts[name] += len(taken)
                self.passed[name] += len(taken) / self.weights[name]
                if len(taken) < share:
                    left.remove(name)
                if len(found) >= limit:
                    break
        self._forgive([name for name in self.names if name not in left], [name for name in left if counts[name]])
        return found

    def record(self, counts: Mapping[str, int], emptied: Sequence[str]) -> None:
        """What was served elsewhere: how many of each, and which have no more."""
        for name, count in counts.items():
            self.passed[name] += count / self.weights[name]
        self._forgive(emptied, [name for name in counts if name not in emptied])

    def order(self, names: Sequence[str]) -> list[str]:
        """*names* in the order in which they are served."""
        return list(names) if self.strict else sorted(names, key=lambda name: (self.passed[name], -self.weights[name]))

    def _share(self, name: str, among: Sequence[str], room: int) -> int:
        if self.strict:
            return room
        return max(1, room * self.weights[name] // sum(self.weights[other] for other in among))

    def _forgive(self, emptied: Sequence[str], served: Sequence[str]) -> None:
        """Those that had too little begin again beside the one that is furthest behind of those that had enough."""
        if not served:
            if len(emptied) == len(self.names):
                self.passed = dict.fromkeys(self.names, 0.0)
            return
        base = min(self.passed[name] for name in served)
        for name in emptied:
            self.passed[name] = max(self.passed[name], base)
