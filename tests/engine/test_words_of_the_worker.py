"""Lines that operators search their logs for."""

from __future__ import annotations

import pytest

from celery import Celery
from celery.contrib.testing.worker import start_worker


@pytest.fixture
def app() -> Celery:
    return Celery("words", broker="memory://words", backend="cache+memory://words")


def test_a_task_that_nobody_registered_is_named(app: Celery, capfd: pytest.CaptureFixture[str]) -> None:
    with start_worker(app, perform_ping_check=False, shutdown_timeout=60.0):
        result = app.send_task("tasks.missing", task_id="lost")
        with pytest.raises(Exception, match=r"tasks\.missing"):
            result.get(timeout=30)

    said = capfd.readouterr().err
    assert "Received unregistered task of type 'tasks.missing': tasks.missing[lost] goes to the dead set." in said
    assert "Traceback" not in said
