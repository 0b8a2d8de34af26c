"""The application of the crash tests: every execution is written to a file that no broker and no store touches.

A line is one `write` to a descriptor opened with O_APPEND: it is there whole or not at all, whatever is killed.
`ORACLE_KILL` names a point in the worker's own process at which it kills itself the n-th time it gets there
(`start:3`: the third time, before the broker is asked to mark a batch as started).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from canvas.drawn import act
from celery import Celery
from celery.drivers import broker_class
from celery.signals import worker_ready

app = Celery("oracle")
app.conf.update(task_max_deliveries=50, result_expires=None)
app.conf.update(json.loads(os.environ.get("ORACLE_SETTINGS") or "{}"))
LOG = os.open(os.environ["ORACLE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(word: str, number: int, *more: object) -> None:
    os.write(LOG, " ".join(map(str, (word, number, *more))).encode() + b"\n")


@worker_ready.connect
def say_that_it_is_ready(**_: Any) -> None:
    if os.environ.get("ORACLE_READY"):
        Path(os.environ["ORACLE_READY"]).touch()


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(number: int, seconds: float = 0.0) -> int:
    note("late", number)
    time.sleep(seconds)
    note("late-end", number)
    return number


@app.task(acks_late=True, reject_on_worker_lost=True)
def stay(number: int) -> None:
    """Never end, and say in which process."""
    note("stay", number, os.getpid())
    while True:
        time.sleep(60)


@app.task(acks_late=True, concurrency_limit=1, concurrency_key="key {key}")
def keyed(number: int, key: int, seconds: float) -> None:
    """Say when it comes in and when it goes."""
    note("in", key, number, time.time())
    time.sleep(seconds)
    note("out", key, number, time.time())


@app.task
def early(number: int, seconds: float = 0.0) -> int:
    note("early", number)
    time.sleep(seconds)
    note("early-end", number)
    return number


def tick() -> None:
    """One byte in the log, where only their number counts."""
    os.write(LOG, b".")


@app.task
def tick_early() -> None:
    tick()


@app.task(acks_late=True)
def tick_late() -> None:
    tick()


@app.task
def tick_and_fail() -> None:
    tick()
    raise ValueError("as it should")


@app.task(bind=True, max_retries=1)
def tick_twice(self: Any) -> None:
    tick()
    if not self.request.retries:
        raise self.retry(countdown=0.2)


@app.task
async def tick_async() -> None:
    tick()
    await asyncio.sleep(0.001)


@app.task(concurrency_limit=2)
def tick_limited() -> None:
    tick()


@app.task(soft_time_limit=0.05)
def tick_and_exceed() -> None:
    """Goes on until its limit strikes, wherever a limit can."""
    tick()
    while True:
        time.sleep(0.005)


@app.task(bind=True, ignore_result=True, acks_late=True, reject_on_worker_lost=True)
def committed(self: Any, number: int) -> None:
    """The callback of `late`: every commit of a result of it sends a message of this one, with a tag of its own."""
    note("committed", number, self.request.properties["delivery_tag"])


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def node(self: Any, *args: Any, number: int, kind: str) -> str:
    """A task of a workflow that was drawn at random. Takes its time, so that it can be killed while it runs."""
    time.sleep(0.002)
    return act(self, args, number, kind, lambda: note("node", number, self.request.id))


@app.task(acks_late=True, reject_on_worker_lost=True)
def hold_interpreter(number: int, seconds: float) -> int:
    """Keep the lock of the interpreter all the time, as a careless extension does: nothing else runs meanwhile."""
    note("late", number)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    note("late-end", number)
    return number


@app.task(acks_late=True, reject_on_worker_lost=True)
def spin(number: int, seconds: float) -> int:
    """Keep the processor busy with Python."""
    note("late", number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        continue
    note("late-end", number)
    return number


@app.task(acks_late=True, reject_on_worker_lost=True)
def kill_worker(number: int) -> None:
    """Kill the process that the worker is."""
    note("kill", number)
    worker = os.getppid()
    while Path(f"/proc/{worker}/comm").read_text() == "celery-template\n":
        worker = parent_of(worker)
    os.kill(worker, signal.SIGKILL)
    time.sleep(60)


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def kill_at(point: str, countdown: int) -> None:
    """Make the worker's process kill itself just before the *countdown*-th batch that it starts, or settles.

    `stored` and `sent` are the moments before and after follow-ups are published, where that and the settlement are two
    steps.
    """
    broker = broker_class(str(app.conf.broker_url or "sqlite://"))

    def count() -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly_consumer(self: Any, *args: Any, **options: Any) -> Any:
        consumer = make(self, *args, **options)
        place = {"settle": 0, "start": 1}[point]
        replaced = type(consumer)
        original = replaced.settle_and_start

        def settle_and_start(self: Any, *args: Any, **options: Any) -> Any:
            if args[place]:
                count()
            return original(self, *args, **options)

        if not hasattr(original, "deadly"):
            settle_and_start.deadly = True  # type: ignore[attr-defined]
            setattr(replaced, "settle_and_start", settle_and_start)  # noqa: B010 - mypy forbids the plain assignment
        return consumer

    def deadly_publish(self: Any, messages: Any) -> None:
        if point == "stored":
            count()
        publish(self, messages)
        if point == "sent":
            count()

    make, publish = broker.consumer, broker.publish
    if point in {"sent", "stored"}:
        setattr(broker, "publish", deadly_publish)  # noqa: B010 - as above
    else:
        setattr(broker, "consumer", deadly_consumer)  # noqa: B010 - as above


if os.environ.get("ORACLE_KILL"):
    point, _, count = os.environ["ORACLE_KILL"].partition(":")
    kill_at(point, int(count or 1))
