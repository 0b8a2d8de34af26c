"""Sequences of events, and what `celery.events.state.State` makes of them: the same code for both kinds of Celery.

Run as a program it prints what the Celery of its interpreter makes of the stories of some seeds.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from celery.events.state import State

TASKS = ["a", "b", "c", "d", "e"]
WORKERS = ["w1@here", "w2@there", "w3@there"]
TYPES = [
    "task-sent", "task-received", "task-received", "task-started", "task-succeeded", "task-failed", "task-retried",
    "task-revoked", "task-rejected", "task-progress", "worker-online", "worker-heartbeat", "worker-heartbeat",
    "worker-offline", "worker-curious", "other-thing",
]  # fmt: skip


def story(seed: int, length: int = 40) -> list[dict[str, Any]]:
    """Events as a receiver hands them on: out of order, with clocks that stand still or jump, with gaps."""
    chance = random.Random(seed)
    told: list[dict[str, Any]] = []
    for step in range(1, length + 1):
        kind = chance.choice(TYPES)
        moment = 1000.0 + step + chance.choice([0, 0, 0, -7.5, 3.25])
        event = {
            "type": kind,
            "hostname": chance.choice(WORKERS),
            "timestamp": moment,
            "local_received": moment,
            "clock": chance.choice([step, step, step, 0, max(1, step - 9)]),
            "utcoffset": 0,
            "pid": chance.randrange(3),
        }
        if kind.startswith("task-"):
            event |= {"uuid": chance.choice(TASKS), **_of_task(kind, chance)}
        elif kind.startswith("worker-"):
            event |= {"freq": chance.choice([1, 2.0, 5]), "active": chance.randrange(9), "loadavg": [1, 2, 3]}
            event["local_received"] += chance.choice([0.5, 0.5, -2.0])
            if chance.random() < 0.1:
                del event[chance.choice(["hostname", "timestamp", "local_received"])]
        told.append(event)
    return told


def _of_task(kind: str, chance: random.Random) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if kind in {"task-sent", "task-received"}:
        facts = {
            "name": chance.choice(["proj.add", "proj.mul"]), "args": f"({chance.randrange(9)},)", "kwargs": "{}",
            "retries": chance.randrange(2), "eta": None, "expires": chance.choice([None, "2030-01-01T00:00:00"]),
            "root_id": chance.choice(TASKS), "parent_id": chance.choice([None, *TASKS]),
        }  # fmt: skip
    if kind == "task-sent":
        facts |= {"queue": "celery", "exchange": "", "routing_key": "celery", "hostname": "gen7@here"}
    if kind == "task-succeeded":
        facts = {"result": str(chance.randrange(9)), "runtime": chance.randrange(9) / 4}
    if kind in {"task-failed", "task-retried"}:
        facts = {"exception": f"ValueError({chance.randrange(9)})", "traceback": "Traceback …"}
    if kind == "task-progress":
        facts = {"percent": chance.randrange(100), "result": "half"}
    return facts


def play(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a state makes of them: after each event what it returned, and in the end the whole picture."""
    comings: list[str] = []
    state = State(
        callback=lambda state, event: comings.append(f"{state.event_count} {event['type']}"),
        on_node_join=lambda worker: comings.append(f"+{worker.hostname}"),
        on_node_leave=lambda worker: comings.append(f"-{worker.hostname}"),
    )
    return {"returned": [_returned(state.event(dict(event))) for event in events], "comings": comings, **picture(state)}


def _returned(found: Any) -> Any:
    if found is None:
        return None
    (thing, created), subject = found
    return [thing.id, getattr(thing, "state", None), thing.clock, created, subject]


def picture(state: Any) -> dict[str, Any]:
    """All that can be seen of a state, in plain words."""
    return {
        "counts": [state.event_count, state.task_count],
        "types": state.task_types(),
        "tasks": {uuid: _plain(task) for uuid, task in sorted(state.tasks.items())},
        "workers": {name: _fields(worker) for name, worker in sorted(state.workers.items())},
        "in order": [uuid for uuid, _ in state.tasks_by_time()],
        "backwards": sorted(uuid for uuid, _ in state.tasks_by_time(reverse=False)),
        "by type": {name: [uuid for uuid, _ in state.tasks_by_type(name)] for name in state.task_types()},
        "by worker": _by_worker(state) if all(task.worker for task in state.tasks.values()) else None,
    }


def _by_worker(state: Any) -> dict[str, list[str]]:
    """The original cannot say while there are tasks that no worker has had."""
    return {name: [uuid for uuid, _ in state.tasks_by_worker(name)] for name in WORKERS}


def _plain(task: Any) -> dict[str, Any]:
    extra = {name: getattr(task, name) for name in ("queue", "percent", "hostname", "type") if hasattr(task, name)}
    shown = {**task.as_dict(), **extra, "origin": task.origin, "ready": task.ready, "info": task.info()}
    shown["worker"] = shown["worker"] and shown["worker"].hostname
    shown["children"] = sorted(shown["children"])
    return shown


def _fields(worker: Any) -> dict[str, Any]:
    shown = {name: getattr(worker, name) for name in worker._fields}
    return {**shown, "id": worker.id, "expires": worker.heartbeat_expires if worker.heartbeats else None}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({seed: play(story(int(seed))) for seed in sys.argv[1:]}, indent=None))
