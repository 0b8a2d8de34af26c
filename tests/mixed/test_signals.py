"""The signals of a worker are those of the original: from the same kind of process and sender, with the same values."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ORIGINAL: dict[str, list[Any]] = json.loads((HERE / "signals.json").read_text())
PROCESSES = ("process in worker", "process in child")
WORKER = ["-m", "celery", "-A", "signals_app", "worker", "-c", "1", "-n", "w@h", "-l", "INFO"]


@pytest.fixture(scope="module")
def ours(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("signals")
    url, log = redis_server.url(9), folder / "signals.log"
    settings = json.dumps({"broker_url": url, "result_backend": url})
    env = {**os.environ, "MIXED_SETTINGS": settings, "MIXED_LOG": str(log), "C_FORCE_ROOT": "1"}
    env["PYTHONPATH"] = str(HERE / "application")
    env.pop("CELERY_HOME", None)
    log.touch()
    worker = subprocess.Popen([sys.executable, *WORKER], env=env, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "worker_ready" not in log.read_text():
            assert time.monotonic() < deadline, "the worker does not start"
            time.sleep(0.02)
        drive = f"import signals_app; signals_app.drive({worker.pid})"
        subprocess.run([sys.executable, "-c", drive], env={**env, "SIGNALS_ROLE": "client"}, check=True, timeout=120)
        worker.wait(60)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    tell = "import signals_app; print(signals_app.printed())"
    done = subprocess.run([sys.executable, "-c", tell], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


LIMIT = "a process is killed at its hard limit, at once: nothing of its task runs on"
ONCE = "one failure is told once: the original tells of a hard limit twice"
REJECTED = "a task that rejects its message has not failed"
HANDLER = "on_failure raised: that is an error of the worker's, told before the end; the failure is not told once more"
LATE = "the body is decoded where the task runs, so a message of a type that is not accepted has been received by then"
OTHERWISE: dict[str, tuple[str, list[str]]] = {
    "overtime in child": (LIMIT, ["task_prerun"]),
    "overtime in worker": (ONCE, ["task_received", "task_failure"]),
    "rejected in worker": (REJECTED, ["task_received"]),
    "broken in child": (HANDLER, ["task_prerun", "task_internal_error", "task_postrun"]),
    "broken in worker": (HANDLER, ["task_received"]),
    "ok in worker": (LATE, ["task_received"]),
}
"""Where other signals are sent than by the original: the reason, and which."""

BOOT = ["after_setup_logger", "after_setup_task_logger", "import_modules"]
"""A child is no copy of the worker: it sets up its logging and imports the modules itself."""


def names(sent: list[Any]) -> list[str]:
    """What was sent, in order. What a worker gives back because a process takes its time to start it receives again."""
    return [name for name, _ in groupby(name for name, *_ in sent)]


def said(sent: list[Any]) -> list[Any]:
    """What is to be the same in both: more than the original says may be said, and an exception may be a subclass."""
    same: list[Any] = []
    for name, sender, found in sent:
        values = dict(found)
        if name == "before_task_publish":
            # Ours are the properties of the message, also those that the original makes of its options later.
            later = ("delivery_mode", "priority", "immediate", "mandatory", "origin", "expiration")
            values["properties"] = {key: value for key, value in values["properties"].items() if key not in later}
        if name.endswith("_task_publish") and values["headers"]["retries"]:
            # Ours keeps its place; the original makes a retry its own parent.
            values["headers"] = {**values["headers"], "parent_id": None}
        if name in {"task_unknown", "task_rejected"}:
            values.pop("exc")
        if name != "task_received" or [name, sender, values] not in same[-1:]:  # see `names`
            same.append([name, sender, values])
    return same


@pytest.mark.parametrize("place", [place for place in ORIGINAL if place not in {*OTHERWISE, *PROCESSES}])
def test_they_are_those_of_the_original(ours: dict[str, list[Any]], place: str) -> None:
    assert said(ours[place]) == said(ORIGINAL[place])


@pytest.mark.parametrize("place", OTHERWISE)
def test_or_there_is_a_reason(ours: dict[str, list[Any]], place: str) -> None:
    _, wanted = OTHERWISE[place]
    assert names(ours[place]) == wanted
    theirs = {name: values for name, _, values in said(ORIGINAL[place])}
    for name, sender, values in said(ours[place]):
        assert values.keys() == theirs.get(name, values).keys(), (name, sender)


def test_those_of_the_worker(ours: dict[str, list[Any]]) -> None:
    assert names(ours["process in worker"]) == names(ORIGINAL["process in worker"])
    for mine, theirs in zip(said(ours["process in worker"]), said(ORIGINAL["process in worker"]), strict=True):
        name, sender, values = theirs
        if name == "worker_before_create_process":
            sender = "PreforkPool"
        if name == "celeryd_init":
            assert values.pop("options").keys() <= mine[2].pop("options").keys()
        assert mine == [name, sender, values]


def test_those_of_its_children(ours: dict[str, list[Any]]) -> None:
    sent = [item for item in ours["process in child"] if item[0] not in BOOT]
    assert names(ours["process in child"])[:4] == [*BOOT, "worker_process_init"]
    # The second process is the one that is killed at a hard limit; the third kills itself.
    assert sent == [item for number, item in enumerate(ORIGINAL["process in child"]) if number != 3]


def test_nothing_else_is_sent(ours: dict[str, list[Any]]) -> None:
    assert ours.keys() == ORIGINAL.keys()
