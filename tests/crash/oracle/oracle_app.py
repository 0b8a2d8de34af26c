"""The application of the crash tests: every execution is written to a file that no broker and no store touches.

A line is one `write` to a descriptor opened with O_APPEND: it is there whole or not at all, whatever is killed.
`ORACLE_KILL` names a point in the worker's own process at which it kills itself the n-th time it gets there
(`start:3`: the third time, before the broker is asked to mark a batch as started).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.brokers.sqlite import SQLiteConsumer

LEASE = 1.5
app = Celery("oracle")
app.conf.update(
    broker_transport_options={"lease": LEASE},
    worker_lease=LEASE,
    broker_publish_timeout=float(os.environ.get("ORACLE_PATIENCE", "5")),
    task_max_deliveries=int(os.environ.get("ORACLE_DELIVERIES", "50")),
    result_expires=None,
)
LOG = os.open(os.environ["ORACLE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(word: str, number: int) -> None:
    os.write(LOG, f"{word} {number}\n".encode())


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(number: int, seconds: float = 0.0) -> int:
    note("late", number)
    time.sleep(seconds)
    note("late-end", number)
    return number


@app.task
def early(number: int, seconds: float = 0.0) -> int:
    note("early", number)
    time.sleep(seconds)
    note("early-end", number)
    return number


@app.task(ignore_result=True)
def committed(number: int) -> None:
    """The callback of `late`: runs once for every time that a result of it was committed."""
    note("committed", number)


@app.task(acks_late=True, reject_on_worker_lost=True)
def kill_worker(number: int) -> None:
    """Kill the process that the worker is: the parent of the template that this process was forked from."""
    note("kill", number)
    os.kill(parent_of(os.getppid()), signal.SIGKILL)
    time.sleep(60)


def parent_of(process: int) -> int:
    status = Path(f"/proc/{process}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def kill_at(point: str, countdown: int) -> None:
    """Make the worker's process kill itself just before the *countdown*-th batch that it starts, or settles."""
    original = SQLiteConsumer.settle_and_start
    place = {"settle": 0, "start": 1}[point]

    def deadly(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal countdown
        if args[place]:
            countdown -= 1
            if countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **options)

    setattr(SQLiteConsumer, "settle_and_start", deadly)  # noqa: B010 - mypy forbids the plain assignment


if os.environ.get("ORACLE_KILL"):
    point, _, count = os.environ["ORACLE_KILL"].partition(":")
    kill_at(point, int(count or 1))
