"""The loop, and beats inside of other programs."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from beat.clocks import make_app, sent
from celery import Celery, beat, signals
from celery.beat import EmbeddedService, PersistentScheduler, Scheduler, Service
from celery.beat.health import BeatHealth
from celery.exceptions import ImproperlyConfigured
from celery.utils.clock import FakeClock

OFTEN = {"often": {"task": "add", "schedule": 0.05}}
PATIENCE = 40.0


@pytest.fixture
def app(tmp_path: Path) -> Any:
    return make_app(Celery, beat_schedule=OFTEN, beat_schedule_filename=str(tmp_path / "schedule"))


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def running(service: Any, **kwargs: Any) -> Iterator[None]:
    thread = threading.Thread(target=service.start, kwargs=kwargs)
    thread.start()
    try:
        yield
    finally:
        service.stop(wait=True)
        thread.join(PATIENCE)


class TestService:
    def test_it_runs_until_it_is_stopped(self, app: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "celery.beat")
        service = Service(app)
        with running(service):
            wait_for(lambda: app.broker.stats(["celery"])[0].ready >= 3)
            assert service.last_tick is not None
        assert isinstance(service.scheduler, PersistentScheduler)
        assert len(sent(app)) >= 3
        for words in ("beat: Starting...", "Scheduler: Sending due task often (add)", "beat: Shutting down..."):
            assert words in caplog.text
        assert (
            PersistentScheduler(app, schedule_filename=service.schedule_filename).schedule["often"].total_run_count >= 3
        )

    def test_signals(self, app: Any) -> None:
        seen = []

        def init(sender: Any = None, **_: Any) -> None:
            seen.append(("init", sender.scheduler))  # as schedulers of others look for it

        def embedded(sender: Any = None, **_: Any) -> None:
            seen.append(("embedded", sender.scheduler))

        signals.beat_init.connect(init)
        signals.beat_embedded_init.connect(embedded)
        try:
            for inside in (False, True):
                service = Service(app, scheduler_cls=Scheduler)
                with running(service, embedded_process=inside):
                    wait_for(lambda service=service: service.last_tick)
        finally:
            signals.beat_init.disconnect(init)
            signals.beat_embedded_init.disconnect(embedded)
        assert [name for name, _ in seen] == ["init", "init", "embedded"]
        assert {type(scheduler) for _, scheduler in seen} == {Scheduler}

    @pytest.mark.parametrize("chosen", [Scheduler, "celery.beat:Scheduler", "celery.beat.Scheduler"])
    def test_schedulers_by_name(self, app: Any, chosen: Any) -> None:
        assert type(Service(app, scheduler_cls=chosen).get_scheduler(lazy=True)) is Scheduler
        app.conf.beat_scheduler = chosen
        assert type(Service(app).get_scheduler(lazy=True)) is Scheduler

    @pytest.mark.parametrize("wrong", ["nowhere", "nowhere:Scheduler", "celery.beat:Nothing"])
    def test_schedulers_that_do_not_exist(self, app: Any, wrong: str) -> None:
        with pytest.raises(
            ImproperlyConfigured, match=f"The scheduler '{wrong}' cannot be loaded .* give module:Class"
        ):
            Service(app, scheduler_cls=wrong).get_scheduler()

    def test_entry_points(self, app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "others-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
        (folder / "entry_points.txt").write_text("[celery.beat_schedulers]\nothers = celery.beat:Scheduler\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert type(Service(app, scheduler_cls="others").get_scheduler(lazy=True)) is Scheduler

    def test_settings_and_arguments(self, app: Any) -> None:
        app.conf.update(beat_max_loop_interval=7, beat_schedule_filename="file")
        service = Service(app)
        assert (service.max_interval, service.schedule_filename) == (7, "file")
        again = pickle.loads(pickle.dumps(Service(Celery("x"), 3, "other", "celery.beat:Scheduler")))
        assert (again.max_interval, again.schedule_filename, again.scheduler_cls) == (
            3,
            "other",
            "celery.beat:Scheduler",
        )

    @pytest.mark.parametrize(
        ("seconds", "words"), [(3600, "put forward by 1.00 hour"), (-3600, "put back by 1.00 hour")]
    )
    def test_a_clock_that_jumps_is_told(
        self, app: Any, seconds: float, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Jumpy(FakeClock):
            def monotonic(self) -> float:
                return 0.0

        service = Service(app, scheduler_cls=Scheduler)
        jumps: list[float] = []
        service.scheduler.clock_jumped = jumps.append  # type: ignore[method-assign]
        service.scheduler.tick = lambda *_: 0.0  # type: ignore[method-assign]
        service.clock = clock = Jumpy()
        service.turn()
        clock.advance(1)
        service.turn()
        clock.advance(seconds)
        service.turn()
        assert jumps == [seconds]
        assert words in caplog.text

    def test_a_loop_that_is_stuck_is_not_live(self, app: Any) -> None:
        service = Service(app, scheduler_cls=Scheduler)
        service.clock = clock = FakeClock()
        health = BeatHealth(service, ":0")
        assert not health.ready().good
        service.scheduler.tick = lambda *_: 0.0  # type: ignore[method-assign]
        service.turn()
        assert health.ready().good
        service.awake_at += 100  # it sleeps for so long
        clock.advance(120)
        assert health.live().good
        clock.advance(20)
        assert health.live().reasons == ("the loop is stuck: it was to turn 40 seconds ago",)
        pidbox = beat.BeatPidbox(service, "b@here")
        assert pidbox.ping(None) == {"ok": "pong"}
        app.conf.beat_remote_control_max_tick_age = 100
        assert pidbox.ping(None) == {"error": "the loop of beat has not turned for 140 seconds"}

    def test_names_of_nodes(self) -> None:
        assert beat.beat_nodename().startswith("celerybeat@")
        assert beat.beat_nodename("b@here") == "b@here"


class TestEmbedded:
    def test_in_a_thread(self, app: Any) -> None:
        embedded = EmbeddedService(app, thread=True)
        embedded.start()
        wait_for(lambda: app.broker.stats(["celery"])[0].ready >= 2)
        embedded.stop()
        assert not embedded.is_alive()

    def test_a_scheduler_that_fails_is_started_again(
        self, app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("celery.beat.embedded.AGAIN_AFTER", 0.01)
        failures = [RuntimeError("no database"), RuntimeError("no database")]

        class Weak(Scheduler):
            def tick(self, *args: Any, **kwargs: Any) -> float:
                if failures:
                    raise failures.pop()
                return super().tick(*args, **kwargs)

        embedded = EmbeddedService(app, thread=True, scheduler_cls=Weak)
        embedded.start()
        wait_for(lambda: app.broker.stats(["celery"])[0].ready >= 2)
        embedded.stop()
        assert "The embedded beat ended (no database). It is started again in 0.01 s." in caplog.text


PROGRAM = """
import sys
from celery import Celery

