"""Results over `rpc://`: what holds with every broker. What is RabbitMQ's alone is in `test_rabbitmq_rpc`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, chord, group, uuid
from celery.bridge import replies
from celery.brokers.base import Broker
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError  # noqa: A004
from celery.result import AsyncResult
from celery.wire.message import Outgoing
from rig.redis import RedisServer
from rig.rpc import rpc_app

SOON = 30.0
MakeApp = Callable[..., Celery]


@pytest.fixture(scope="session", params=["memory", "sqlite", "redis", "rabbitmq", "files", "sql"])
def kind(request: pytest.FixtureRequest) -> str:
    """What carries messages. Decided before a test begins, which servers outlive."""
    if request.param in {"redis", "rabbitmq"}:
        request.getfixturevalue(f"{request.param}_server")
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The arguments of `rpc_app` for an empty broker."""
    if kind in {"redis", "rabbitmq"}:
        return {"broker": request.getfixturevalue(f"{kind}_url")}
    if kind == "files":
        (tmp_path / "data").mkdir()
        options = {f"data_folder_{way}": str(tmp_path / "data") for way in ("in", "out")}
        options["control_folder"] = str(tmp_path / "control")
        return {"broker": "filesystem://", "broker_transport_options": {**options, "polling_interval": 0.02}}
    if kind == "sql":
        url = f"sqla+sqlite:///{tmp_path}/broker.sql"
        return {"broker": url, "broker_transport_options": {"polling_interval": 0.02}}
    return {"broker": f"sqlite:///{tmp_path}/broker.db" if kind == "sqlite" else f"memory://{tmp_path.name}"}


@pytest.fixture
def make_app(place: dict[str, Any]) -> Iterator[MakeApp]:
    """`make_app(**settings)`: an app on the broker of the test, in which nothing works unless `work` is there."""
    with ExitStack() as stack:

        def made(**settings: Any) -> Celery:
            app = rpc_app(**place, **settings)
            stack.callback(app.close)
            return app

        yield made


@pytest.fixture
def client(make_app: MakeApp) -> Celery:
    return make_app()


@pytest.fixture
def work(make_app: MakeApp) -> Iterator[Celery]:
    """An app with a worker."""
    app = make_app()
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
        yield app


def waiting(broker: Broker, name: str) -> int:
    return sum(stats.ready for stats in broker.stats([name]))


# -- what a client asks for -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("work")
def test_results_come_to_whoever_has_sent_the_task(client: Celery) -> None:
    add = client.tasks["add"]
    result = add.delay(1, 2)
    assert result.get(timeout=SOON) == 3
    assert (result.state, result.ready(), result.successful(), result.exists()) == ("SUCCESS", True, True, True)
    assert client.AsyncResult(result.id).get(timeout=SOON) == 3, "also by its id"
    chained = (add.s(1, 1) | add.s(10)).delay()
    assert (chained.get(timeout=SOON), chained.parent.get(timeout=SOON)) == (12, 2)
    failed = client.tasks["fail"].delay()
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=SOON)
    assert failed.failed()
    assert "no" in str(failed.traceback)
    result.forget()
    assert client.AsyncResult(result.id).state == "PENDING"
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        client.AsyncResult(result.id).get(timeout=0.05)


@pytest.mark.usefixtures("work")
def test_groups_are_gathered_as_they_end(client: Celery) -> None:
    add = client.tasks["add"]
    sent = group(add.s(number, 0) for number in range(50)).delay()
    assert sent.get(timeout=SOON) == list(range(50))
    sent = group(add.s(number, 0) for number in range(9)).delay()
    assert sorted(sent.get(timeout=SOON, order="completion")) == list(range(9))
    assert {meta["result"] for _, meta in sent.iter_native(timeout=SOON)} == set(range(9))
    mixed = group([add.s(1, 1), client.tasks["fail"].s()]).delay()
    with pytest.raises(ValueError, match="no"):
        mixed.join(timeout=SOON)
    assert mixed.join(timeout=SOON, propagate=False)[0] == 2
    with pytest.raises(NotImplementedError, match="result store"):
        sent.save()
    with pytest.raises(NotImplementedError, match="result store"):
        client.GroupResult.restore(sent.id)
    with pytest.raises(NotImplementedError, match="result store"):
        sent.delete()


@pytest.mark.usefixtures("work")
def test_every_state_comes(client: Celery) -> None:
    def states(name: str, count: int) -> list[str]:
        seen: list[str] = []
        done, task_id = threading.Event(), uuid()

        def tell(task_id: str, meta: dict[str, Any]) -> None:
            seen.append(meta["status"])
            if len(seen) == count:
                done.set()

        client.backend.inbox.tell([task_id], tell)
        client.tasks[name].apply_async(task_id=task_id)
        assert done.wait(SOON), seen
        return seen

    assert states("steps", 3) == ["STARTED", "PROGRESS", "SUCCESS"]
    assert states("again", 3) == ["RETRY", "RETRY", "SUCCESS"]
    assert states("fail", 1) == ["FAILURE"]
    assert states("only", 1) == ["PROGRESS"]


@pytest.mark.usefixtures("work")
def test_on_message_sees_every_state_of_what_is_waited_for(client: Celery) -> None:
    seen: list[str] = []
    client.tasks["add"].delay(1)
    result = client.tasks["steps"].delay()
    assert result.get(timeout=SOON, on_message=lambda meta: seen.append(meta["status"])) == "end"
    assert seen[-1] == "SUCCESS"
    assert set(seen) <= {"STARTED", "PROGRESS", "SUCCESS"}


