"""Finding the application, and mistakes: each is one sentence that says what to do, and never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_version_names_the_api_and_celeriac(celery: Any) -> None:
    said = celery("--version")
    assert said.code == 0
    assert said.out.startswith("5.7.0 (celeriac")


def test_version_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom celery.bin.celery import celery\n"
        "try:\n    celery(['--version'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'kombu', 'msgspec', 'sqlite3', 'asyncio', 'celery.app', 'celery.drivers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_alone_it_lists_the_commands(celery: Any) -> None:
    for said in (celery(), celery("--help")):
        assert said.code == 0
        for command in (
            "worker",
            "call",
            "result",
            "purge",
            "report",
            "inspect",
            "control",
            "status",
            "queues",
            "dead",
        ):
            assert f"\n  {command} " in said.out


@pytest.mark.parametrize(
    "command", ["worker", "call", "result", "purge", "report", "inspect", "control", "status", "queues"]
)
def test_every_command_has_help(celery: Any, command: str) -> None:
    said = celery(command, "--help")
    assert said.code == 0, said.err
    assert said.out.startswith("Usage: ")
    assert "--help" in said.out


@pytest.mark.parametrize(
    ("name", "main"),
    [("single", "single"), ("single:app", "single"), ("single.app", "single"), ("proj", "proj"),
     ("proj.celery", "proj"), ("proj.other:special", "other"), ("proj.other", "other")],
)  # fmt: skip
def test_the_application_is_found(celery: Any, name: str, main: str) -> None:
    said = celery("-A", name, "queues", "--json")
    assert said.code == 0, said.err
    files = [path.name for path in Path(os.environ["CELERY_HOME"]).glob("*.db")]
    assert files == [f"{main}.db"]


def test_the_environment_names_the_application(celery: Any) -> None:
    assert celery("queues", "-j", CELERY_APP="proj").code == 0
    assert celery("queues", "-j", APP="nowhere").code == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "nowhere"),
        ("single:nothing", "nothing"),
        ("broken", "a_package_that_is_not_there"),
        ("json", "json"),
    ],
)
def test_a_wrong_application_is_told_in_a_sentence(celery: Any, name: str, words: str) -> None:
    said = celery("-A", name, "report")
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.text


def test_an_option_in_the_wrong_place(celery: Any) -> None:
    said = celery("worker", "-A", "single")
    assert said.code == 2
    assert "celery -A single worker" in said.err


def test_a_command_that_does_not_exist(celery: Any) -> None:
    said = celery("-A", "single", "workr")
    assert said.code == 2
    assert "No such command 'workr'" in said.err
    assert "    worker" in said.err


def test_a_broker_that_does_not_exist(celery: Any) -> None:
    said = celery("-A", "single", "-b", "carrier-pigeon://", "call", "single.add")
    assert said.code == 1
    assert "carrier-pigeon" in said.err
    assert "Traceback" not in said.text


def test_a_broker_that_cannot_be_reached(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = celery("-A", "single", "-b", f"sqlite:///{tmp_path}/file/broker.db", "call", "single.add")
    assert said.code == 69
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.text


def test_a_file_that_is_no_database(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear Sir or Madam, " * 100)
    said = celery("-A", "single", "-b", f"sqlite:///{tmp_path}/letter.db", "call", "single.add")
    assert said.code == 69
    assert "letter.db" in said.err
    assert "Traceback" not in said.text


def test_a_state_folder_that_cannot_be_made(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in (("call", "single.add"), ("worker", "-c", "1")):
        said = celery("-A", "single", *command, CELERY_HOME=str(tmp_path / "file" / "home"))
        assert said.code == 1
        assert "CELERY_HOME" in said.err
        assert "Traceback" not in said.text


def test_workdir_is_where_the_application_is_looked_for(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("from celery import Celery\napp = Celery('elsewhere')\n")
    assert celery("-A", "elsewhere", "queues").code == 2
    assert celery("-A", "elsewhere", "--workdir", str(tmp_path), "queues").code == 0


def test_commands_of_other_packages(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "garden.py").write_text(
        "import click\n\n@click.command()\n@click.pass_context\ndef water(ctx):\n"
        '    """Water the garden."""\n    click.echo(f"watering {ctx.obj.app.main}")\n'
    )
    info = tmp_path / "garden-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: garden\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[celery.commands]\nwater = garden:water\nmow = garden:mower\n")
    path = str(tmp_path)
    assert celery("-A", "single", "water", PYTHONPATH=path).out == "watering single\n"
    assert re.search(r"  water +Water the garden\.", celery("--help", PYTHONPATH=path).out)
    said = celery("-A", "single", "mow", PYTHONPATH=path)
    assert said.code == 1
    assert "'mow' of garden:mower cannot be loaded" in said.err
    assert "Traceback" not in said.text


def test_options_that_an_application_adds(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import click\nfrom celery import Celery, signals\napp = Celery('own')\n"
        "app.user_options['preload'].add(click.Option(['-Z', '--template'], default='plain'))\n"
        "@signals.user_preload_options.connect\ndef show(options, **kwargs):\n"
        "    print('template', options['template'])\n"
    )
    said = celery("-A", "own", "queues", "--template", "fancy", PYTHONPATH=str(tmp_path))
    assert said.code == 0, said.err
    assert said.out.startswith("template fancy\n")


def test_a_broker_that_is_still_to_come(celery: Any) -> None:
    said = celery("-b", "postgresql+psycopg://localhost/x", "-A", "single", "queues")
    assert said.code == 1
    assert "comes with a later version of Celeriac; this one has amqp, amqps, " in said.err


@pytest.mark.parametrize(
    ("args", "example"),
    [
        (["status", "--quiet"], "-q (--quiet) is a global option, it comes before the command: celery -q status ..."),
        (["status", "--app=single"], "celery -A single status ..."),
        (["queues", "-b", "memory://"], "celery -b memory:// queues ..."),
        (["queues", "--workdir"], "celery --workdir WORKDIR queues ..."),
    ],
)
def test_a_global_option_after_the_command(celery: Any, args: list[str], example: str) -> None:
    said = celery(*args)
    assert said.code == 2
    assert example in said.err


def test_where_a_module_is_wrong(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text("x = 1\ndef f(:\n")
    said = celery("--workdir", str(tmp_path), "-A", "typo", "status")
    assert said.code == 2
    assert f"({tmp_path / 'typo.py'}, line 2)" in said.err
    (tmp_path / "includes.py").write_text("from celery import Celery\napp = Celery('i', include=['not_there'])\n")
    said = celery("--workdir", str(tmp_path), "-A", "includes", "worker")
    assert said.code == 1
    assert "A module of tasks could not be imported: ModuleNotFoundError: No module named 'not_there'" in said.err
    assert "Traceback" not in said.err
