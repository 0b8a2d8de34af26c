"""The worker's side of one prefork child: its channels, what it holds, and its process."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from selectors import EVENT_WRITE, BaseSelector
from typing import Any

from msgspec.structs import replace

from celery.concurrency.frames import (
    CHUNK,
    END,
    JOB_HEADER,
    NOTICE,
    OUTCOME_HEADER,
    Notice,
    decode_notice,
    decode_outcome,
    encode,
    numbers_of,
    permits,
    reading_buffer,
)
from celery.concurrency.nursery import Nursery
from celery.concurrency.process import Process, describe_exit
from celery.concurrency.window import PATIENCE, Pace
from celery.wire.message import Job, Outcome

logger = logging.getLogger("celery.pool")

Life = Callable[..., None]
"""What a child does: called with the writing end of its voice, its stream, its permits, its lifeline, and more."""
LEAVE_TIMEOUT = 10.0
"""Seconds a child that said it leaves may take for its exit handlers."""
MANY = 16
"""Jobs in a slot from which on its outcomes are collected together."""
_BUFFER = reading_buffer()
"""Read into by every slot: what is left of a frame is copied out before the next read."""


class Slot:
    """A child as its worker sees it.

    `jobs` are the jobs given and not yet ended, by the numbers of their frames, in the order they run: the first of
    them runs since `started` (on the monotonic clock), unless its permit is still in the pipe.
    """

    def __init__(
        self,
        process: Process,
        voice: int,
        stream: socket.socket,
        permit_reader: int,
        permit_writer: int,
        lifeline: int,
        pace: Pace,
    ) -> None:
        self.process = process
        self.index = 0
        """Its place among the children of its pool; its successor's too."""
        self.sentinel: int | None = None
        """What its end is watched by, once it can be."""
        self.voice = voice
        """The reading end of what it says."""
        self.stream = stream
        self.pace = pace
        self.jobs: dict[int, Job] = {}
        self.started = self.born = time.monotonic()
        self.finished = 0
        self.ready = False
        """It takes jobs."""
        self.waits_to_send = self.ignored = False
        """Its stream is watched, because it was full; nothing of it is watched any more but its end."""
        self.asked_to_end = False
        self.leaving: float | None = None
        """Since when it has said that it ends."""
        self.timed_out = False
        """It was killed at the hard limit of its job."""
        self.hung_up = False
        """It has closed its end: its process ends, or has ended."""
        self.failure = ""
        """Why it could not boot."""
        self.notices: list[Notice] = []
        self._permit_reader, self._permit_writer, self._lifeline = permit_reader, permit_writer, lifeline
        self._unsent = bytearray()
        self._unread = bytearray()
        self._wanted = 0
        self._given = 0

    @property
    def pid(self) -> int:
        """Its number; 0 until it says that it is there."""
        return self.process.pid

    @property
    def given(self) -> int:
        """How many jobs it has been given."""
        return self._given

    def room(self, most: int, now: float) -> int:
        """How many more jobs this child should be given: none while its window is more than three quarters full.

        So a stream of tiny jobs moves in batches, at two system calls each, not at two for every outcome.
        """
        if not self.ready:
            return 0
        held = len(self.jobs)
        if not held:
            return self.pace.depth(most)
        depth = self.pace.depth(most, now - self.started)
        return depth - held if held * 4 <= depth * 3 else 0

    def next_look(self, start_timeout: float) -> float | None:
        """When, on the monotonic clock, there will be something to do for it, which has so many seconds to start."""
        if self.leaving is not None:
            return self.leaving + LEAVE_TIMEOUT
        if not self.ready and not self.asked_to_end and not self.timed_out:
            return self.born + start_timeout
        when = None
        if self.jobs and not self.timed_out:
            hard = next(iter(self.jobs.values())).hard
            if hard is not None:
                when = self.started + hard
            if len(self.jobs) > 1:
                when = min(when or math.inf, self.started + PATIENCE)
        return when

    def lull(self) -> float:
        """Seconds for which it can be left alone: until half of what it holds is done, if that is many tiny jobs."""
        held, mean = len(self.jobs), self.pace.mean
        return held * mean / 2 if held >= MANY and mean is not None else 0.0

    def give(self, jobs: Sequence[Job], now: float) -> None:
        """Hand over *jobs*. Does not block: what the socket does not take is sent by `flush`."""
        if not self.jobs:
            self.started = now
        number = self._given
        parts: list[bytes] = []
        for job in jobs:
            number += 1
            payload = encode(job)
            parts += (JOB_HEADER.pack(len(payload), number), payload)
            self.jobs[number] = job
        self._send(b"".join(parts))
        # After the frames: a child that has the permit should find the job.
        os.write(self._permit_writer, permits(range(self._given + 1, number + 1)))
        self._given = number

    def take_back(self) -> list[Job]:
        """The jobs that had not started. They will not: the child cannot get their permits any more."""
        try:
            numbers = numbers_of(os.read(self._permit_reader, 65536))
        except BlockingIOError:
            return []
        if END in numbers:
            os.write(self._permit_writer, permits([END]))
        return [self.jobs.pop(number) for number in numbers if number != END]

    def ask_to_end(self) -> None:
        """Let the child end after its running job. Take its window back first."""
        if not self.asked_to_end:
            self.asked_to_end, self.ready = True, False
            os.write(self._permit_writer, permits([END]))

    def _send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.stream.send(data)
        except BlockingIOError:
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            # It died; that is settled when its end is noticed, with these jobs among the ones never started.
            return
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]

    def flush(self) -> None:
        """Send what the socket did not take before."""
        data, self._unsent = bytes(self._unsent), bytearray()
        if data:
            self._send(data)

    @property
    def blocked(self) -> bool:
        """There is something to flush."""
        return bool(self._unsent)

    def watch(self, selector: BaseSelector) -> None:
        """Have its socket watched, once it was full, until it has taken all there is."""
        if self.blocked != self.waits_to_send and not self.ignored:
            self.waits_to_send = self.blocked
            if self.blocked:
                selector.register(self.stream, EVENT_WRITE, self)
            else:
                selector.unregister(self.stream)

    def ignore(self, selector: BaseSelector) -> None:
        """Have nothing of it watched any more, but its end."""
        if not self.ignored:
            self.ignored = True
            selector.unregister(self.voice)
            if self.waits_to_send:
                selector.unregister(self.stream)

    def read(self, now: float) -> list[Outcome]:
        """What the child has said since the last call: outcomes here, the rest in `notices`. Does not block."""
        outcomes: list[Outcome] = []
        while True:
            try:
                count = os.readv(self.voice, (_BUFFER,))
            except BlockingIOError:
                break
            if not count:
                self.hung_up, self.ready = True, False
                break
            self._parse(_BUFFER[:count], outcomes)
            if count < CHUNK:
                break
        if outcomes:
            self.started = now
        return outcomes

    def _parse(self, data: memoryview, outcomes: list[Outcome]) -> None:
        if self._unread:
            self._unread += data
            if len(self._unread) < self._wanted:
                return
            data = memoryview(bytes(self._unread))
            self._unread.clear()
        unpack, header, decode, jobs = OUTCOME_HEADER.unpack_from, OUTCOME_HEADER.size, decode_outcome, self.jobs
        micros_of: list[int] = []
        position, length = 0, len(data)
        end = header
        while end <= length:
            size, micros = unpack(data, position)
            start, end = end, end + size
            if end > length:
                break
            if micros == NOTICE:
                self.notices.append(decode_notice(data[start:end]))
            else:
                outcome = decode(data[start:end])
                number = next(iter(jobs), None)
                if number is None:
                    # Something else writes to this pipe: a process that the task left behind.
                    logger.error("Pool process %d reports a job it was not given: ignored", self.pid)
                    position = end
                    end += header
                    continue
                job = jobs.pop(number)
                if outcome.tag != job.tag:
                    # Outcomes come in the order of the jobs, whatever a runner writes on them.
                    outcome = replace(outcome, tag=job.tag)
                outcomes.append(outcome)
                micros_of.append(micros)
            position = end
            end += header
        if micros_of:
            self.finished += len(micros_of)
            self.pace.learn_all(micros_of)
        if position < length:
            self._unread += data[position:]
            self._wanted = end - position

    def send_signal(self, number: int) -> None:
        """Signal the child's process, and never another one that got its number."""
        self.process.send_signal(number)

    def finish(self) -> str:
        """See that the process is dead, and say how it ended."""
        return describe_exit(self.process.finish())

    def close(self) -> None:
        """Free what the child used. Read what it said and take its window back first."""
        self.stream.close()
        for number in (self.voice, self._permit_reader, self._permit_writer, self._lifeline):
            os.close(number)
        self.process.close()