@pytest.mark.usefixtures("work")
def test_a_state_before_the_end_is_known(client: Celery) -> None:
    result = client.tasks["only"].delay()
    came = threading.Event()
    client.backend.inbox.tell([result.id], lambda task_id, meta: came.set())
    assert came.wait(SOON)
    assert (result.state, result.info) == ("PROGRESS", {"done": 2})


# -- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("work")
def test_each_thread_has_a_queue_and_any_thread_waits(client: Celery) -> None:
    add = client.tasks["add"]
    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(add.delay, range(60)))
        values = list(pool.map(lambda result: result.get(timeout=SOON), reversed(sent)))
    assert values == list(range(60))[::-1]
    assert [result.get(timeout=SOON) for result in sent] == list(range(60))


@pytest.mark.usefixtures("work")
def test_several_threads_wait_for_one_result(client: Celery) -> None:
    sent = group(client.tasks["add"].s(number) for number in range(5)).delay()
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: sent.get(timeout=SOON), range(5)))
    assert found == [list(range(5))] * 5


@pytest.mark.usefixtures("work")
def test_coroutines_wait_too(client: Celery) -> None:
    async def main() -> list[Any]:
        sent = [client.tasks["add"].delay(number) for number in range(10)]
        gathered = await asyncio.gather(*(result.aget(timeout=SOON) for result in sent))
        return [gathered, await client.GroupResult("g", sent).aget(timeout=SOON)]

    assert asyncio.run(main()) == [list(range(10))] * 2

    async def in_vain() -> None:
        await client.AsyncResult("nobody's").aget(timeout=0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(in_vain())


@pytest.mark.usefixtures("work")
def test_nobody_else_learns_anything(client: Celery, make_app: MakeApp) -> None:
    result = client.tasks["add"].delay(1, 2)
    assert result.get(timeout=SOON) == 3
    other: AsyncResult[int] = make_app().AsyncResult(result.id)
    assert (other.state, other.ready(), other.result, other.exists()) == ("PENDING", False, None, False)
    with pytest.raises(TimeoutError):
        other.get(timeout=0.05)


def test_a_forked_child_has_a_queue_of_its_own(kind: str, work: Celery, client: Celery) -> None:
    if kind == "memory":
        pytest.skip("capability: the broker of another process is another one")
    add = client.tasks["add"]
    before = add.delay(1, 2)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, json.dumps([add.delay(20, 22).get(timeout=SOON), client.backend.oid]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        value, oid = json.loads(answer.read())
    os.waitpid(pid, 0)
    assert value == 42
    assert oid != client.backend.oid
    assert before.get(timeout=SOON) == 3
    assert add.delay(2, 2).get(timeout=SOON) == 4


def test_results_that_may_not_be_read_are_told_to_who_waits(work: Celery, make_app: MakeApp) -> None:
    work.conf.result_serializer = "json"
    client = make_app(result_accept_content=["yaml"])
    result = client.tasks["add"].delay(1, 2)
    with pytest.raises(Exception, match="json"):
        result.get(timeout=SOON)


# -- clients that come and go -----------------------------------------------------------------------------------------


def test_closing_takes_the_queues_with_it_and_they_may_be_opened_again(
    client: Celery, work: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    add, names = client.tasks["add"], [client.thread_oid]

    def send() -> None:
        names.append(client.thread_oid)
        assert add.delay(1).get(timeout=SOON) == 1

    send()
    other = threading.Thread(target=send)
    other.start()
    other.join()
    assert len(set(names)) == 2
    client.backend.close()
    for name in names:
        assert name not in {stats.name for stats in work.broker.stats()}
        assert waiting(work.broker, name) == 0
    assert add.delay(2).get(timeout=SOON) == 2
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_client_that_has_gone_fails_no_task(client: Celery, work: Celery, caplog: pytest.LogCaptureFixture) -> None:
    gone = [client.tasks[name].apply_async(reply_to="gone").id for name in ("only", "steps")]
    assert client.tasks["add"].delay(1).get(timeout=SOON) == 1
    deadline = time.monotonic() + SOON
    while any(stats.ready or stats.leased for stats in work.broker.stats(["celery"])):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [stats.dead for stats in work.broker.stats(["celery"])] == [0]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [client.AsyncResult(task_id).state for task_id in gone] == ["PENDING"] * 2


def test_results_for_a_client_that_has_gone_do_not_pile_up_where_they_can_be_told(
    kind: str, client: Celery, request: pytest.FixtureRequest
) -> None:
    """Redis, which does not see who listens, has them expire; in a folder and in SQL they are there to be purged."""
    envelope = client.amqp.outgoing("add", (1,)).envelope
    client.broker.publish([Outgoing(envelope, "gone", reply=True, expires=client.broker.clock.time() + 100.0)])
    assert "gone" not in {stats.name for stats in client.broker.stats()}
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        assert 0 < server.ask("PTTL", "gone") <= 100_000
    elif kind in {"files", "sql"}:
        assert waiting(client.broker, "gone") == client.broker.purge("gone") == 1
    assert waiting(client.broker, "gone") == 0 or kind == "redis"


def test_chords_are_refused_by_brokers_that_cannot_count(kind: str, client: Celery) -> None:
    if kind == "rabbitmq":
        pytest.skip("capability: this broker counts the parts of chords")
    add = client.tasks["add"]
    with pytest.raises(NotImplementedError, match="only with RabbitMQ"):
        chord([add.s(1)], add.s()).delay()


# -- kombu's transports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files", "sql"], indirect=True, scope="session")
@pytest.mark.usefixtures("work", "kind")
def test_who_has_sent_nothing_for_long_looks_seldom_and_hears_all(
    make_app: MakeApp, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "RECENT", 0.0)
    del place["broker_transport_options"]["polling_interval"]
    client = make_app()
    for number in range(2):
        assert client.tasks["add"].delay(number).get(timeout=SOON) == number
