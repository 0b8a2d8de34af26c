"""An application for both kinds of Celery that writes down every signal: in which process, by whom, with what.

`drive` sends one task of each kind of ending and stops the worker; `summary` makes of the log what can be compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject

app = Celery("signals")
app.conf.update(json.loads(os.environ["MIXED_SETTINGS"]), broker_connection_retry_on_startup=True)
LOG = Path(os.environ["MIXED_LOG"])
ROLE = os.environ.get("SIGNALS_ROLE", "worker")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")
ORIGIN = re.compile(r"^gen\d+@.*")
NAMES = sorted({*signals.__all__, "import_modules", "task_sent"} - {"setup_logging", "heartbeat_sent"})


def shown(value: Any, depth: int = 0) -> Any:
    """*value* as text that is the same in every run: of objects the class, of what differs a word for it."""
    if isinstance(value, bool | type(None)):
        return value
    if isinstance(value, str):
        return TIME.sub("TIME", ORIGIN.sub("ORIGIN", ID.sub("ID", value))) if "\n" not in value else "TEXT"
    if isinstance(value, int | float):
        return value if isinstance(value, int) and value < 100 else "NUMBER"
    if isinstance(value, list | tuple) and depth < 2:
        return [shown(item, depth + 1) for item in value]
    if isinstance(value, dict) and depth < 2:
        return {str(key): shown(item, depth + 1) for key, item in sorted(value.items())}
    if isinstance(value, Task):
        return f"task {value.name}"
    return type(value).__qualname__.rpartition(".")[2]


def receiver(name: str) -> Callable[..., None]:
    def note(signal: Any = None, sender: Any = None, **said: Any) -> None:
        line = [ROLE, os.getpid(), name, shown(sender), {key: shown(value) for key, value in said.items()}]
        descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (json.dumps([*line, task_of(sender, said)]) + "\n").encode())
        os.close(descriptor)

    return note


def task_of(sender: Any, said: dict[str, Any]) -> str | None:
    """The task that a signal is about."""
    request = said.get("request")
    for found in (getattr(request, "task_name", None), getattr(request, "task", None), said.get("name"), sender):
        name = found.name if isinstance(found, Task) else found
        if isinstance(name, str) and name != "w@h":
            return name
    return None


for _name in NAMES:
    getattr(signals, _name).connect(receiver(_name), weak=False)


@app.task(name="ok")
def ok(x: int) -> int:
    return x


@app.task(name="expired")
def expired(x: int) -> int:
    return x


@app.task(name="fail")
def fail(x: int) -> None:
    raise ValueError("no")


@app.task(name="again", bind=True, max_retries=2)
def again(self: Any, x: int) -> int:
    if self.request.retries < 1:
        self.retry(countdown=0.05)
    return x


@app.task(name="ignored")
def ignored(x: int) -> None:
    raise Ignore


@app.task(name="rejected", acks_late=True)
def rejected(x: int) -> None:
    raise Reject("why", requeue=False)


class Broken(Task):  # type: ignore[type-arg]
    abstract = True

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("handler")


@app.task(name="broken", base=Broken)
def broken(x: int) -> None:
    raise ValueError("no")


@app.task(name="terminated")
def terminated(x: int) -> None:
    time.sleep(x)


@app.task(name="overtime")
def overtime(x: int) -> None:
    time.sleep(x)


@app.task(name="lost")
def lost(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def drive(worker: int) -> None:
    """One task for every ending, one after the other; then the process *worker* is told to stop."""
    for task in (ok, fail, again):
        task.delay(1).get(timeout=30, propagate=False)
    ignored.delay(1)
    rejected.delay(1)
    broken.delay(1).get(timeout=30, propagate=False)
    expired.apply_async((1,), expires=-5).get(timeout=30, propagate=False)
    victim = terminated.delay(30)
    until(lambda: heard("task_prerun", "terminated"))
    victim.revoke(terminate=True)
    victim.get(timeout=30, propagate=False)
    overtime.apply_async((30,), time_limit=1).get(timeout=30, propagate=False)
    lost.delay(1).get(timeout=30, propagate=False)
    app.send_task("nobody")
    with app.connection_for_write() as connection:
        producer = connection.Producer()
        producer.publish("not a task", routing_key="celery", exchange="", serializer="json")
        producer.publish(
            b"\x80\x02", routing_key="celery", exchange="", content_type="application/x-python-serialize",
            content_encoding="binary", headers={"task": "ok", "id": "pickled", "lang": "py"},
        )  # fmt: skip
    until(lambda: heard("task_rejected") == 2 and heard("task_unknown"))
    os.kill(worker, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        until(lambda: heard("worker_shutdown"))


def heard(name: str, task: str | None = None) -> int:
    """How often a signal was sent, for *task* or at all."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    return sum(line[2] == name and task in {None, line[5]} for line in lines)


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("not in time")
        time.sleep(0.02)


def summary() -> dict[str, list[Any]]:
    """For every task (and for the processes), and every kind of process, what was sent, in order."""
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    worker = next(pid for _, pid, name, *_ in lines if name == "celeryd_init")
    found: dict[str, list[Any]] = {}
    for role, pid, name, sender, said, task in lines:
        place = "client" if role == "client" else "worker" if pid == worker else "child"
        found.setdefault(f"{task or 'process'} in {place}", []).append([name, sender, said])
    return dict(sorted(found.items()))


def printed() -> str:
    """`summary` as JSON, one signal a line."""
    places = []
    for place, sent in summary().items():
        lines = ",\n  ".join(json.dumps(item, sort_keys=True) for item in sent)
        places.append(f"{json.dumps(place)}: [\n  {lines}\n ]")
    return "{\n " + ",\n ".join(places) + "\n}"
