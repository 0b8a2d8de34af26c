"""What the front door costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import celery

HEAVY = ("kombu", "click", "asyncio", "multiprocessing", "billiard", "vine", "yaml", "msgpack", "pydantic")
LOADED = "import sys, json; before = set(sys.modules); {0}; print(json.dumps(sorted(set(sys.modules) - before)))"


def loaded_by(statement: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", LOADED.format(statement)], capture_output=True, text=True, check=True)
    return list(json.loads(run.stdout))


def test_import_celery_is_light() -> None:
    modules = loaded_by("import celery")
    assert len(modules) <= 120, modules
    assert [name for name in modules if name.partition(".")[0] in HEAVY] == []


@pytest.mark.parametrize(
    "statement",
    [
        "from celery import Celery; app = Celery('x'); task = app.task(lambda x: x, name='x')",
        "from celery import shared_task; shared_task(lambda: None, name='x')",
        "from celery import Celery; Celery('x', broker='memory://').task(name='x')(lambda x: x).delay(1)",
    ],
)
def test_an_app_needs_neither_kombu_nor_click(statement: str) -> None:
    modules = loaded_by(statement)
    unwanted = {"kombu", "click", "billiard", "vine"}
    assert [name for name in modules if name.partition(".")[0] in unwanted] == []


CHILD = """
from celery import Celery
app = Celery('x', broker='memory://', backend='cache+memory://')
task = app.task(lambda x: x, name='x')
from celery.concurrency import child
from celery.worker.child import boot_here
from celery.wire.message import Job
runner = boot_here(app, 'w@x')
envelope = app.amqp.outgoing('x', (1,), {}).envelope
assert runner(Job(1, envelope)).state == 'SUCCESS'
"""


def test_what_runs_tasks_needs_little() -> None:
    modules = loaded_by(f"exec({CHILD!r})")
    unwanted = {
        "asyncio", "bz2", "calendar", "click", "concurrent", "ctypes", "email", "hashlib", "http", "kombu", "lzma",
        "multiprocessing", "random", "redis", "sqlite3", "ssl", "subprocess", "tempfile", "zipfile", "zoneinfo",
    }  # fmt: skip
    assert [name for name in modules if name.partition(".")[0] in unwanted] == []
    assert {"importlib.metadata", "logging.handlers"}.isdisjoint(modules)


def test_a_header_is_made_when_a_task_is_first_sent() -> None:
    app = celery.Celery("headers", set_as_current=False)

    @app.task(name="added", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    class Multiply(app.Task):  # type: ignore[name-defined, misc]
        name = "multiplied"

        def run(self, x: int, y: int) -> int:
            return x * y

    tasks = [app.tasks["added"], app.register_task(Multiply())]
    for task in tasks:
        assert not isinstance(vars(type(task))["__header__"], staticmethod)
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            task.delay(1)
        assert isinstance(vars(type(task))["__header__"], staticmethod)
        assert task.__header__(1, y=2)


def test_every_public_name_loads() -> None:
    names = [name for name in celery.__all__ if not name.startswith("current_")]
    assert [name for name in names if getattr(celery, name) is None] == []
    assert set(celery.__all__) <= set(dir(celery))


def test_an_unknown_name_says_so() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from celery import Celeri"], capture_output=True, text=True, check=False
    )
    assert "cannot import name 'Celeri'" in run.stderr
