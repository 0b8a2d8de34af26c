"""What is left on a Redis server when all who used it have gone in order: what docs/redis.md says, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from kombu.common import Broadcast

from celery import Celery, chain, chord, group
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import ChordError, TaskRevokedError
from rig.keys import check_keys
from rig.redis import RedisServer

SOON = 60.0


def make(url: str, heard: list[str], backend: str = "") -> Celery:
    app = TestApp(broker=url, backend=backend or url)
    app.conf.update(task_queues=["celery", Broadcast("news")], task_default_queue="celery", result_expires=60)

    @app.task(name="add", shared=False)
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="fail", shared=False)
    def fail() -> None:
        raise ValueError("as it should")

    @app.task(name="again", bind=True, shared=False)
    def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0.1)
        return 1

    @app.task(name="single", concurrency_limit=1, acks_late=True, shared=False)
    def single(number: int) -> int:
        return number

    @app.task(name="paced", rate_limit="50/s", rate_limit_scope="global", shared=False)
    def paced(number: int) -> int:
        return number

    @app.task(name="only", unique=True, shared=False)
    def only(number: int) -> int:
        return number

    @app.task(name="seldom", unique=600, shared=False)
    def seldom(number: int) -> int:
        return number

    @app.task(name="hear", ignore_result=True, shared=False)
    def hear(word: str) -> None:
        heard.append(word)

    return app


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_is_left_but_what_is_documented(redis_server: RedisServer, redis_url: str) -> None:
    heard: list[str] = []
    with ExitStack() as stack:
        apps = [make(redis_url, heard) for _ in range(3)]
        asks = make(redis_url, heard, "rpc://")
        for app in (*apps, asks):
            stack.callback(app.close)
        client, *workers = apps
        for number, app in enumerate(workers):
            name = f"w{number}@here"
            stack.enter_context(
                start_worker(
                    app, pool="threads", concurrency=4, hostname=name, perform_ping_check=False, shutdown_timeout=60.0
                )
            )
        answers = stack.enter_context(make(redis_url, heard, "rpc://"))
        stack.enter_context(
            start_worker(answers, pool="threads", perform_ping_check=False, shutdown_timeout=60.0, queues=["asked"])
        )
        run(client, heard)
        assert asks.tasks["add"].apply_async((1,), queue="asked").get(timeout=SOON) == 2
        assert len(client.control.ping(timeout=30, limit=3)) == 3
        assert len(client.control.inspect(timeout=30, limit=3).active_queues()) == 3
    assert redis_server.ask("LLEN", "celery") == 0
    check_keys(redis_server)


def run(app: Celery, heard: list[str]) -> None:
    """Everything that makes keys."""
    add, tasks = app.tasks["add"], app.tasks
    results = [add.delay(n) for n in range(30)]
    results += [add.apply_async((n,), countdown=0.2, priority=n) for n in range(9)]
    results += [tasks[name].delay(n) for name in ("single", "paced", "only", "seldom") for n in range(6)]
    results += [tasks["again"].delay(), add.apply_async((1,), link=add.s()), chain(add.s(1), add.s())()]
    saved = group(add.s(n) for n in range(5))()
    saved.save()
    results += [saved, chord([add.s(n) for n in range(4)])(tasks["only"].si(77))]
    for result in results:
        assert result.get(timeout=SOON) is not None
    with pytest.raises(ValueError, match="as it should"):
        tasks["fail"].delay().get(timeout=SOON)
    with pytest.raises(ChordError):
        chord([add.s(1), tasks["fail"].s()])(add.s(1)).get(timeout=SOON)
    large = chain(add.s(0), *(tasks["only"].si(10_000 + n) for n in range(60)))
    assert large.apply_async().get(timeout=SOON) == 10_059
    with pytest.raises(ValueError, match="as it should"):
        chain(tasks["fail"].si(), *(add.si(n) for n in range(60)))().get(timeout=SOON)
    later = add.apply_async((1,), countdown=600)
    later.revoke()
    with pytest.raises(TaskRevokedError):
        later.get(timeout=SOON)
    app.control.revoke_by_stamped_headers({"customer": "7"})
    tasks["hear"].apply_async(("a",), exchange="news", routing_key="news")
    tasks["hear"].apply_async(("b",), exchange="news", routing_key="news", countdown=0.2)
    wait(lambda: sorted(heard) == ["a", "a", "b", "b"])
    app.broker.pause(["celery"])
    waiting = add.delay(5)
    app.broker.resume(["celery"])
    assert waiting.get(timeout=SOON) == 6
    app.send_task("nobody.knows.it")
    wait(lambda: app.broker.entries("dead"))
    assert app.broker.remove([entry.tag for entry in app.broker.entries("dead")]) == 1
    beat(app)


def beat(app: Celery) -> None:
    """One tick of a scheduler that has its book in the broker."""
    book = app.broker.book("default")
    lead = book.lead("one", 5.0)
    book.define({"tick": b"every day"})
    book.note("tick", b"sent")
    book.resign(lead.token)
