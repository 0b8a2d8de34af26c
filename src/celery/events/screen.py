"""What the live view shows, as lines of text with a style each. No terminal here: pure functions of a state.

```
 celery events   workers 2/3   tasks 1204   events 5310                         12:03:44
 UUID                                  TASK               WORKER           TIME      STATE
 0c1f…                                 proj.add           w1@host          12:03:43  SUCCESS
 …
 WORKER                                STATUS    ACTIVE   PROCESSED   LOAD
 w1@host                               online         2         602   0.41 0.30 0.22
 j:down k:up i:info …
```
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from celery import states
from celery.events.members import Task, Worker
from celery.utils.text import abbr, abbrtask

STYLES = {
    states.SUCCESS: "good",
    states.FAILURE: "bad",
    states.REVOKED: "odd",
    states.REJECTED: "odd",
    states.RETRY: "odd",
    states.STARTED: "busy",
    states.RECEIVED: "plain",
    states.PENDING: "faint",
}
UUID_WIDTH, TIME_WIDTH, STATE_WIDTH = 36, 8, 8
LEAST_TASK, LEAST_WORKER = 16, 15
MOST_WORKERS = 8
"""Lines that the list of workers takes, at most, so that there is room for tasks."""


class Line(NamedTuple):
    """A line of the screen. `uuid`: of the task that it shows."""

    text: str
    style: str = "plain"
    uuid: str | None = None


class Widths(NamedTuple):
    """Of the columns of the list of tasks that are as wide as there is room."""

    uuid: int
    task: int
    worker: int


def widths(width: int) -> Widths:
    """How a line of *width* characters is divided."""
    left = width - UUID_WIDTH - TIME_WIDTH - STATE_WIDTH - 6
    uuid = UUID_WIDTH
    if left < LEAST_TASK + LEAST_WORKER:
        uuid = max(8, uuid - (LEAST_TASK + LEAST_WORKER - left))
        left = LEAST_TASK + LEAST_WORKER
    return Widths(uuid, left - left // 2, left // 2)


def task_line(task: Task, width: int, *, now: float | None = None) -> Line:
    """One task."""
    room = widths(width)
    worker = task.worker.hostname if task.worker is not None else task.client
    moment = task.timestamp if now is None else now
    cells = [
        abbr(str(task.uuid), room.uuid).ljust(room.uuid),
        abbrtask(task.name or "?", room.task).ljust(room.task),
        abbr(worker or "?", room.worker).ljust(room.worker),
        time.strftime("%H:%M:%S", time.localtime(moment or 0.0)),
        task.state,
    ]
    return Line(fit(f" {' '.join(cells)}", width), STYLES.get(task.state, "plain"), task.uuid)


def task_heading(width: int) -> Line:
    room = widths(width)
    cells = ["UUID".ljust(room.uuid), "TASK".ljust(room.task), "WORKER".ljust(room.worker), "TIME".ljust(8), "STATE"]
    return Line(fit(f" {' '.join(cells)}", width), "heading")


def worker_line(worker: Worker, width: int) -> Line:
    """One worker."""
    load = " ".join(f"{value:.2f}" for value in worker.loadavg or ())
    cells = f"{worker.status_string.lower():<9} {_number(worker.active):>6} {_number(worker.processed):>11}   {load}"
    room = max(LEAST_WORKER, width - 50)
    text = f" {abbr(str(worker.hostname), room).ljust(room)} {cells}"
    return Line(fit(text, width), "good" if worker.alive else "bad")


def worker_heading(width: int) -> Line:
    room = max(LEAST_WORKER, width - 50)
    return Line(fit(f" {'WORKER'.ljust(room)} {'STATUS':<9} {'ACTIVE':>6} {'PROCESSED':>11}   LOAD", width), "heading")


def header(state: Any, width: int, *, title: str, now: float) -> Line:
    """The first line: how much there is of everything."""
    workers = list(state.workers.values())
    alive = sum(worker.alive for worker in workers)
    text = f" {title}   workers {alive}/{len(workers)}   tasks {state.task_count}   events {state.event_count}"
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    return Line(fit(f"{text:<{width - 9}}{clock}", width), "bar")


def page(state: Any, width: int, height: int, *, title: str, help: str, now: float) -> list[Line]:
    """The whole screen, from top to bottom; *height* lines."""
    workers = sorted(state.workers.values(), key=lambda worker: (not worker.alive, str(worker.hostname)))
    shown = [worker_line(worker, width) for worker in workers[:MOST_WORKERS]]
    room = max(1, height - 5 - len(shown))
    tasks = [task_line(task, width) for _, task in islice(state.tasks_by_time(), room)]
    blank = [Line(" " * width)] * (room - len(tasks))
    return [
        header(state, width, title=title, now=now),
        task_heading(width),
        *tasks,
        *blank,
        Line(" " * width),
        worker_heading(width),
        *shown,
        Line(fit(f" {help}", width), "bar"),
    ][:height]


def details(task: Task) -> Iterator[str]:
    """All that is known of a task, a line each."""
    yield f"{task.name} [{task.uuid}]"
    yield ""
    facts: dict[str, Any] = {"state": task.state, **task.info(extra=("worker", "client", "parent_id", "queue"))}
    for name, value in facts.items():
        shown = value.hostname if isinstance(value, Worker) else value
        yield f"{name:>12}: {shown}"
    for name in ("sent", "received", "started", "retried", "succeeded", "failed", "revoked", "rejected"):
        moment = getattr(task, name)
        if moment is not None:
            yield f"{name:>12}: {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))}"


def step(uuids: Sequence[str], selected: str | None, by: int) -> str | None:
    """The task that is selected after moving *by* lines; the first if none was."""
    if not uuids:
        return None
    if selected is None or selected not in uuids:
        return uuids[0]
    return uuids[max(0, min(len(uuids) - 1, list(uuids).index(selected) + by))]


def fit(text: str, width: int) -> str:
    """*text* as wide as the screen; control characters are shown as `·`."""
    clean = "".join(letter if letter.isprintable() else "·" for letter in text)
    return clean[:width].ljust(width)


def _number(value: Any) -> str:
    return "-" if value is None else str(value)
