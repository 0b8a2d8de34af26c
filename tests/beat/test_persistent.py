"""The schedule in a file: going on after a restart, one process at a time, and files that are broken."""

from __future__ import annotations

import shelve
import subprocess
from pathlib import Path
from typing import Any

import pytest

from beat.clocks import START, make_app, sent
from celery.beat import PersistentScheduler
from celery.exceptions import ImproperlyConfigured
from celery.schedules import crontab

HOURLY = {"task": "add", "schedule": 3600.0, "args": (1,)}


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "schedule")


def open_schedule(file: str, app: Any = None, **settings: Any) -> PersistentScheduler:
    return PersistentScheduler(app or make_app(beat_schedule={"a": HOURLY}, **settings), schedule_filename=file)


def test_it_goes_on_where_it_was(file: str) -> None:
    app = make_app(beat_schedule={"a": HOURLY})
    first = open_schedule(file, app)
    app.move(3600)
    first.tick()
    assert len(sent(app)) == 1
    first.close()
    second = open_schedule(file, app)
    entry = second.schedule["a"]
    assert (entry.last_run_at, entry.total_run_count, entry.app) == (app.now(), 1, app)
    app.move(3599)
    second.tick()
    assert sent(app) == []
    app.move(1)
    second.tick()
    assert len(sent(app)) == 1
    second.close()


def test_a_crash_after_a_run_does_not_repeat_it(file: str) -> None:
    app = make_app(beat_schedule={"a": HOURLY})
    first = open_schedule(file, app)
    app.move(3600)
    first.tick()
    assert first.should_sync()
    first._do_sync()
    assert not first.should_sync()
    with shelve.open(file, "r") as shelf:  # what a process that is killed now leaves
        assert shelf["entries"]["a"].last_run_at == app.now()
    first.close()


def test_the_settings_win(file: str) -> None:
    scheduler = open_schedule(file)
    scheduler.close()
    app = make_app(beat_schedule={"a": {**HOURLY, "schedule": 60.0, "args": (2,)}, "b": HOURLY})
    app.move(30)
    scheduler = open_schedule(file, app)
    assert (scheduler.schedule["a"].last_run_at, scheduler.schedule["a"].args) == (START, (2,))
    assert set(scheduler.schedule) == {"a", "b"}
    scheduler.close()
    app.conf.beat_schedule = {"b": HOURLY}
    scheduler = open_schedule(file, app)
    assert set(scheduler.schedule) == {"b"}
    scheduler.close()


@pytest.mark.parametrize("rubbish", [b"rubbish" * 100, b"", b"'entries', (0, 50)\n"], ids=["bytes", "empty", "index"])
def test_a_broken_file_is_kept_and_told(file: str, rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    open_schedule(file).close()
    for path in Path(file).parent.iterdir():
        path.write_bytes(rubbish)
    scheduler = open_schedule(file)
    assert set(scheduler.schedule) == {"a"}
    scheduler.close()
    if not rubbish:
        return  # a database of nothing is an empty one to some
    assert "cannot be read" in caplog.text
    assert "when entries ran last is not known now" in caplog.text
    kept = [path for path in Path(file).parent.iterdir() if ".corrupt-" in path.name]
    assert {path.read_bytes() for path in kept} == {rubbish}
    open_schedule(file).close()


def test_entries_that_cannot_be_read(file: str, caplog: pytest.LogCaptureFixture) -> None:
    with shelve.open(file) as shelf:
        shelf["entries"] = {"a": "no entry"}
    scheduler = open_schedule(file)
    assert scheduler.schedule["a"].task == "add"
    scheduler.close()
    assert ".corrupt-" in caplog.text


def test_one_process_has_it(file: str) -> None:
    first = open_schedule(file)
    with pytest.raises(
        ImproperlyConfigured, match=r"Another beat has the schedule file .* keep the schedule in the store"
    ):
        open_schedule(file)
    first.close()
    open_schedule(file).close()
    assert not Path(f"{file}.lock").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"cannot be written .*: give the name of one that can"):
        open_schedule(str(tmp_path / "missing" / "schedule"))


def test_what_cannot_be_pickled_keeps_its_time(file: str) -> None:
    entry = {"task": "add", "schedule": lambda: 100}
    app = make_app(beat_schedule={"odd": entry, "a": HOURLY})
    scheduler = open_schedule(file, app)
    app.move(100)
    scheduler.tick()
    scheduler.close()
    app.move(60)
    scheduler = open_schedule(file, app)
    assert (app.now() - scheduler.schedule["odd"].last_run_at).total_seconds() == 60
    assert scheduler.schedule["odd"].total_run_count == 1
    scheduler.tick()
    sent(app)
    app.move(40)
    scheduler.tick()
    assert len(sent(app)) == 1
    scheduler.close()


def test_a_disk_that_is_full_stops_nothing(file: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    scheduler = open_schedule(file)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scheduler._store, "sync", full)
    scheduler._do_sync()
    assert "cannot be written" in caplog.text
    assert "it goes on in memory" in caplog.text
    monkeypatch.undo()
    scheduler.close()


CELERY = """
import sys
from datetime import datetime, timezone
from celery import Celery
from celery.schedules import crontab
from celery.beat import PersistentScheduler
app = Celery("beat", broker="memory://")
app.conf.beat_schedule = {"a": {"task": "add", "schedule": 3600.0, "args": (1,)}}
app.conf.beat_schedule["c"] = {"task": "add", "schedule": crontab(minute=5)}
scheduler = PersistentScheduler(app, schedule_filename=sys.argv[1])
entry = scheduler.schedule["a"]
print(entry.total_run_count, entry.last_run_at.isoformat())
entry.total_run_count += 7
entry.last_run_at = datetime(2024, 3, 10, 11, 30, tzinfo=timezone.utc)
scheduler.close()
"""


def test_files_of_celery_and_ours_are_the_same(file: str, original: Path) -> None:
    def celery() -> str:
        command = [str(original), "-c", CELERY, file]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(file).parent).stdout

    celery()
    app = make_app(beat_schedule={"a": HOURLY, "c": {"task": "add", "schedule": crontab(minute=5)}})
    scheduler = open_schedule(file, app)
    assert scheduler.schedule["a"].total_run_count == 7
    app.move(1800)
    scheduler.tick()
    assert [one.args for one in sent(app)] == [[1]]
    scheduler.close()
    assert celery().split() == ["8", "2024-03-10T12:30:00+00:00"]