app = Celery("embedded_app", broker=sys.argv[-1], backend=sys.argv[-1])
app.conf.beat_schedule = {"often": {"task": "embedded_app.add", "schedule": 0.2}}

@app.task
def add():
    return 1

if __name__ == "__main__":
    import embedded_app, json, time
    from celery.beat import EmbeddedService, embedded
    embedded.AGAIN_AFTER = 0.1
    beat = EmbeddedService(embedded_app.app, schedule_filename=sys.argv[1])
    beat.start()
    while beat.pid is None:
        time.sleep(0.01)
    print(json.dumps(beat.pid), flush=True)
    sys.stdin.readline()
    beat.stop()
    print("stopped", flush=True)
"""


class TestProcess:
    """The app is the one that the module makes; broker and file come as arguments, and the child gets the settings."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        self.url = f"sqlite:///{tmp_path}/broker.db"
        (tmp_path / "embedded_app.py").write_text(PROGRAM.replace("sys.argv[-1]", repr(self.url)))
        command = [sys.executable, "embedded_app.py", str(tmp_path / "schedule")]
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        yield process
        process.kill()
        process.communicate()

    def ready(self) -> int:
        stats = Celery("reader", broker=self.url, set_as_current=False).broker.stats(["celery"])
        return stats[0].ready if stats else 0

    def test_it_ends_when_it_is_told(self, program: subprocess.Popen[str], tmp_path: Path) -> None:
        assert program.stdout is not None
        pid = json.loads(program.stdout.readline())
        wait_for(lambda: self.ready() >= 2)
        said, _ = program.communicate("end\n", timeout=PATIENCE)
        assert said == "stopped\n"
        assert not _runs(pid)
        count = self.ready()
        with PersistentScheduler(
            make_app(Celery), schedule_filename=str(tmp_path / "schedule"), lazy=True
        )._read() as shelf:
            assert shelf["entries"]["often"].total_run_count == count

    def test_it_ends_when_its_parent_is_killed(self, program: subprocess.Popen[str]) -> None:
        assert program.stdout is not None
        pid = json.loads(program.stdout.readline())
        wait_for(lambda: self.ready() >= 1)
        program.kill()
        wait_for(lambda: not _runs(pid))

    def test_it_is_started_again_when_it_dies(self, program: subprocess.Popen[str], monkeypatch: Any) -> None:
        assert program.stdout is not None
        pid = json.loads(program.stdout.readline())
        wait_for(lambda: self.ready() >= 1)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _runs(pid))
        count = self.ready()
        wait_for(lambda: self.ready() > count)
        program.communicate("end\n", timeout=PATIENCE)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it ended while it was looked at
        return False
