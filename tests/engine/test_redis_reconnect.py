"""A worker and its connections: lost, remade, few, named. Every pool consumes and answers again within seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.brokers.redis import RedisBroker
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.exceptions import BrokerError
from engine.notes import noted
from rig.proxy import Proxy
from rig.redis import RedisServer

NODE = "w1@here"
GREEN = os.environ.get("GREEN_POOL")
"""The pool to test, in a process that gevent or eventlet has taken over: see `test_green_engine`."""
AGAIN = 20.0
"""Seconds in which tasks are run and commands answered when the server is back, on the slowest machine. `tests/crash`
and the benchmarks look at how soon it is; what waited for a lease to end would take longer than this."""
TASKS = 30


@pytest.fixture(params=[GREEN] if GREEN else ["solo", "threads", "prefork", "asyncio"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def durable(server: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test, which has written to disk what it has answered."""
    running = RedisServer(server("redis"), tmp_path / "server", appendonly="yes", appendfsync="always")
    yield running
    running.resume()
    running.stop()


@pytest.fixture
def make_app(make_app: Callable[..., Celery]) -> Callable[..., Celery]:
    """`make_app(url, **options)`: everything at one address, with these options for the transport."""
    return lambda url, **options: make_app(url, url, broker_transport_options=options)


def work(app: Celery, pool: str, **options: Any) -> AbstractContextManager[TestWorkController]:
    given = {
        "pool": pool,
        "concurrency": 2,
        "hostname": NODE,
        "perform_ping_check": False,
        "shutdown_timeout": 60.0,
        **options,
    }
    return start_worker(app, **given)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def answers(app: Celery) -> bool:
    try:
        return app.control.ping(timeout=1.0, limit=1) == [{NODE: {"ok": "pong"}}]
    except BrokerError:  # within the time that this client has for a request, which is short here
        return False


# -- lost and remade ---------------------------------------------------------------------------------------------------


def restart(server: RedisServer) -> None:
    server.restart()


def kill(server: RedisServer) -> None:
    server.restart(kill=True)


def cut_requests(server: RedisServer) -> None:
    assert server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1


def cut_listeners(server: RedisServer) -> None:
    wait_until(lambda: [each["flags"] for each in connections(server)].count("P") >= 2)
    assert server.ask("CLIENT", "KILL", "TYPE", "pubsub") >= 2


def stand_still(server: RedisServer) -> None:
    """For longer than any request of the worker waits."""
    server.pause()
    ends = time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() > ends)
    server.resume()


@pytest.mark.parametrize("trouble", [restart, kill, cut_requests, cut_listeners, stand_still])
def test_trouble_amid_work(
    durable: RedisServer,
    make_app: Callable[..., Celery],
    tmp_path: Path,
    pool: str,
    trouble: Callable[..., None],
    jobs: Any,
) -> None:
    """What was accepted is done, once; what is sent afterwards too; commands are answered."""
    # Every write goes to a disk here, which others use too: only where it is the point is the wait short.
    app, log = make_app(durable.url(), timeout=2.5 if trouble is stand_still else 15.0), tmp_path / "log"
    with work(app, pool) as worker:
        with app.bulk():
            results = [jobs.mark.delay(str(log), str(number), 0.01) for number in range(TASKS)]
        wait_until(lambda: len(noted(log)) > 3)
        trouble(durable)
        back = time.monotonic()
        assert [result.get(timeout=AGAIN) for result in results] == [str(number) for number in range(TASKS)]
        assert jobs.add.delay(1, 2).get(timeout=AGAIN) == 3
        wait_until(lambda: answers(app))
        assert time.monotonic() - back < AGAIN
        wait_until(lambda: worker.consumer is not None and worker.consumer.connected)
    assert noted(log) == {str(number): 1 for number in range(TASKS)}
    [stats] = make_app(durable.url(), timeout=15.0).broker.stats(["celery"])
    assert (stats.ready, stats.leased, stats.delayed, stats.dead) == (0, 0, 0, 0)


def test_a_server_that_is_away_for_a_while(
    durable: RedisServer,
    make_app: Callable[..., Celery],
    pool: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    jobs: Any,
) -> None:
    """What runs meanwhile is finished and committed when it is back. The log has a line for each end of it."""
    app, log = make_app(durable.url(), timeout=5.0), tmp_path / "log"
    with work(app, pool, loglevel="INFO") as worker:
        running = jobs.early_at_gate.delay(str(log), "running", str(tmp_path / "gate"))
        wait_until(lambda: noted(log)["running"])
        durable.kill()
        (tmp_path / "gate").touch()
        wait_until(lambda: worker.consumer is not None and not worker.consumer.connected)
        durable.start()
        back = time.monotonic()
        assert running.get(timeout=AGAIN) == "running"
        assert jobs.add.delay(1, 2).get(timeout=AGAIN) == 3
        wait_until(lambda: answers(app))
        assert time.monotonic() - back < AGAIN
    assert noted(log) == {"running": 1}
    said = [record.getMessage() for record in caplog.records if record.name == "celery.worker.consumer"]
    assert sum("Lost the broker" in line for line in said) == 1
    assert sum("again: nothing was lost" in line for line in said) == 1


def test_an_idle_worker_notices_half_open_connections(
    redis_server: RedisServer, redis_url: str, make_app: Callable[..., Celery], jobs: Any
) -> None:
    """Its connections lead nowhere, and nobody says so: as after a fail-over, or behind a router that forgot them."""
    client = make_app(redis_url)
    with Proxy(redis_server.port) as proxy:
        app = make_app(proxy.url(), timeout=2.0, health_check_interval=1.0)  # as they are: 10 s
        with work(app, "threads"):
            wait_until(lambda: answers(client))
            assert proxy.abandon() >= 3
            gone = time.monotonic()
            assert client.send_task("engine.jobs.add", (1, 2)).get(timeout=30) == 3
            wait_until(lambda: answers(client))
            assert time.monotonic() - gone < AGAIN
        app.close()


