"""Results in a folder and in memcached that original Celery wrote, and that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.memcached import Memcached
from rig.original import VERSION, environment

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

WRITE = """
app.backend.store_result("done", {"a": ["é", None, 1.5]}, "SUCCESS")
app.backend.store_result("failed", ValueError("no", 7), "FAILURE", traceback="Traceback: ...")
app.backend.store_result("runs", {"pid": 1}, "STARTED")
app.GroupResult("group", [app.AsyncResult("done"), app.AsyncResult("failed")]).save()
"""
READ = """
import json
from celery.result import AsyncResult
done, failed, runs = (app.AsyncResult(id) for id in ("done", "failed", "runs"))
group = app.GroupResult.restore("group")
print(json.dumps([
    done.get(timeout=30), failed.state, repr(failed.get(timeout=5, propagate=False)), failed.traceback, runs.state,
    runs.info, [member.id for member in group.results], app.AsyncResult("nobody").state,
]))
app.AsyncResult("done").forget()
app.backend.store_result("failed", 8, "SUCCESS")
print(json.dumps([app.AsyncResult("done").state, app.AsyncResult("failed").get(timeout=30)]))
"""


@pytest.fixture(params=["folder", "memcached"])
def place(request: pytest.FixtureRequest, server: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a result backend, and an original that can use it."""
    if request.param == "folder":
        (tmp_path / "results").mkdir()
        yield f"file://{tmp_path}/results", request.getfixturevalue("original")
        return
    running = Memcached(server("memcached"))
    try:
        python = environment(f"original-celery-{VERSION}-pymemcache", f"celery=={VERSION}", "pymemcache==4.0.0")
        yield running.url(), python
    except LookupError as error:
        pytest.skip(str(error))
    finally:
        running.stop()


@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_results_of_the_one_are_read_by_the_other(place: tuple[str, Path], writer: str, tmp_path: Path) -> None:
    url, original = place

    def run(python: Path | str, code: str) -> list[Any]:
        head = f"from celery import Celery\napp = Celery(broker='memory://', backend={url!r})\n"
        done = subprocess.run(
            [str(python), "-c", head + code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    one, other = (sys.executable, original) if writer == "ours" else (original, sys.executable)
    run(one, WRITE)
    assert run(other, READ) == [
        [
            {"a": ["é", None, 1.5]}, "FAILURE", "ValueError('no', 7)", "Traceback: ...", "STARTED", {"pid": 1},
            ["done", "failed"], "PENDING",
        ],
        ["PENDING", 8],
    ]  # fmt: skip
