"""Whatever is public is called as in the original: calls written for it are calls of what is here.

`tests/unit/test_doors.py` holds that the names are there.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
LISTING = HERE.parent / "unit" / "doors.txt"
POSITIONAL, VARIADIC, NAMED, OTHERS = (0, 1), 2, 3, 4
"""Kinds of parameters: given by place, the rest of them, by name only, the rest of those."""
COUNTED = 4
"""Places that calls count to; what stands behind them is given by name."""
STEP = "a mark in the order of steps: handed its parent by place, it has nothing to do itself"
POOL = "the inside of its pool, which is another one here: subclasses of `BasePool` are what users write"
LOOP = "the inside of its worker: who extends one overrides what docs/extending.md lists"
KOMBU = "the inside of what consumes with kombu there"
JOINS = "joins are counted by a store of ours, or by queues: a backend of somebody else has no part in it"
EXCEPTIONS = {
    # names of arguments that are given by place
    "celery.app.trace.fast_trace_task: task is *": "it is `trace_task_ret`, which has a name there as here",
    "celery.app.trace.fast_trace_task: requires name": "it is `trace_task_ret`, which has a name there as here",
    "celery.bin.base.consume_preload_options: *": "a decorator",
    "celery.bootsteps.StepFormatter.label: *": "called by what draws a graph",
    "celery.canvas.maybe_unroll_group: *": "a group, or what may be one",
    "celery.concurrency.get_implementation: *": "a name, which is called `cls` there",
    "celery.utils.collections.ChainMap.fromkeys: *": "as `dict.fromkeys`",
    "celery.worker.autoscale.WorkerComponent*": STEP,
    "celery.worker.components.*": STEP,
    "celery.worker.consumer.[acdehmt]*.[ACDEHMT]*: *": STEP,
    "celery.worker.consumer.gossip.Gossip*": "who is there, and elections: a service of the worker's loop here",
    # more of them by name
    "celery.app.utils.Settings: takes no *": "layers and the rest are named",
    "celery.app.defaults.Option: takes no *": "whatever a setting is described by is named",
    "celery.backends.asynchronous.AsyncBackendMixin.*: takes no **kwargs": "they are named",
    "celery.bin.base.CeleryOption.get_default: takes no *": "it is click's, whose arguments are named",
    "celery.apps.multi.Cluster: on_stopping_preamble is not at place 3": "callbacks are given by name",
    "celery.contrib.migrate.start_filter: limit is not at place 3": "options are given by name",
    "celery.canvas.Signature.apply_async: route_name is not at place 2": "an option among options, as for tasks",
    "celery.utils.abstract.*.register: is not there": "it is, by their metaclass",
    "celery.events.state.Task.event: lacks RETRY": "a global made local for speed",
    # other values
    "celery.app.control.Control: requires app": "without one it raises there",
    "celery.beat.Scheduler.adjust: drift is *": "beat is woken to the moment: nothing has to be taken off",
    "celery.canvas.chord.run: countdown is *": "seconds between two looks at parts, which are counted here",
    "celery.local.recreate_module: compat_modules is *": "none, as there",
    "celery.worker.control.Panel: *": "commands are registered at the class, and none is ever made",
    "celery.contrib.testing.worker.start_worker: *_timeout is *": "at most, also where many tests run side by side",
    # the inside of other machinery
    "celery.apps.worker.Worker.*": LOOP,
    "celery.worker.worker.WorkController.*: is not there": LOOP,
    "celery.worker.consumer.consumer.Consumer*": LOOP,
    "celery.worker.consumer.consumer.Evloop*": STEP,
    "celery.worker.autoscale.Autoscaler.on_task_received: is not there": "it looks at the pool once a second",
    "celery.worker.pidbox.*": LOOP,
    "celery.beat.BeatPidbox*": LOOP,
    "celery.bin.base.DaemonOption.daemon_setting: is not there": "the callback of click that reads the setting",
    "celery.backends.base.Backend.*chord*: is not there": JOINS,
    "celery.backends.redis.RedisBackend.*": "`RedisStore` has the connection, and says what is done with it",
    "celery.backends.asynchronous.BaseResultConsumer.reconnect_on_error: is not there": "the connection does it itself",
    "celery.backends.filesystem.FilesystemBackend: *": "places of what it opens files with: the functions of `os` here",
    "celery.backends.rpc.RPCBackend.*": "replies are taken in by the thread of the broker's connection",
    "celery.concurrency.*.TaskPool*": POOL,
    "celery.concurrency.asynpool.AsynPool*": POOL,
    "celery.concurrency.prefork.process_initializer: *": POOL,
    "celery.contrib.migrate.Filterer.*: is not there": KOMBU,
    "celery.events.receiver.EventReceiver.get_consumers: is not there": KOMBU,
    "celery.events.cursesmon.CursesMonitor.*row: is not there": "lines are made by `celery.events.screen`",
}
"""Pattern of differences -> why there is one."""

Parameters = list[list[Any]]


def same(one: str, other: str) -> bool:
    """Whether defaults are equal; 1 and 1.0 are."""
    return one == other or ast.literal_eval(one) == ast.literal_eval(other)


def complaints(there: Parameters | None, here: Parameters | None) -> list[str]:
    """Which calls of what has the parameters *there* are none of what has those *here*."""
    if there is None or {kind for _, kind, _ in there} <= {VARIADIC, OTHERS}:
        return []  # it hands on whatever it gets
    if here is None:
        return ["cannot be called"]
    kinds = {kind for _, kind, _ in here}
    placed = [name for name, kind, _ in here if kind in POSITIONAL]
    known = {name: given for name, kind, given in here if kind not in (VARIADIC, OTHERS)}
    said = []
    for place, (name, kind, given) in enumerate(there):
        if name.startswith("_") or given == "...":
            continue  # nobody's business, or a global made local for speed
        if kind in (VARIADIC, OTHERS):
            said += [] if kind in kinds else [f"takes no {'*' if kind == VARIADIC else '**'}{name}"]
        elif name not in known and OTHERS not in kinds:
            said.append(f"lacks {name}")
        elif kind in POSITIONAL and place < COUNTED and placed[place : place + 1] != [name] and VARIADIC not in kinds:
            said.append(f"{name} is not at place {place}")
        elif given and known.get(name, "...") is None:
            said.append(f"requires {name}")
        elif given and known.get(name, "...") != "..." and not same(given, known[name]):
            said.append(f"{name} is {known[name]}, not {given}")
    names = {name for name, _, _ in there}
    return said + [f"requires {name}" for name, given in known.items() if given is None and name not in names]


def surface(python: Path | str) -> dict[str, dict[str, Any]]:
    command = [python, HERE / "surface.py", LISTING]
    found: dict[str, dict[str, Any]] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return found


@pytest.fixture(scope="module")
def differences(original: Path) -> list[str]:
    """A line for each: path, what is the matter."""
    here = surface(sys.executable)
    found = []
    for path, there in surface(original).items():
        if path not in here:
            continue  # test_doors.py says why
        for way in there["own"]:
            ours = here[path]["ways"]
            said = complaints(there["ways"][way], ours[way]) if way in ours else ["is not there"]
            found += [f"{path}{'.' if way else ''}{way}: {one}" for one in said]
    return found


def test_calls_of_the_original_are_calls_here(differences: list[str]) -> None:
    unexplained = [line for line in differences if not any(fnmatchcase(line, one) for one in EXCEPTIONS)]
    assert not unexplained, "\n".join(unexplained)


def test_each_exception_is_one(differences: list[str]) -> None:
    unused = [one for one in EXCEPTIONS if not any(fnmatchcase(line, one) for line in differences)]
    assert not unused, "strike them from EXCEPTIONS: " + ", ".join(unused)
