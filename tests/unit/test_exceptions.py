"""The error tree and what its members carry."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys

import click
import kombu.exceptions
import pytest

from celery import exceptions
from celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    CeleryError,
    ContentDisallowed,
    DecodeError,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    QueueNotFound,
    Reject,
    Retry,
    TaskError,
    TaskPredicate,
    reraise,
)


def test_every_public_name_is_there() -> None:
    for name in exceptions.__all__:
        assert getattr(exceptions, name) is not None


def test_the_tree() -> None:
    assert issubclass(TaskPredicate, CeleryError)
    assert all(issubclass(kind, TaskPredicate) for kind in (Retry, Ignore, Reject))
    assert all(issubclass(kind, TaskError) and issubclass(kind, KeyError) for kind in (NotRegistered, QueueNotFound))
    assert issubclass(ContentDisallowed, DecodeError)
    assert issubclass(DecodeError, ValueError)
    assert issubclass(exceptions.WorkerShutdown, SystemExit)


def test_the_names_of_others_are_loaded_late() -> None:
    assert exceptions.OperationalError is kombu.exceptions.OperationalError
    assert issubclass(exceptions.CeleryCommandException, click.ClickException)
    error = exceptions.CeleryCommandException("no", exit_code=7)
    assert (error.exit_code, error.message) == (7, "no")
    code = "import sys, celery.exceptions; sys.exit(any(m in sys.modules for m in ('kombu', 'click', 'billiard')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        exceptions.no_such_error  # noqa: B018 - the look-up is what is tested


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        (Retry("why", ValueError("x"), 3), "why"),
        (Retry(None, ValueError("x"), 3), "Retry in 3s: ValueError('x')"),
        (Retry(when=3), "Retry in 3s"),
        (Retry(exc="text", when=1.5), "Retry in 1.5s: text"),
        (Retry(when=dt.datetime(2026, 8, 1, tzinfo=dt.UTC)), "Retry at 2026-08-01 00:00:00+00:00"),
    ],
)
def test_a_retry_says_when_and_why(retry: Retry, text: str) -> None:
    assert str(retry) == text


@pytest.mark.parametrize(
    "error",
    [
        Retry("m", ValueError("x"), 3),
        Reject("r", requeue=True),
        NotRegistered("t"),
        MaxRetriesExceededError("m"),
        Ignore(),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert repr(back) == repr(error)


def test_fields() -> None:
    assert (Reject("why", requeue=True).reason, Reject("why", requeue=True).requeue) == ("why", True)
    assert repr(Reject("why")) == "reject requeue=False: why"
    error = MaxRetriesExceededError("m", task_args=(1,), task_kwargs={"a": 2})
    assert (error.task_args, error.task_kwargs) == ((1,), {"a": 2})
    assert BackendGetMetaError("m", task_id="t").task_id == "t"
    assert BackendStoreError("m", state="FAILURE", task_id="t").state == "FAILURE"
    assert "never registered" in repr(NotRegistered("t"))


def test_reraise() -> None:
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        reraise(ValueError, error)
    assert caught.value is error
