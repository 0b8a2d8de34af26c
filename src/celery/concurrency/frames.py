"""What a worker and a prefork child say to each other, as bytes.

Two channels lead to a child.  A stream socket carries every job as a numbered frame.  A pipe carries *permits*: the
number of a frame, eight bytes.  The child takes a permit from the pipe before it starts a job, and skips frames whose
permit never came.  The worker, which keeps the reading end of the pipe too, takes jobs back by reading their permits
before the child does: the kernel lets exactly one of them have each permit, so a job that waits behind a long one is
taken back at once, without asking a child that has no time to answer, and is never run twice nor lost.

A third leads back, a pipe too, because it takes many small writes at a quarter of what they cost on a socket.  It
carries a frame for each outcome, with the microseconds its job took; a frame with `NOTICE` in place of the duration is
a `Notice` about the child itself.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from celery.wire.message import Job, Outcome

JOB_HEADER = struct.Struct("<IQ")
"""Length of the job that follows, and the number of its frame."""
OUTCOME_HEADER = struct.Struct("<II")
"""Length of the outcome that follows, and microseconds (`NOTICE`: a notice follows)."""
PERMIT = struct.Struct("<Q")
NOTICE = 2**32 - 1
LONGEST = NOTICE - 1
END = 2**64 - 1
"""The permit that asks a child to end."""
CHUNK = 256 * 1024
"""Bytes read at a time."""


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """What a child says of itself.

    `born`: it is there, `text` is its number. `ready`: it takes jobs. `failed`: it could not boot, `text` says why.
    `leaving`: it takes no more jobs and ends, `text` says why.
    """

    kind: Literal["born", "ready", "failed", "leaving"]
    text: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
decode_notice = msgspec.msgpack.Decoder(Notice).decode


def reading_buffer() -> memoryview:
    """Space for a `CHUNK`, of which only what is written to takes memory."""
    return memoryview(mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE))


def notice_frame(notice: Notice) -> bytes:
    payload = encode(notice)
    return OUTCOME_HEADER.pack(len(payload), NOTICE) + payload


def permits(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def numbers_of(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // PERMIT.size}Q", data)
