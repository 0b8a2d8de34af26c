"""The fixtures of `celery.contrib.pytest`, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUITE = """
import pytest
from celery import shared_task, current_app

@shared_task
def mul(x, y):
    return x * y

@pytest.fixture(scope="session")
def celery_config():
    return {"result_extended": True}

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"queues": ("celery", "other"), "perform_ping_check": True}

@pytest.fixture(scope="session", params=["solo", "threads"])
def celery_worker_pool(request):
    return request.param

def test_app(celery_app):
    assert celery_app.conf.result_extended
    assert current_app._get_current_object() is celery_app

@pytest.mark.celery(task_default_queue="marked")
def test_mark(celery_app):
    assert celery_app.conf.task_default_queue == "marked"

def test_create_task(celery_app, celery_worker):
    @celery_app.task
    def add(x, y):
        return x + y
    celery_worker.reload()
    assert add.delay(4, 4).get(timeout=30) == 8
    assert mul.apply_async((4, 4), queue="other").get(timeout=30) == 16

def test_session(celery_session_app, celery_session_worker):
    assert mul.delay(2, 3).get(timeout=30) == 6

def test_current(depends_on_current_app, celery_app):
    assert current_app._get_current_object() is celery_app
"""


def test_they_are_those_that_suites_use(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "celery.contrib.pytest", "-W", "error", "--strict-markers"]
    done = subprocess.run(
        [*command, "-p", "no:randomly", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "test_suite.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
