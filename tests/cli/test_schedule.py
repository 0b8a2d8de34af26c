"""`celery schedule`: the entries in the store, from the command line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from celery import Celery
from celery.bin.celery import main
from celery.schedules import crontab
from celery.utils import uuid
from cli.conftest import PROJECT
from cli.test_beat import beat, wait


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Commands in this process: one of its own for each would take a second."""
    spec = importlib.util.spec_from_file_location("shared", PROJECT / "shared.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*args: str) -> str:
        assert main(["schedule", *args], module.app) == 0
        return capsys.readouterr().out

    yield run
    module.app.close()


def test_the_life_of_an_entry(run: Any, tmp_path: Path) -> None:
    assert run("add", "tick", "shared.mark", "--every", "1h30m", "-a", '["x"]', "--queue", "q") == (
        "Added tick. No beat keeps this schedule now: start one with celery beat -S store.\n"
    )
    shown = json.loads(run("show", "tick"))
    assert (shown["schedule"], shown["call"], shown["options"], shown["from"]) == (
        "1.50 hours", "shared.mark('x')", {"queue": "q"}, "store",
    )  # fmt: skip
    assert run("edit", "tick", "--every", "0.2", "--missed", "skip").startswith("Changed tick.")
    shown = json.loads(run("show", "tick"))
    assert (shown["schedule"], shown["missed"], shown["options"]) == ("now", "skip", {"queue": "q"})
    with beat(tmp_path, "-S", "store", app="shared") as running:
        running.expect("Sending due task tick (shared.mark)")
        wait(lambda: _count(run))
        rows = {row["name"]: row for row in json.loads(run("list", "--json"))}
        assert set(rows) == {"daily", "tick"}
        assert rows["tick"]["count"] >= 1
        assert rows["daily"]["next"].endswith("T04:00:00+00:00")
        status = json.loads(run("status", "--json"))
        assert f"pid {running.process.pid} " in status["leader"]
        assert {each["name"] for each in status["next"]} == {"daily", "tick"}
        assert "leader: " in run("status")
        assert run("add", "later", "shared.mark", "--every", "1h") == "Added later.\n"
        assert run("pause", "tick", "daily") == "Paused tick, daily.\n"
        listed = run("list")
        assert listed.count("paused") == 2
        assert run("resume", "tick") == "Resumed tick.\n"
        before = _count(run)
        wait(lambda: _count(run) > before)
        assert run("remove", "tick", "later") == "Removed tick, later.\n"
    assert [row["name"] for row in json.loads(run("list", "--json"))] == ["daily"]


def _count(run: Any) -> int:
    return int(json.loads(run("show", "tick"))["count"])


def test_next_history_and_by_hand(run: Any) -> None:
    run("add", "often", "shared.mark", "--cron", "*/30 * * * *", "--tz", "Asia/Kolkata")
    ticks = json.loads(run("next", "-n", "60", "--json"))
    assert len(ticks) == 60
    assert [tick["at"] for tick in ticks] == sorted(tick["at"] for tick in ticks)
    assert 1 <= sum(tick["name"] == "daily" for tick in ticks) <= 2
    assert run("next", "daily", "-n", "1").splitlines()[1].endswith("daily  shared.mark")
    assert run("history", "daily") == "daily has not run yet.\n"
    task_id = run("run-now", "daily").strip()
    (note,) = json.loads(run("history", "daily", "--json"))
    assert (note["what"], note["task_id"]) == ("by hand", task_id)
    assert "by hand" in run("history", "daily")


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        (["add", "x", "shared.mark"], "Say when: --every, --cron", 2),
        (["add", "x", "shared.mark", "--every", "1s", "--cron", "* * * * *"], "Say only one of", 2),
        (["add", "x", "shared.mark", "--every", "soon"], "'soon' is no interval: write 30, 30s", 2),
        (["add", "x", "shared.mark", "--cron", "* * *"], "has 3 fields", 2),
        (["add", "x", "shared.mark", "--cron", "* * * * *", "--tz", "Mars"], "Mars", 2),
        (["add", "x", "shared.mark", "--solar", "sunset"], "A latitude is a number", 2),
        (["add", "x", "shared.mark", "--rrule", "FREQ=X"], "no recurrence rule", 2),
        (["add", "x", "shared.mark", "--at", "2001-01-01T00:00:00"], "its time has passed", 1),
        (["add", "x", "shared.mark", "--every", "0"], "would never end", 1),
        (["add", "x", "shared.mark", "--every", "1", "--missed", "x"], "missed is 'x': write 'skip'", 1),
        (["add", "x", "shared.mark", "--every", "1", "-a", "{"], "is not JSON", 2),
        (["add", "daily", "shared.mark", "--every", "1"], "There is an entry 'daily' already", 1),
        (["edit", "daily", "--every", "1"], "daily is defined by the application", 1),
        (["remove", "daily"], "daily is defined by the application", 1),
        (["remove", "x"], "There is no entry 'x'. Nothing was removed.", 1),
        (["pause", "x"], "There is no entry 'x': celery schedule list", 1),
        (["history", "x"], "There is no entry 'x'", 1),
    ],
)
def test_mistakes(args: list[str], words: str, code: int) -> None:
    place = f"memory://{uuid()}"
    app = Celery("shared", broker=place, backend=place)
    app.conf.beat_schedule = {"daily": {"task": "shared.mark", "schedule": crontab(minute=0, hour=4)}}
    with pytest.raises(click.ClickException) as caught:
        main(["schedule", *args], app)
    assert caught.value.exit_code == code
    assert words in caught.value.format_message()
