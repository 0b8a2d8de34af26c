"""AMQP's routing rules: which queues a message for an exchange and a routing key reaches. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ROUTED = frozenset({"direct", "topic", "fanout"})
"""The exchange types these rules cover."""

FLEETING = "fleeting"
"""For the type of an exchange: it is fanout, and the queue is its listener's own, bound while somebody listens."""

Binding = tuple[str, str, str, str]
"""(exchange, type of the exchange, pattern, queue)."""


def routes(bindings: Iterable[Binding], exchange: str, routing_key: str) -> tuple[str, ...]:
    """The queues, each once and in the order of the bindings, that a message for *exchange* reaches.

    The default exchange `''` reaches the queue that is named by *routing_key*, whatever the bindings are.
    """
    if not exchange:
        return (routing_key,)
    reached = (
        queue for name, kind, pattern, queue in bindings if name == exchange and matches(kind, pattern, routing_key)
    )
    return tuple(dict.fromkeys(reached))


def matches(kind: str, pattern: str, routing_key: str) -> bool:
    """Whether a binding with *pattern* on an exchange of type *kind* lets *routing_key* through."""
    if kind in {"fanout", FLEETING}:
        return True
    if kind == "topic":
        return _words_match(pattern.split("."), routing_key.split("."))
    return pattern == routing_key


def _words_match(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """`*` stands for one word and `#` for any number of words, also none."""
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_words_match(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in {"*", words[0]} and _words_match(rest, words[1:])
