"""Where a worker and its processes log, in which form, and who is told of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FACTS = {"what", "pid", "sender", "logger", "loglevel", "logfile", "format", "colorize"}


def test_receivers_hear_of_it_in_the_worker_and_in_its_processes(celery: Any, worker: Any, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    logs = f"{tmp_path}/%n%I.log"
    with worker("-c", "1", "-f", logs, "-n", "w1@here", app="heard", ready=False, HEARD=str(heard)) as running:
        main, child = tmp_path / "w1.log", tmp_path / "w1-1.log"
        running.wait_for(lambda: main.exists() and " ready." in main.read_text())
        done = celery("-A", "heard", "call", "heard.speak", HEARD=str(heard)).out.strip()
        running.wait_for(lambda: child.exists() and "printing" in child.read_text())
        notes = [json.loads(line) for line in heard.read_text().splitlines()]
        assert f"heard.speak[{done}]: speaking" in child.read_text()  # the task logger's own format
        assert f"Task heard.speak[{done}] received" in main.read_text()
        assert "WARNING/ForkPoolWorker-1] printing" in child.read_text()
        running.stop()
    of_worker = [note for note in notes if note["pid"] == running.process.pid]
    of_child = [note for note in notes if note["logfile"] == str(child)]
    assert [note["what"] for note in of_worker] == [note["what"] for note in of_child] == ["root", "task"]
    assert len({note["pid"] for note in of_worker + of_child}) == 2
    assert all(note.keys() == FACTS for note in notes)
    assert {note["logfile"] for note in of_worker} == {str(main)}
    assert {note["loglevel"] for note in of_worker + of_child} == {"20"}


@pytest.mark.skipif(os.getuid() != 0, reason="capability: only the superuser can be warned of being it")
def test_the_superuser_is_warned_and_may_not_read_pickle(celery: Any, worker: Any, tmp_path: Path) -> None:
    heard = {"HEARD": str(tmp_path / "heard")}
    pickles = {**heard, "APP_SETTINGS": json.dumps({"accept_content": ["json", "pickle"]})}
    said = celery("-A", "heard", "worker", "-P", "solo", **pickles)
    assert said.code == 1
    assert "accepts pickle" in said.err.splitlines()[-1]
    with worker("-P", "solo", app="heard", C_FORCE_ROOT="1", **pickles) as running:
        assert "runs as the superuser" in running.text()
