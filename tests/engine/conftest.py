"""Apps and workers in this process, everything in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import TestWorkController, start_worker

Start = Callable[..., AbstractContextManager[TestWorkController]]


@pytest.fixture
def app() -> Iterator[Celery]:
    app = TestApp()
    yield app
    app.close()


@pytest.fixture(params=["solo", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(app: Celery, pool: str) -> Start:
    def start(**options: Any) -> AbstractContextManager[TestWorkController]:
        return start_worker(app, **{"pool": pool, "concurrency": 2, "perform_ping_check": False, **options})

    return start