def open_slot(
    nursery: Nursery, life: Life, name: str, arguments: tuple[Any, ...], *, mean: float | None = None
) -> Slot:
    """Ask for a process that lives *life* on new channels; the slot for it, which is not ready yet.

    *mean* is what is known of durations.
    """
    ours, theirs = socket.socketpair()
    permit_reader, permit_writer = os.pipe()
    lifeline_reader, lifeline_writer = os.pipe()
    voice_reader, voice_writer = os.pipe()
    if sys.platform == "linux":
        with suppress(OSError):  # more than this user may have: then it is as large as pipes are
            fcntl.fcntl(voice_writer, fcntl.F_SETPIPE_SZ, CHUNK)
    os.set_blocking(voice_reader, False)
    # The pipe's reading end has two holders and one state: neither of them may block in it.
    os.set_blocking(permit_reader, False)
    os.set_blocking(permit_writer, False)
    ours.setblocking(False)
    try:
        with theirs:
            descriptors = (voice_writer, theirs.fileno(), permit_reader, lifeline_reader)
            process = nursery.ask(name, life, arguments, descriptors)
    except BaseException:
        ours.close()
        for number in (permit_reader, permit_writer, lifeline_writer, voice_reader):
            os.close(number)
        raise
    finally:
        os.close(lifeline_reader)
        os.close(voice_writer)
    return Slot(process, voice_reader, ours, permit_reader, permit_writer, lifeline_writer, Pace(mean))
