"""The picture of a cluster: what events make of it, in whatever order they come, and that it stays bounded.

`golden_states.json` was written by original Celery 5.7.0: `python stories.py 1 2 3 …` there.
"""

from __future__ import annotations

import gc
import json
import logging
import pickle
import random
import subprocess
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.events.state import State, Task, Worker, heartbeat_expires
from events.stories import picture, play, story

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_states.json").read_text())


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def event(type: str, uuid: str | None = None, *, at: float = 1000.0, clock: int = 0, **fields: Any) -> dict[str, Any]:
    told = {"type": type, "hostname": "w@h", "timestamp": at, "local_received": at, "clock": clock, **fields}
    return told if uuid is None else {**told, "uuid": uuid}


# --- the original's behaviour -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", sorted(GOLDEN, key=int))
def test_events_make_the_picture_that_the_original_makes_of_them(seed: str) -> None:
    assert as_json(play(story(int(seed)))) == GOLDEN[seed]


def test_the_running_original_makes_the_same_picture_of_events_that_nobody_chose(original: Path) -> None:
    seeds = [str(random.randrange(10**6)) for _ in range(60)]
    printed = subprocess.run([original, HERE / "stories.py", *seeds], capture_output=True, text=True, check=True)
    theirs = json.loads(printed.stdout)
    for seed in seeds:
        assert as_json(play(story(int(seed)))) == theirs[seed], f"seed {seed}"


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_late_event_does_not_bring_back_an_earlier_state_but_adds_what_it_knows() -> None:
    state = State()
    state.event(event("task-succeeded", "a", at=1005.0, result="3"))
    state.event(event("task-received", "a", at=1001.0, name="proj.add", args="(1, 2)", result="nonsense"))

    task = state.tasks["a"]

    assert (task.state, task.name, task.args, task.result) == ("SUCCESS", "proj.add", "(1, 2)", "3")
    assert (task.received, task.succeeded) == (1001.0, 1005.0)


def test_a_retry_begins_anew() -> None:
    state = State()
    for type in ("task-started", "task-retried", "task-received", "task-started", "task-failed"):
        state.event(event(type, "a"))
    assert state.tasks["a"].state == "FAILURE"


def test_tasks_know_their_relatives_in_whatever_order_they_come() -> None:
    state = State()
    state.event(event("task-received", "leaf", parent_id="stem", root_id="root"))
    state.event(event("task-received", "stem", parent_id="root", root_id="root"))
    assert state.tasks["leaf"].root is None

    state.event(event("task-received", "root", parent_id=None, root_id="root"))

    root, stem, leaf = (state.tasks[name] for name in ("root", "stem", "leaf"))
    assert (leaf.parent, leaf.root) == (stem, root)
    assert (set(root.children), set(stem.children)) == ({stem}, {leaf})


def test_an_event_cannot_overwrite_what_a_task_or_a_worker_is_made_of() -> None:
    state = State()
    hostile = {"children": 1, "event": 2, "ready": 3, "parent": 4, "cluster_state": 5, "heartbeats": 6, "alive": 7}
    state.event(event("task-progress", "a", state="MINE", **hostile))
    state.event(event("worker-heartbeat", **hostile))
    state.event(event("task-succeeded", "a"))
    state.event(event("worker-heartbeat"))
    assert (state.tasks["a"].state, list(state.tasks["a"].children)) == ("SUCCESS", [])
    assert state.workers["w@h"].heartbeats[-1] == 1000.0


# --- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_is_alive_for_two_heartbeats() -> None:
    now = time.time()
    assert Worker("w", freq=60, heartbeats=[now - 100]).alive
    assert not Worker("w", freq=60, heartbeats=[now - 121]).alive
    assert not Worker("w").alive
    assert heartbeat_expires(100.0, 2) == 104.0


def test_task_events_keep_a_worker_alive() -> None:
    state = State()
    state.event(event("task-started", "a", at=time.time()))
    assert [worker.hostname for worker in state.alive_workers()] == ["w@h"]


def test_a_worker_that_leaves_is_offline_and_forgotten_if_somebody_is_told() -> None:
    left: list[str | None] = []
    kept, forgetful = State(), State(on_node_leave=lambda worker: left.append(worker.hostname))
    for state in (kept, forgetful):
        state.event(event("worker-online", at=time.time()))
        state.event(event("worker-offline", at=time.time()))
    assert [worker.status_string for worker in kept.workers.values()] == ["OFFLINE"]
    assert (left, list(forgetful.workers)) == (["w@h"], [])


