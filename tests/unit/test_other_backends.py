"""Result backends and stores that others made: by an entry point, by the path of a class, by the loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODULE = '''
from celery.backends.base import BaseBackend, KeyValueStoreBackend
from celery.backends.memory import MemoryStore

KEPT = {}


class Mine(KeyValueStoreBackend):
    """As packages for Celery have them."""

    def get(self, key):
        return KEPT.get(key)

    def set(self, key, value):
        KEPT[key] = value

    def delete(self, key):
        KEPT.pop(key, None)


class Bare(BaseBackend):
    def _store_result(self, task_id, result, state, traceback=None, request=None, **kwargs):
        KEPT[task_id] = {"status": state, "result": result, "traceback": traceback, "task_id": task_id}
        return result

    def _get_task_meta_for(self, task_id):
        return self.meta_from_decoded(dict(KEPT.get(task_id) or {"status": "PENDING", "result": None}))


class Store(MemoryStore):
    """A store of somebody else."""
'''
ENTRIES = """
[celery.result_backends]
mine = mine:Mine

[celery.result_stores]
kept = mine:Store
"""
CODE = """
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker

url, wanted, transport = {url!r}, {wanted!r}, {transport!r}
app = TestApp(broker="memory://other", backend=url)

@app.task(name="add", shared=False)
def add(x, y):
    return x + y

@app.task(name="fail", shared=False)
def fail():
    raise ValueError("no")

with start_worker(app, pool="threads", perform_ping_check=False):
    result = add.delay(1, 2)
    assert result.get(timeout=30, interval=0.01) == 3
    broken = fail.delay()
    assert isinstance(broken.get(timeout=30, interval=0.01, propagate=False), ValueError)
    assert (add.s(1, 1) | add.s(2)).delay().get(timeout=30, interval=0.01) == 4
found = type(getattr(app.backend, "store", None) or app.backend).__name__
assert found == wanted, found
assert app.backend.url == transport, app.backend.url
app.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package of somebody else, installed."""
    (tmp_path / "mine.py").write_text(MODULE)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    return tmp_path


@pytest.mark.parametrize(
    ("url", "wanted", "transport"),
    [
        ("mine://host/db", "Mine", "mine://host/db"),
        ("mine:Mine", "Mine", None),
        ("mine.Mine", "Mine", None),
        ("mine:Mine+other://host", "Mine", "other://host"),
        ("mine:Bare", "Bare", None),
        ("kept://here", "Store", "kept://here"),
    ],
)
def test_they_are_found_and_used(folder: Path, url: str, wanted: str, transport: str | None) -> None:
    code = CODE.format(url=url, wanted=wanted, transport=transport)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [("mine:Nobody", "Nobody"), ("nowhere.Mine", "nowhere"), ("mone://host", "no result backend called 'mone'")],
)
def test_what_is_not_there_is_named(folder: Path, url: str, said: str) -> None:
    code = f"from celery import Celery\nCelery(broker='memory://', backend={url!r}).AsyncResult('a').state\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "ImproperlyConfigured" in last
    assert said in last
