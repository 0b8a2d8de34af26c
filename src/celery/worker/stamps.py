"""Revocations of stamps: which of them hold here, and whom they concern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.brokers.base import Broker
from celery.worker import state


def texts(value: Any) -> list[str]:
    """A stamp's value, or several of them, as revocations name them."""
    if isinstance(value, list | tuple | set | frozenset):
        return [str(one) for one in value]
    return [str(value)]


def refresh(broker: Broker) -> None:
    """Know what the broker has recorded. Any thread."""
    if broker.can.withdraws:
        found = broker.revoked_stamps()
        if found != state.revoked_stamps:
            state.revoked_stamps.clear()
            state.revoked_stamps.update(found)


def note(headers: Mapping[str, Any]) -> None:
    """This worker was told of them."""
    for name, value in headers.items():
        known = state.revoked_stamps.setdefault(name, [])
        known += [text for text in texts(value) if text not in known]


def concern(stamps: Mapping[str, Any] | None, revoked: Mapping[str, list[str]]) -> bool:
    """Whether a task with these *stamps* is among the *revoked* ones."""
    return bool(stamps) and any(
        not set(texts(value)).isdisjoint(revoked.get(name, ())) for name, value in (stamps or {}).items()
    )