def test_a_clock_that_is_far_off_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "celery.events.state"):
        State().event({**event("worker-heartbeat", at=1000.0), "local_received": 1100.0})
    assert "w@h is 100 seconds away" in caplog.text


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_it_stays_bounded_however_many_tasks_workers_and_clients_there_are() -> None:
    state = State(max_tasks_in_memory=50, max_workers_in_memory=5)
    for number in range(6000):
        common = {"name": f"t{number % 3}", "parent_id": f"gone{number}", "at": 1000.0 + number}
        state.event({**event("task-sent", str(number), **common), "hostname": f"gen{number}@h"})
        state.event({**event("task-received", str(number), **common), "hostname": f"w{number}@h"})
    gc.collect()
    assert (len(state.tasks), len(state.workers)) == (50, 5)
    assert len(state._taskheap) <= 50 * state.heap_multiplier
    assert len(state.tasks_by_worker) < 2500
    assert len(state.tasks_by_type["t0"]) < 20
    assert [uuid for uuid, _ in state.tasks_by_time(limit=2)] == ["5999", "5998"]
    assert len(list(state.tasks_by_time())) == 50


def test_a_task_that_is_forgotten_is_freed_at_once() -> None:
    state = State(max_tasks_in_memory=1)
    state.event(event("task-received", "a", name="n", parent_id="b"))
    seen = weakref.ref(state.tasks["a"])
    gc.disable()
    try:
        state.event(event("task-received", "b", name="n"))
        assert seen() is None
    finally:
        gc.enable()


def test_a_busy_task_keeps_its_place_among_many() -> None:
    state = State(max_tasks_in_memory=10)
    for number in range(100):
        state.event(event("task-started", "busy", at=1000.0 + number))
        state.event(event("task-received", str(number), at=1000.0 + number))
    assert "busy" in state.tasks


# --- forgetting, freezing, pickling -----------------------------------------------------------------------------------


def test_clear_keeps_what_has_not_ended_unless_told_otherwise() -> None:
    state = State()
    state.event(event("task-started", "a", name="n"))
    state.event(event("task-succeeded", "b", name="n"))
    state.clear_tasks()
    assert [uuid for uuid, _ in state.tasks_by_time()] == ["a"]
    state.clear(ready=False)
    assert (list(state.tasks), list(state.workers), state.event_count) == ([], [], 0)


def test_freeze_while_hands_on_arguments_and_can_clear() -> None:
    state = State()
    state.event(event("task-succeeded", "a"))
    assert state.freeze_while(lambda one, two: (one, two), 1, two=2) == (1, 2)
    assert state.freeze_while(lambda: len(state.tasks), clear_after=True) == 1
    assert len(state.tasks) == 0


def _of_app() -> State:
    state: State = Celery("pickled", broker="memory://").events.State()
    return state


@pytest.mark.parametrize("make", [State, _of_app])
def test_a_state_survives_pickling(make: Callable[[], State]) -> None:
    state = make()
    state.event(event("worker-online", clock=1, freq=2.0, pid=7, sw_ident="py-celery"))
    state.event(event("task-received", "a", clock=2, name="n", root_id="a", queue="celery"))
    state.event(event("task-received", "b", clock=3, name="m", root_id="a", parent_id="a", eta="2030-01-01"))
    state.event(event("task-succeeded", "a", clock=4, result="3", runtime=0.5))

    again = pickle.loads(pickle.dumps(state))

    before, after = picture(state), picture(again)
    del before["counts"], after["counts"]  # they begin anew
    assert after == before
    again.event(event("task-received", "new", name="n"))
    assert next(iter(again.tasks_by_type("n")))[0] == "new"


def test_groups_of_ones_own_have_handlers() -> None:
    state = State()
    state.handlers["cache"] = lambda subject, told: (subject, told["size"])
    assert state.event({"type": "cache-filled", "size": 3}) == (("filled", 3), "filled")
    assert state.event({"type": "unheard-of"}) is None


def test_subclasses_choose_what_tasks_and_workers_are() -> None:
    class Mine(Task):
        merge_rules = {"STARTED": ("weight",)}
        weight: int | None = None

    class Picture(State):
        Task = Mine

    state = Picture()
    state.event(event("task-succeeded", "a"))
    state.event(event("task-started", "a", weight=3, result="no"))
    assert (state.tasks["a"].weight, state.tasks["a"].result) == (3, None)


def test_tasks_and_workers_are_who_they_are_called() -> None:
    assert Task("a") == Task("a", name="other")
    assert len({Worker("a"), Worker("a"), Worker("b")}) == 2
    assert Task("a") != "a"
