"""What the front door costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


# What loads much and is needed by none of the processes of a plain worker.
UNWANTED = {
    "asyncio", "calendar", "email", "hashlib", "http", "importlib.metadata", "kombu", "logging.handlers", "redis",
    "sqlite3", "ssl", "tempfile", "zipfile", "zoneinfo",
}  # fmt: skip
APP = """
from celery import Celery
app = Celery("small_app", broker="redis://127.0.0.1:1", backend="redis://127.0.0.1:1")

@app.task
def double(x):
    return 2 * x
"""
CHILD = """
import small_app
from celery.concurrency import prefork, template
from celery.worker.child import ChildOptions, boot
from celery.wire.message import Job
envelope = small_app.app.amqp.outgoing("small_app.double", (1,), {}).envelope
outcome = boot("small_app:app", "w@x", ChildOptions(redirect_stdouts=False))(Job(1, envelope))
assert outcome.records[0].state == "SUCCESS", outcome
"""
WORKER = """
import small_app
import celery.__main__, celery.bin.celery, celery.bin.worker, celery.worker.worker
import celery.concurrency.prefork, celery.app.log
small_app.app.broker, small_app.app.store.url
"""


@pytest.fixture
def small_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_app.py").write_text(APP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("small_app")
@pytest.mark.parametrize(
    ("program", "more"),
    [
        (CHILD, ["bz2", "celery.redis", "click", "concurrent", "ctypes", "lzma", "pathlib", "random", "subprocess"]),
        (WORKER, ["bz2", "lzma"]),
    ],
    ids=["child", "worker"],
)
def test_processes_of_a_worker_load_what_they_need(program: str, more: list[str]) -> None:
    unwanted = {*UNWANTED, *more}
    modules = loaded_by(f"exec({program!r})")
    assert [name for name in modules if name in unwanted or name.partition(".")[0] in unwanted] == []


@pytest.mark.usefixtures("small_app")
def test_a_child_opens_the_result_store_when_a_task_asks_for_a_result() -> None:
    ask = (
        CHILD
        + "assert small_app.app.backend.as_uri() == 'redis://127.0.0.1:1'\nassert small_app.app.store.can.notify\n"
    )
    assert "celery.backends.redis" in loaded_by(f"exec({ask!r})")


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
