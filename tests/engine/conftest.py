"""Apps and workers in this process, everything in one place: in memory, in a file, in Redis."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import TestWorkController, start_worker

GREEN = os.environ.get("GREEN_POOL")
Start = Callable[..., AbstractContextManager[TestWorkController]]


@pytest.fixture
def app(place: str) -> Iterator[Celery]:
    app = TestApp(broker=place, backend=place)
    yield app
    app.close()


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """`make_app(broker, backend, **settings)`: an app with the tasks of `engine.jobs`, by addresses of its own."""
    made: list[Celery] = []

    def make(broker: str, backend: str | None = None, **settings: Any) -> Celery:
        app = Celery("jobs", broker=broker, backend=backend, include=["engine.jobs"])
        app.conf.update(worker_hijack_root_logger=False)
        app.conf.update(settings)
        app.set_default()
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def jobs() -> ModuleType:
    """The tasks of `engine.jobs`, shared with the apps of this test and of no other."""
    sys.modules.pop("engine.jobs", None)
    return import_module("engine.jobs")


# In a process that gevent or eventlet has taken over, theirs is the only one.
@pytest.fixture(params=[GREEN] if GREEN else ["solo", "threads", "asyncio"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers keep what waits for a slot, and do not give it back after a second: the test looks at it."""
    monkeypatch.setattr("celery.worker.consumer.consumer.PATIENCE", 600.0)


@pytest.fixture
def start(app: Celery, pool: str) -> Start:
    def start(**options: Any) -> AbstractContextManager[TestWorkController]:
        return start_worker(
            app, **{"pool": pool, "concurrency": 2, "perform_ping_check": False, "shutdown_timeout": 60.0, **options}
        )

    return start
