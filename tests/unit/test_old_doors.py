"""Names and habits of programs written for Celery: what leads somewhere, and what says that it will."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import celery
from celery import Celery
from celery.bin.celery import celery as command_line
from celery.concurrency import get_implementation
from celery.concurrency.prefork import PreforkPool
from celery.concurrency.solo import SoloPool
from celery.exceptions import ImproperlyConfigured


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Celery:
    url = f"memory://{request.node.name}"
    return Celery("old", broker=url, backend=url)


class TestCommands:
    """`if __name__ == "__main__": app.start()` and its like."""

    def test_start_runs_a_command_for_this_app_and_returns(
        self, app: Celery, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Celery("another that is current now")
        app.conf.task_default_queue = "mine"
        app.start(["report"])
        assert "task_default_queue: 'mine'" in capsys.readouterr().out

    def test_start_without_arguments_takes_those_of_the_program(
        self, app: Celery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["manage.py", "--version"])
        app.start()
        assert capsys.readouterr().out == f"{celery.VERSION_BANNER}\n"

    def test_worker_main_runs_the_worker(self, app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
        app.worker_main(["worker", "--help"])
        assert "--concurrency" in capsys.readouterr().out

    def test_worker_main_wants_the_word_worker(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["worker", "-l", "INFO"])  # the program is called so, the command is missing
        with pytest.raises(ValueError, match="must be specified in argv"):
            app.worker_main()

    def test_what_click_does_not_understand_is_raised(self, app: Celery) -> None:
        with pytest.raises(click.UsageError, match="--bogus"):
            app.worker_main(["worker", "--bogus"])

    def test_what_went_wrong_in_a_command_is_raised(self, app: Celery) -> None:
        with pytest.raises(click.ClickException, match="No nodes replied"):
            app.start(["status", "--timeout", "0.1"])

    def test_a_command_with_an_exit_code_ends_the_program(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        command = click.Command("leave", callback=lambda: click.get_current_context().exit(3))
        monkeypatch.setitem(command_line.commands, "leave", command)
        with pytest.raises(SystemExit) as end:
            app.start(["leave"])
        assert end.value.code == 3

    def test_a_program_is_a_worker(self, tmp_path: Path) -> None:
        program = tmp_path / "tasks.py"
        program.write_text(PROGRAM)
        run = subprocess.run(
            [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (run.returncode, run.stdout.splitlines()[-2:]) == (0, ["added 5", "the worker has ended"]), run.stderr


PROGRAM = """
from celery import Celery, signals

app = Celery("tasks", broker="memory://program", backend="memory://program")

@app.task
def add(x, y):
    print("added", x + y, flush=True)

@signals.task_postrun.connect
def leave(**kwargs):
    app.control.shutdown()

if __name__ == "__main__":
    add.delay(2, 3)
    app.conf.worker_redirect_stdouts = False
    app.worker_main(["worker", "-l", "INFO", "-P", "solo"])
    print("the worker has ended")
"""


class TestNames:
    def test_every_door_says_the_same_version(self, app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
        app.start(["--version"])
        assert capsys.readouterr().out.strip() == celery.VERSION_BANNER
        assert f"celery:{celery.VERSION_BANNER} " in app.bugreport()
        assert celery.VERSION_BANNER.startswith(f"{celery.__version__} ({celery.SERIES} ")

    def test_a_package_does_not_hide_its_module_annotations(self) -> None:
        for package in ("celery.app", "celery.utils"):
            holder = importlib.import_module(package)
            assert getattr(holder, "annotations", None) in {None, sys.modules.get(f"{package}.annotations")}
            run = subprocess.run(
                [sys.executable, "-c", f"from {package} import annotations; print(annotations.__name__)"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert run.stdout.strip() == f"{package}.annotations"

    @pytest.mark.parametrize("name", ["execute", "log", "messaging", "registry"])
    def test_old_modules_load_by_attribute_and_by_import(self, name: str) -> None:
        assert getattr(celery, name) is importlib.import_module(f"celery.{name}")

    def test_old_modules_lead_to_the_current_app(self, app: Celery) -> None:
        @app.task(name="old.add")
        def add(x: int, y: int) -> int:
            return x + y

        assert celery.registry.tasks["old.add"] is app.tasks["old.add"]
        celery.execute.send_task("old.add", (1, 2))
        assert [entry.queue for entry in app.broker.entries("ready")] == ["celery"]
        assert celery.log.get_default_logger().name == "celery"
        assert celery.messaging.establish_connection().as_uri().startswith("memory://")

    def test_the_worker_has_its_old_address(self) -> None:
        module = importlib.import_module("celery.apps.worker")
        assert module.Worker is importlib.import_module("celery.worker.worker").Worker

    def test_the_clock_is_that_of_remote_control(self, app: Celery) -> None:
        before = app.clock.value
        assert app.clock.forward() == before + 1
        assert app.control.clock.value == before + 1


class TestPools:
    def test_by_name_and_by_path(self) -> None:
        assert get_implementation("prefork") is PreforkPool
        assert get_implementation("celery.concurrency.solo:SoloPool") is SoloPool

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            ("nowhere.at.all:Pool", "cannot be loaded: No module named 'nowhere'"),
            ("celery.concurrency.solo:Nothing", "cannot be loaded: module .* has no attribute 'Nothing'"),
            ("celery.concurrency.solo:annotations", "is no subclass of celery.concurrency.base.Pool"),
        ],
    )
    def test_a_path_that_leads_to_no_pool(self, path: str, sentence: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=sentence):
            get_implementation(path)


class TestParts:
    """Parts that a program may replace."""

    def test_an_events_class_of_the_program_is_used(self) -> None:
        class Events:
            def __init__(self, app: Celery) -> None:
                self.app = app

        app = Celery("with-events", events=Events)
        assert app.events.app is app

    def test_beat(self, app: Celery) -> None:
        assert app.Beat(quiet=True).app is app


class TestSettings:
    def test_what_add_defaults_names_can_be_assigned_before_the_configuration_is_read(self) -> None:
        app = Celery("defaults")
        app.add_defaults({"shop_limit": 3, "shop_name": "a"})
        app.add_defaults(lambda: {"shop_queue": "q"})
        app.conf.shop_limit = 4
        app.conf.update(shop_queue="r")
        assert (app.conf.shop_limit, app.conf.shop_name, app.conf.shop_queue) == (4, "a", "r")

    def test_and_configured_by_an_object(self) -> None:
        app = Celery("defaults")
        app.add_defaults({"shop_limit": 3})
        app.config_from_object({"shop_limit": 5})
        assert app.conf.shop_limit == 5

    def test_they_stay_when_another_configuration_is_read(self) -> None:
        app = Celery("defaults")
        app.add_defaults({"shop_limit": 3})
        assert app.conf.shop_limit == 3
        app.add_defaults({"shop_name": "a"})
        app.config_from_object({"task_acks_late": True})
        assert (app.conf.shop_limit, app.conf.shop_name, app.conf.task_acks_late) == (3, "a", True)

    @pytest.mark.parametrize("urls", ["memory://first;memory://second", ["memory://first", "memory://second"]])
    def test_of_several_brokers_the_first_is_used(self, urls: Any) -> None:
        app = Celery("several", broker=urls)
        app.task(name="t")(lambda: None).delay()
        alone = Celery("alone", broker="memory://first")
        assert len(alone.broker.entries("ready")) == 1
        assert app.conf.broker_url == urls
        assert app.connection().alt == ["memory://first", "memory://second"]
        assert "transport:memory" in app.bugreport()
        alone.broker.purge("celery")
