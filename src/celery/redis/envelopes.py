"""Messages as Redis keeps them: kombu's lists, priority steps, and a wrapping for what is no envelope."""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from celery.exceptions import ImproperlyConfigured
from celery.utils.uuids import uuid

STEPS = (0, 3, 6, 9)
SEP = "\x06\x16"

INNER = 255
"""The step of messages that only workers of ours may get (`Outgoing.inner`): it has a list of its own, before all."""

_ENVELOPE = b'{"body"'
_WRAPPED = b'{"wrapped":'
_TAG = re.compile(rb'"delivery_tag": ?"([0-9a-f]{8})-([0-9a-f]{4})-7')
_TASK = re.compile(rb'"id": ?"([^"\\]*)"')
_CORRELATION = re.compile(rb'"correlation_id": ?"([^"\\]*)"')


class _Wrapped(msgspec.Struct):
    body: str


_decode = msgspec.json.Decoder(_Wrapped).decode


def wrap(payload: bytes, task_id: str, now: float) -> bytes:
    """*payload* as an entry of a list: itself if it is an envelope, else in one that says whose it is and when it came.

    *now* in Unix seconds.
    """
    if payload.startswith(_ENVELOPE):
        return payload
    moment, tail = f"{int(now * 1000):012x}", uuid()[15:]
    return msgspec.json.encode(
        {
            "wrapped": True,
            "body": b2a_base64(payload, newline=False).decode("ascii"),
            "headers": {"id": task_id},
            "properties": {"body_encoding": "base64", "delivery_tag": f"{moment[:8]}-{moment[8:]}-7{tail}"},
        }
    )


def unwrap(entry: bytes) -> bytes:
    """What was published; an entry that only looks like one of ours is handed on as it is."""
    if not entry.startswith(_WRAPPED):
        return entry
    try:
        return a2b_base64(_decode(entry).body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return entry


def sent_at(entry: bytes) -> float | None:
    """When an entry was made, in Unix seconds: its delivery tag is a UUID of version 7 if we made it (RFC 9562)."""
    found = _TAG.search(entry)
    return int(found[1] + found[2], 16) / 1000 if found else None


def task_of(entry: bytes) -> str:
    """The id of its task; empty where there is none."""
    found = _TASK.search(entry) or _CORRELATION.search(entry)
    return found[1].decode(errors="replace") if found else ""


def read_steps(given: Sequence[int] | None) -> tuple[int, ...]:
    """The option `priority_steps`, checked."""
    steps = tuple(given) if given is not None else STEPS
    if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or not all(type(s) is int for s in steps):
        raise ImproperlyConfigured(
            f"The transport option priority_steps is {list(steps)!r}: write rising numbers that begin with 0."
        )
    return steps


def step_of(steps: tuple[int, ...], priority: int | None) -> int:
    """The step whose list takes messages of *priority*: the largest that is not above it."""
    return steps[max(0, bisect_right(steps, priority or 0) - 1)]
