"""Tasks that run are ended by what they are stamped with: a signal for a process, cancellation for a coroutine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery import Celery, signals
from celery.exceptions import TaskRevokedError
from engine.notes import noted

NODE = "w@here"
pytestmark = pytest.mark.parametrize("kind", ["sqlite", "redis"], indirect=True)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def stamped(signature: Any, **stamps: Any) -> Any:
    signature.stamp(**stamps)
    return signature.apply_async()


def told(app: Celery, headers: dict[str, Any], **options: Any) -> Any:
    [answer] = app.control.broadcast(
        "revoke_by_stamped_headers",
        {"headers": headers, "terminate": True, **options},
        destination=[NODE],
        reply=True,
        timeout=30,
    )
    return answer[NODE]


@pytest.fixture
def revoked() -> Any:
    """(id, whether it was terminated, signal) of what `task_revoked` is sent for."""
    heard: list[tuple[str, bool, Any]] = []

    def hear(request: Any = None, terminated: bool = False, signum: Any = None, **_: Any) -> None:
        heard.append((request.id, terminated, signum))

    signals.task_revoked.connect(hear)
    yield heard
    signals.task_revoked.disconnect(hear)


@pytest.mark.parametrize("pool", ["prefork"])
@pytest.mark.parametrize(("signal", "number"), [(None, 15), ("KILL", 9)])
def test_processes_are_sent_a_signal(
    app: Celery, start: Any, jobs: ModuleType, revoked: Any, tmp_path: Path, signal: str | None, number: int
) -> None:
    log = tmp_path / "log"
    options = {"signal": signal} if signal else {}
    app.conf.imports = ("engine.jobs",)
    with start(hostname=NODE, concurrency=3):
        doomed = stamped(jobs.mark.s(str(log), "doomed", 600), customer="7")
        by_list = stamped(jobs.mark.s(str(log), "one of them", 600), customer=["8", "9"])
        spared = stamped(jobs.mark.s(str(log), "spared", 0.5), customer="1")
        until(lambda: log.exists() and len(noted(log)) == 3)
        answer = told(app, {"customer": ["7", "9"]}, **options)
        assert answer["ok"].startswith("headers {'customer': ['7', '9']} revoked: ")
        assert set(answer["ok"].rpartition(": ")[2].split(", ")) == {doomed.id, by_list.id}
        for result in (doomed, by_list):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=60)
        assert spared.get(timeout=60) == "spared"
        assert jobs.mark.delay(str(log), "the pool goes on").get(timeout=60) == "the pool goes on"
        until(lambda: len(revoked) >= 2)
        assert sorted(revoked) == sorted((result.id, True, number) for result in (doomed, by_list))
        again = stamped(jobs.mark.s(str(log), "never"), customer="7")
        with pytest.raises(TaskRevokedError):
            again.get(timeout=60)
    assert "never" not in noted(log)


@pytest.mark.parametrize("pool", ["asyncio"])
def test_coroutines_are_cancelled(app: Celery, start: Any, revoked: Any) -> None:
    began, cancelled = threading.Semaphore(0), list[str]()

    @app.task(shared=False, name="held")
    async def held(name: str) -> None:
        began.release()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    with start(hostname=NODE, concurrency=3):
        doomed = stamped(held.s("doomed"), customer="7")
        spared = stamped(held.s("spared"), customer="8")
        assert began.acquire(timeout=60)
        assert began.acquire(timeout=60)
        assert told(app, {"customer": "7"})["ok"] == f"headers {{'customer': '7'}} revoked: {doomed.id}"
        with pytest.raises(TaskRevokedError):
            doomed.get(timeout=60)
        until(lambda: cancelled)
        assert cancelled == ["doomed"]
        assert [(id, terminated) for id, terminated, _ in revoked] == [(doomed.id, True)]
        spared.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            spared.get(timeout=60)
