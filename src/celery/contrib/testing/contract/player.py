"""The runner of the pool contract: the envelope of a job is a word and its argument."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from celery.concurrency.base import Runner
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.loops import LoopThread
from celery.wire.message import Job, Outcome

PATIENCE = 30.0
"""Seconds after which a test gives up waiting."""


class Player:
    """A runner that does what the envelope says. `close` appends to the file *diary*, where there is one."""

    def __init__(self, diary: str = "") -> None:
        self.diary = diary
        self.hoard: list[bytes] = []

    def __call__(self, job: Job) -> Outcome:
        word, _, argument = job.envelope.decode().partition(" ")
        try:
            detail = getattr(self, f"play_{word}")(argument)
        except SoftTimeLimitExceeded:
            return Outcome(job.tag, "FAILURE", detail="soft limit")
        return Outcome(job.tag, "SUCCESS", detail=detail)

    def begin(self, job: Job, home: LoopThread) -> Coroutine[Any, Any, Outcome] | Callable[[], Outcome]:
        """For pools of coroutines: some words have one."""
        word, _, argument = job.envelope.decode().partition(" ")
        coroutine = getattr(self, f"aplay_{word}", None)
        return partial(self, job) if coroutine is None else self._play_async(job, coroutine(argument))

    async def _play_async(self, job: Job, coroutine: Coroutine[Any, Any, str]) -> Outcome:
        try:
            return Outcome(job.tag, "SUCCESS", detail=await coroutine)
        except SoftTimeLimitExceeded:
            return Outcome(job.tag, "FAILURE", detail="soft limit")

    async def aplay_echo(self, text: str) -> str:
        return text

    async def aplay_sleep(self, seconds: str) -> str:
        await asyncio.sleep(float(seconds))
        return seconds

    async def aplay_hold(self, path: str) -> str:
        write_line(f"{path}.began", str(os.getpid()))
        until = time.monotonic() + PATIENCE
        while not os.access(path, os.F_OK) and time.monotonic() < until:  # noqa: ASYNC110 - anybody may make the file
            await asyncio.sleep(0.002)
        return "held"

    async def aplay_persist(self, seconds: str) -> str:
        with suppress(SoftTimeLimitExceeded):
            await asyncio.sleep(float(seconds))
        await asyncio.sleep(float(seconds))
        return seconds

    def close(self) -> None:
        if self.diary:
            write_line(self.diary, f"closed {os.getpid()}")

    def play_echo(self, text: str) -> str:
        return text

    def play_hold(self, path: str) -> str:
        """Say that it began, and end when the file *path* exists."""
        write_line(f"{path}.began", str(os.getpid()))
        until = time.monotonic() + PATIENCE
        while not Path(path).exists() and time.monotonic() < until:
            time.sleep(0.002)
        return "held"

    def play_mark(self, argument: str) -> str:
        """Append a text to a file before anything else, then sleep."""
        path, text, seconds = argument.split()
        write_line(path, text)
        time.sleep(float(seconds))
        return text

    def play_sleep(self, seconds: str) -> str:
        time.sleep(float(seconds))
        return seconds

    def play_doze(self, seconds: str) -> str:
        """Sleep, a little at a time."""
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            time.sleep(0.002)
        return seconds

    def play_persist(self, seconds: str) -> str:
        """Sleep on, whatever the soft limit says."""
        with suppress(SoftTimeLimitExceeded):
            self.play_doze(seconds)
        return self.play_doze(seconds)

    def play_break(self, text: str) -> str:
        raise RuntimeError(text)

    def play_exit(self, code: str) -> str:
        os._exit(int(code))

    def play_die(self, number: str) -> str:
        os.kill(os.getpid(), int(number))
        time.sleep(PATIENCE)
        return "lives"

    def play_grow(self, kib: str) -> str:
        self.hoard.append(b"x" * (int(kib) * 1024))
        return kib

    def play_pid(self, text: str) -> str:
        return str(os.getpid())

    def play_length(self, text: str) -> str:
        return str(len(text))

    def play_repeat(self, count: str) -> str:
        return "x" * int(count)

    def play_family(self, text: str) -> str:
        """Start a process of its own, as tasks do."""
        process = multiprocessing.get_context("fork").Process(target=write_line, args=(text, "grandchild"))
        process.start()
        process.join(PATIENCE)
        return str(process.exitcode)

    def play_signals(self, text: str) -> str:
        handled = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGTERM")}
        return f"{handled['SIGINT'] == signal.SIG_IGN} {handled['SIGTERM'] != signal.SIG_IGN}"


def write_line(path: str, text: str) -> None:
    """Append in one write, so that lines of several processes do not mix."""
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(number, f"{text}\n".encode())
    os.close(number)


def boot(diary: str = "") -> Runner:
    return Player(diary)


def boot_that_fails(text: str) -> Runner:
    raise ValueError(text)


def boot_that_fails_later(path: str, text: str) -> Runner:
    """Boot as long as the file *path* does not exist."""
    if Path(path).exists():
        raise ValueError(text)
    return Player()


def boot_that_dies(code: int) -> Runner:
    os._exit(code)