def test_a_lease_that_ran_out_during_an_outage_is_begun_anew(
    durable: RedisServer, make_app: Callable[..., Celery], tmp_path: Path, jobs: Any
) -> None:
    """Somebody else has the tasks by then: this worker says what it dropped, and goes on."""
    app, log = make_app(durable.url(), timeout=1.0, lease=0.6), tmp_path / "log"
    with Proxy(durable.port) as proxy:
        cut_off = make_app(proxy.url(), timeout=1.0, lease=0.6)
        with work(cut_off, "threads", concurrency=1) as worker:
            result = jobs.late.apply_async((str(log), "late"), kwargs={"seconds": 2.0})
            wait_until(lambda: noted(log)["late"])
            proxy.swallow()
            with work(app, "threads", hostname="w2@here"):
                wait_until(lambda: noted(log)["late"] >= 2)
                proxy.heal()
                assert result.get(timeout=30) == "late"
                assert worker.consumer is not None
                wait_until(lambda: worker.consumer is not None and not worker.consumer.requests())
        [stats] = app.broker.stats(["celery"])
        assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)
        cut_off.close()


# -- few, and named ----------------------------------------------------------------------------------------------------


def connections(server: RedisServer, beside: Sequence[dict[str, str]] = ()) -> list[dict[str, str]]:
    """What CLIENT LIST says of all but the one that asks, and *beside* those that there were before."""
    lines = server.ask("CLIENT", "LIST").decode().splitlines()
    found = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
    known = {connection["id"] for connection in beside}
    return [each for each in found if not each["cmd"].startswith("client") and each["id"] not in known]


def total_commands(server: RedisServer) -> int:
    lines = server.ask("INFO", "stats").decode().splitlines()
    return int(next(line for line in lines if line.startswith("total_commands_processed:")).partition(":")[2])


def test_an_idle_worker_has_three_connections_that_bear_its_name_and_asks_little(
    redis_server: RedisServer,
    make_app: Callable[..., Celery],
    redis_url: str,
    jobs: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One to ask on, one on which it is told of messages, one for remote control; after work as before it.

    Two threads that ask at the same moment have one more; a later request closes it, such as the one for the lease.
    """
    monkeypatch.setattr("celery.redis.link.SURPLUS", 0.2)
    before, client, app = connections(redis_server), make_app(redis_url), make_app(redis_url)

    def ours() -> list[dict[str, str]]:
        return [each for each in connections(redis_server) if each["name"] == f"celery:{os.getpid()}:{NODE}"]

    with work(app, "prefork"):
        wait_until(lambda: len(ours()) == 3)
        for number in range(20):
            assert client.send_task("engine.jobs.add", (number, 1)).get(timeout=30) == number + 1
        wait_until(lambda: sorted(each["flags"] for each in ours()) == ["P", "P", "t"])
        client.close()
        wait_until(
            lambda: [each["id"] for each in connections(redis_server, before)] == [each["id"] for each in ours()]
        )
        # Now and then it looks for workers that are gone, which takes a command for each that this server knows of.
        for _ in range(4):
            asked, used, began = total_commands(redis_server), time.process_time(), time.monotonic()
            wait_until(lambda: time.monotonic() - began > 2.0)  # noqa: B023 - called here only
            seconds = time.monotonic() - began
            asks = (total_commands(redis_server) - asked) / seconds  # what scripts do counts too
            if asks < 20:
                break
        assert asks < 20
        assert (time.process_time() - used) / seconds < 0.1  # this test is in that; a loop that spins would be 1


def test_what_a_consumer_had_that_left_is_closed(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where others have used its connection since: workers change consumers with their queues."""
    monkeypatch.setattr("celery.redis.link.SURPLUS", 0.05)
    before = connections(redis_server)
    with RedisBroker(redis_url) as broker:
        former, consumer = broker.consumer(["a"], name="former"), broker.consumer(["b"], name="now")
        former.claim(1)
        consumer.claim(1)
        former.close()
        with broker.link.lane():
            broker.stats()
        wait_until(lambda: broker.stats() is not None and len(connections(redis_server, before)) == 2)
        consumer.close()


def test_who_sends_from_one_thread_has_one_connection(
    redis_server: RedisServer, make_app: Callable[..., Celery], redis_url: str, jobs: Any
) -> None:
    before, app = connections(redis_server), make_app(redis_url)
    app.conf.task_ignore_result = True
    for number in range(50):
        jobs.mark_only.delay("log", str(number))
    with app.bulk():
        for number in range(50):
            jobs.mark_only.apply_async(("log", str(number)), countdown=60)
    [connection] = connections(redis_server, before)
    assert connection["name"].startswith(f"celery:{os.getpid()}@")


def test_threads_that_send_share_connections(
    redis_server: RedisServer, make_app: Callable[..., Celery], redis_url: str, jobs: Any
) -> None:
    before, app = connections(redis_server), make_app(redis_url)
    app.conf.broker_pool_limit = 3
    app.broker.connect()

    def send() -> None:
        for number in range(40):
            app.send_task("engine.jobs.add", (number, 1), ignore_result=True)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= len(connections(redis_server, before)) <= 3
    assert app.broker.stats(["celery"])[0].ready == 320
