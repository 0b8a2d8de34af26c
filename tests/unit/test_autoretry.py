"""`autoretry_for` and its backoff."""

from __future__ import annotations

from typing import Any

import pytest

from celery import Celery
from celery.exceptions import Ignore, Retry


@pytest.fixture
def app() -> Celery:
    return Celery("auto", broker="memory://auto", backend="memory://auto")


def run_as_worker(task: Any, *, retries: int = 0) -> BaseException:
    """What a try raises to the worker."""
    task.push_request(id="i", args=(), kwargs={}, called_directly=False, retries=retries, outbox=[])
    try:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - the caller looks at it
            task.run()
        return caught.value
    finally:
        task.pop_request()


def test_listed_exceptions_are_retried(app: Celery) -> None:
    @app.task(autoretry_for=(KeyError, OSError), dont_autoretry_for=(FileNotFoundError,), retry_kwargs={"countdown": 7})
    def job(error: Exception | None = None) -> None:
        raise job.error  # type: ignore[attr-defined]

    for error, expected in (
        (KeyError("k"), Retry),
        (PermissionError(), Retry),
        (FileNotFoundError(), FileNotFoundError),
        (ValueError(), ValueError),
        (Ignore(), Ignore),
    ):
        job.error = error  # type: ignore[attr-defined]
        raised = run_as_worker(job)
        assert type(raised) is expected
        if isinstance(raised, Retry):
            assert raised.when == 7
            assert raised.exc is error


def test_the_delay_doubles_up_to_its_maximum(app: Celery) -> None:
    @app.task(autoretry_for=(KeyError,), retry_backoff=3, retry_backoff_max=20, retry_jitter=False, max_retries=None)
    def job() -> None:
        raise KeyError

    delays = [run_as_worker(job, retries=n).when for n in range(5)]  # type: ignore[attr-defined]
    assert delays == [3, 6, 12, 20, 20]


def test_jitter_is_somewhere_below(app: Celery) -> None:
    @app.task(autoretry_for=(KeyError,), retry_backoff=True, retry_backoff_max=50, max_retries=None)
    def job() -> None:
        raise KeyError

    assert all(0 <= run_as_worker(job, retries=9).when <= 50 for _ in range(20))  # type: ignore[attr-defined]


def test_it_ends_with_the_error_itself(app: Celery) -> None:
    tries = []

    @app.task(autoretry_for=(KeyError,), max_retries=2)
    def job() -> None:
        tries.append(1)
        raise KeyError("last")

    result = job.apply()
    assert len(tries) == 3
    assert isinstance(result.result, KeyError)


def test_options_may_be_attributes_of_the_class(app: Celery) -> None:
    class Base(app.Task):  # type: ignore[name-defined,misc]
        autoretry_for = (KeyError,)
        retry_kwargs = {"max_retries": 1, "countdown": 2}

    @app.task(base=Base)
    def job() -> None:
        raise KeyError

    assert isinstance(run_as_worker(job), Retry)
    assert isinstance(run_as_worker(job, retries=1), KeyError)


def test_a_limit_given_to_retry_holds_for_the_automatic_one(app: Celery) -> None:
    @app.task(bind=True, autoretry_for=(KeyError,), max_retries=10)
    def job(self: Any) -> None:
        raise self.retry(exc=KeyError(), max_retries=1)

    assert isinstance(run_as_worker(job), Retry)
    assert isinstance(run_as_worker(job, retries=1), KeyError)


def test_async_tasks(app: Celery) -> None:
    tries = []

    @app.task(autoretry_for=(KeyError,), max_retries=1)
    async def job() -> None:
        tries.append(1)
        raise KeyError

    assert isinstance(job.apply().result, KeyError)
    assert len(tries) == 2
