"""Fixtures for tests of programs that use Celery: `pytest -p celery.contrib.pytest`.

Override `celery_config`, `celery_parameters`, `celery_worker_pool` and their like in your `conftest.py`; mark a test
with `@pytest.mark.celery(result_backend=...)` for settings of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from celery.contrib.testing import tasks as tasks  # `start_worker` pings with one of them: every app gets it
from celery.contrib.testing import worker
from celery.contrib.testing.app import TestApp, setup_default_app

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.controller import WorkController

NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", "celery(**overrides): override the settings of the app in this test.")


@contextmanager
def _app(enable_logging: bool, use_trap: bool, parameters: Mapping[str, Any], config: Any) -> Iterator[Celery]:
    """An app that is the current one in this block."""
    app = TestApp(set_as_current=False, enable_logging=enable_logging, config=config, **parameters)
    with setup_default_app(app, use_trap=use_trap):
        app.set_default()
        app.set_current()
        yield app


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether a test fails that uses the current app where it has one of its own."""
    return False


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether the apps of tests set up logging."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules that a worker imports before it starts."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """The pool of the workers."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """The settings of the apps."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """What the constructor of the apps is given."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """What the constructor of the workers is given."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> list[Any]:
    """Classes of tasks to register with the app of the session."""
    return []


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """One app for the session."""
    mark = request.node.get_closest_marker("celery")
    config = {**celery_config, **(mark.kwargs if mark else {})}
    with _app(celery_enable_logging, use_celery_app_trap, celery_parameters, config) as app:
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    request: pytest.FixtureRequest,
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: list[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[WorkController | None]:
    """One worker for the session."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(celery_session_app, celery_worker_pool, celery_worker_parameters) as running:
        yield running


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for one test."""
    mark = request.node.get_closest_marker("celery")
    config = {**celery_config, **(mark.kwargs if mark else {})}
    with _app(celery_enable_logging, use_celery_app_trap, celery_parameters, config) as app:
        yield app


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest,
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[WorkController | None]:
    """A worker for one test, in a thread of this process."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with _worker(celery_app, celery_worker_pool, celery_worker_parameters) as running:
        yield running


def _worker(app: Celery, pool: Any, parameters: Mapping[str, Any]) -> AbstractContextManager[WorkController]:
    return worker.start_worker(app, pool=pool, **parameters)


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """For tests that use the current app: it is `celery_app`."""
    celery_app.set_current()
