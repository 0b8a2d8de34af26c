"""Results in Redis, from `delay` to `get`: through a worker whose messages are elsewhere (a split ledger)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from celery import Celery, states
from celery.backends import arrivals
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.exceptions import BackendError, TimeoutError  # noqa: A004 - the public name
from celery.result import AsyncResult, GroupResult, ResultSet
from celery.utils import uuid
from rig.redis import RedisServer, free_port

GOLDEN = Path(__file__).parents[1] / "wire" / "golden" / "results"
SOON = 30.0
DAY = 86_400
FIELDS = ["status", "result", "traceback", "children", "date_done", "task_id"]

MakeApp = Callable[..., Celery]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def make_app(redis_url: str) -> Iterator[MakeApp]:
    made: list[Celery] = []

    def make(**conf: Any) -> Celery:
        app = TestApp(broker=conf.pop("broker", None), backend=conf.pop("backend", redis_url))
        app.conf.update(conf)

        @app.task(shared=False)
        def echo(value: Any = None) -> Any:
            return value

        @app.task(shared=False)
        def fail(text: str) -> None:
            raise KeyError(text)

        @app.task(shared=False, bind=True)
        def progress(self: Any) -> str:
            self.update_state(state="HALFWAY", meta={"done": 50})
            return "done"

        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app()


def work(app: Celery) -> AbstractContextManager[Any]:
    return start_worker(app, pool="threads", concurrency=2, perform_ping_check=False)


def task(app: Celery, name: str) -> Any:
    return app.tasks[f"{__name__}.{name}"]


def calls(client: redis.Redis) -> dict[str, int]:
    """How often the server has carried out each command since CONFIG RESETSTAT, this one not counted."""
    return {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}


def key(result: AsyncResult[Any]) -> str:
    return f"celery-task-meta-{result.id}"


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_a_result_is_stored_as_the_original_stores_it(app: Celery, client: redis.Redis) -> None:
    with work(app):
        result = task(app, "echo").delay({"x": [1, None, "é"]})
        assert result.get(timeout=SOON) == {"x": [1, None, "é"]}
    stored = json.loads(client.get(key(result)))
    assert list(stored) == FIELDS
    assert stored | {"date_done": None} == {
        "status": "SUCCESS",
        "result": {"x": [1, None, "é"]},
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": result.id,
    }
    assert stored["date_done"].endswith("+00:00")
    assert DAY - 60 < client.ttl(key(result)) <= DAY
    assert client.keys("*") == [key(result).encode()]


def test_a_failure_is_stored_as_the_original_stores_it(app: Celery, client: redis.Redis) -> None:
    with work(app):
        result = task(app, "fail").delay("gone")
        with pytest.raises(KeyError, match="gone"):
            result.get(timeout=SOON)
    stored = json.loads(client.get(key(result)))
    assert list(stored) == FIELDS
    assert stored["status"] == "FAILURE"
    assert stored["result"] == {"exc_type": "KeyError", "exc_message": ["gone"], "exc_module": "builtins"}
    assert "KeyError" in stored["traceback"]
    assert set(client.keys("*")) == {key(result).encode(), f"celeriac.final.{key(result)}".encode()}
    result.forget()
    assert client.keys("*") == []


@pytest.mark.parametrize(
    ("conf", "success", "failure"),
    [
        ({"result_expires": 100}, 100, 100),
        ({"result_expires": None}, -1, -1),
        ({"result_expires": 0}, -1, -1),
        ({"result_expires": 100, "result_failure_expires": 500}, 100, 500),
    ],
)
def test_results_end_when_the_settings_say_so(
    make_app: MakeApp, client: redis.Redis, conf: dict[str, Any], success: int, failure: int
) -> None:
    app = make_app(**conf)
    with work(app):
        results = [task(app, "echo").delay(1), task(app, "fail").delay("x")]
        for result in results:
            result.get(timeout=SOON, propagate=False)
    for result, expires in zip(results, (success, failure), strict=True):
        left = client.ttl(key(result))
        assert left == expires == -1 or expires - 60 < left <= expires
    assert client.ttl(f"celeriac.final.{key(results[1])}") == client.ttl(key(results[1]))


def test_extended_results_say_what_ran(make_app: MakeApp, client: redis.Redis) -> None:
    app = make_app(result_extended=True)
    with work(app):
        result = task(app, "echo").delay(7)
        result.get(timeout=SOON)
    stored = json.loads(client.get(key(result)))
    assert {name: stored[name] for name in ("name", "args", "kwargs", "retries", "queue")} == {
        "name": task(app, "echo").name, "args": [7], "kwargs": {}, "retries": 0, "queue": "celery",
    }  # fmt: skip
    assert result.args == [7]


def test_compressed_results_are_read_by_everybody(make_app: MakeApp, client: redis.Redis) -> None:
    writer, reader = make_app(result_compression="gzip"), make_app()
    with work(writer):
        results = [task(writer, "echo").delay("x" * 5000), task(writer, "fail").delay("y")]
        assert results[0].get(timeout=SOON) == "x" * 5000
        assert isinstance(results[1].get(timeout=SOON, propagate=False), KeyError)
    assert client.get(key(results[0])).startswith(b"\x00celery-compressed\x00application/x-gzip\x00")
    assert client.strlen(key(results[0])) < 500
    assert reader.AsyncResult(results[0].id).get() == "x" * 5000
    # What cannot be read by the server is final all the same.
    reader.backend.store_result(results[0].id, "late", states.FAILURE)
    assert reader.AsyncResult(results[0].id).get() == "x" * 5000


@pytest.mark.parametrize("serializer", ["msgpack", "pickle", "yaml"])
def test_results_in_other_serializers(make_app: MakeApp, serializer: str) -> None:
    app = make_app(result_serializer=serializer, accept_content=["json", serializer])
    with work(app):
        result = task(app, "echo").delay([1, "é"])
        assert result.get(timeout=SOON) == [1, "é"]
        app.backend.store_result(result.id, "late", states.FAILURE)
        assert app.AsyncResult(result.id).get() == [1, "é"]


@pytest.mark.parametrize(("prefix", "start"), [("site", "site_"), ("site:", "site:"), ("{site}.", "{site}.")])
def test_a_prefix_comes_before_every_key_and_channel(
    make_app: MakeApp, client: redis.Redis, prefix: str, start: str
) -> None:
    app = make_app(result_backend_transport_options={"global_keyprefix": prefix})
    with work(app):
        result = task(app, "fail").delay("x")
        result.get(timeout=SOON, propagate=False)
    stored = f"{start}{key(result)}"
    assert {name.decode() for name in client.keys("*")} == {stored, f"{prefix}celeriac.final.{stored}"}


def test_the_database_is_that_of_the_url(make_app: MakeApp, redis_url: str, client: redis.Redis) -> None:
    app = make_app(backend=redis_url.removesuffix("/0") + "/5")
    with work(app):
        assert task(app, "echo").delay(1).get(timeout=SOON) == 1
    assert client.dbsize() == 0
    client.select(5)
    assert client.dbsize() == 1


@pytest.mark.parametrize("scheme", ["unix", "socket", "redis+socket"])
def test_the_server_may_be_behind_a_socket_file(
    make_app: MakeApp, server: Callable[[str], Path], tmp_path: Path, scheme: str
) -> None:
    running = RedisServer(server("redis"), tmp_path / "server", unixsocket=tmp_path / "s")
    app = make_app(backend=f"{scheme}://{tmp_path}/s?virtual_host=2")
    try:
        with work(app):
            assert task(app, "echo").delay(1).get(timeout=SOON) == 1
        with redis.Redis.from_url(running.url(2)) as client:
            assert client.dbsize() == 1
    finally:
        app.close()
        running.stop()


# -- what the original stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(set(GOLDEN.glob("*.json")) - {GOLDEN / "group.json"}), ids=lambda p: p.stem)
def test_results_of_original_workers_are_read(app: Celery, client: redis.Redis, path: Path) -> None:
    value = path.read_bytes()
    meta = json.loads(value)
    result: AsyncResult[Any] = app.AsyncResult(meta["task_id"])
    client.set(key(result), value, ex=DAY)
    assert result.state == meta["status"]
    assert result.date_done is None or result.date_done.isoformat() == meta["date_done"]
    assert [child.id for child in result.children or []] == [child[0][0] for child in meta["children"]]
    if meta["status"] == states.SUCCESS and "specials" not in path.stem:
        assert result.get(timeout=SOON) == meta["result"]
    elif meta["status"] == states.FAILURE:
        assert type(result.get(timeout=SOON, propagate=False)).__name__ == meta["result"]["exc_type"]


def test_a_result_of_an_original_worker_wakes_who_waits(app: Celery, client: redis.Redis) -> None:
    """It is written as SETEX and PUBLISH in a MULTI."""
    meta = json.loads((GOLDEN / "success.json").read_bytes())
    result: AsyncResult[Any] = app.AsyncResult(meta["task_id"])
    with ThreadPoolExecutor(1) as pool:
        value = pool.submit(result.get, timeout=SOON)
        while not client.pubsub_numsub(key(result))[0][1]:
            assert not value.done()
        with client.pipeline() as pipe:
            pipe.set(key(result), json.dumps(meta), ex=DAY)
            pipe.publish(key(result), json.dumps(meta))
            pipe.execute()
        assert value.result(SOON) == meta["result"]


def test_a_saved_group_of_the_original_is_restored_and_saved_the_same(app: Celery, client: redis.Redis) -> None:
    saved = json.loads((GOLDEN / "group.json").read_bytes())
    group_id = saved["result"][0][0]
    client.set(f"celery-taskset-meta-{group_id}", json.dumps(saved), ex=DAY)
    group = GroupResult.restore(group_id, app=app)
    assert group is not None
    assert [member.id for member in group.results] == [child[0][0] for child in saved["result"][1]]
    group.delete()
    assert client.dbsize() == 0
    group.save()
    assert json.loads(client.get(f"celery-taskset-meta-{group_id}")) == saved
    assert DAY - 60 < client.ttl(f"celery-taskset-meta-{group_id}") <= DAY


# -- reading and waiting ----------------------------------------------------------------------------------------------


def test_the_members_of_a_group_are_read_in_one_round_trip(app: Celery, client: redis.Redis) -> None:
    with work(app):
        with app.bulk():
            results = [task(app, "echo").delay(number) for number in range(300)]
        ResultSet(results, app=app).get(timeout=3 * SOON)
    questions: dict[str, Callable[[ResultSet], Any]] = {
        "ready": lambda group: group.ready(),
        "successful": lambda group: group.successful(),
        "completed_count": lambda group: group.completed_count() == 300,
        "get": lambda group: group.get(timeout=SOON) == list(range(300)),
        "not waiting": lambda group: not group.waiting(),
        "not failed": lambda group: not group.failed(),
    }
    for name, question in questions.items():
        group = ResultSet([app.AsyncResult(result.id) for result in results], app=app)
        client.config_resetstat()
        assert question(group), name
        ran = calls(client)
        assert (ran.get("mget"), ran.get("get")) == (1, None), name


def test_a_group_that_is_not_ready_is_read_in_one_round_trip_too(app: Celery, client: redis.Redis) -> None:
    group = ResultSet([app.AsyncResult(f"t{number}") for number in range(100)], app=app)
    app.backend.store_result("t0", 1, states.SUCCESS)
    app.backend.store_result("t1", ValueError("x"), states.FAILURE)
    client.config_resetstat()
    assert [group.ready(), group.successful(), group.waiting(), group.completed_count(), group.failed()] == [
        False, False, True, 1, True,
    ]  # fmt: skip
    ran = calls(client)
    assert (ran.get("mget"), ran.get("get")) == (5, None)


@pytest.mark.parametrize(("make", "reads"), [(lambda number: uuid(), 0), ("t{}".format, 40)], ids=["random", "made up"])
def test_of_many_only_those_that_were_written_are_read_again(
    app: Celery, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], str], reads: int
) -> None:
    """Those with random ids not even then: what was written is in the message."""
    monkeypatch.setattr("celery.backends.results.RECHECK", 10 * SOON)
    ids = [make(number) for number in range(2000)]
    group = ResultSet([app.AsyncResult(task_id) for task_id in ids], app=app)
    ends = group.iter_native(timeout=3 * SOON)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, ends)
        while not client.pubsub_numsub(f"celery-task-meta-{ids[7]}")[0][1]:
            assert not first.done()
        app.backend.store_result(ids[7], 7, states.SUCCESS)
        assert first.result(SOON)[0] == ids[7]
        client.config_resetstat()
        for number in range(20):
            app.backend.store_result(ids[number + 100], number, states.SUCCESS)
            assert pool.submit(next, ends).result(SOON)[0] == ids[number + 100]
    ran = calls(client)
    assert ran.get("mget", 0) == 0
    assert ran.get("get", 0) <= reads
    ends.close()  # type: ignore[attr-defined]


def test_states_in_between_are_seen(app: Celery) -> None:
    with work(app):
        result = task(app, "progress").delay()
        assert result.get(timeout=SOON) == "done"
    app.backend.store_result("other", {"done": 50}, "HALFWAY")
    assert app.AsyncResult("other").info == {"done": 50}
    assert app.AsyncResult("other").state == "HALFWAY"


def test_waiting_ends_with_its_timeout(app: Celery) -> None:
    with pytest.raises(TimeoutError):
        app.AsyncResult("never").get(timeout=0.05)


async def _together(waits: list[Any]) -> list[Any]:
    return await asyncio.gather(*waits)


def test_coroutines_wait_by_the_hundred(app: Celery, client: redis.Redis) -> None:
    async def main() -> list[Any]:
        results = [app.AsyncResult(f"t{number}") for number in range(300)]
        waits = [asyncio.create_task(result.aget(timeout=SOON)) for result in results]
        for number, result in enumerate(results):
            await asyncio.to_thread(app.backend.store_result, result.id, number, states.SUCCESS)
        late = app.AsyncResult("late")
        waits.append(asyncio.create_task(late.aget(timeout=SOON)))
        await asyncio.sleep(0)
        await asyncio.to_thread(app.backend.store_result, "late", "late", states.SUCCESS)
        return await asyncio.gather(*waits)

    assert asyncio.run(main()) == [*range(300), "late"]
    assert len([found for found in client.client_list() if int(found["sub"])]) <= 1


def test_coroutines_that_join_and_leave_miss_nothing(app: Celery, client: redis.Redis) -> None:
    async def one(name: str) -> list[Any]:
        values = []
        for number in range(30):
            result: AsyncResult[int] = app.AsyncResult(f"{name}-{number}")
            wait = asyncio.create_task(result.aget(timeout=SOON))
            await asyncio.to_thread(app.backend.store_result, result.id, number, states.SUCCESS)
            values.append(await wait)
        return values

    async def main() -> list[Any]:
        return await asyncio.gather(*[one(f"c{number}") for number in range(10)])

    app.backend.store_result("first", None, states.SUCCESS)  # makes the script known, should no test have done so yet
    client.config_resetstat()
    assert asyncio.run(main()) == [list(range(30))] * 10
    assert calls(client)["evalsha"] == 300


def test_a_coroutine_that_waits_again_is_told_what_is_so_now(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a task that has ended at once, and of one that was sent again its second end, not the first."""
    monkeypatch.setattr(arrivals, "RECHECK", 10 * SOON)
    id = uuid()

    async def main() -> None:
        other = asyncio.create_task(app.AsyncResult("other").aget())  # so that it is the same watcher all the time
        for number in range(20):
            wait = asyncio.create_task(app.AsyncResult(id).aget(timeout=SOON))
            await asyncio.to_thread(app.backend.store_result, id, number, states.SUCCESS)
            assert await wait == number
            assert await app.AsyncResult(id).aget(timeout=SOON) == number
            await asyncio.to_thread(app.backend.forget, id)
        await asyncio.to_thread(app.backend.store_result, "other", None, states.SUCCESS)
        await other

    asyncio.run(main())


def test_coroutines_are_told_that_the_server_is_gone(make_app: MakeApp) -> None:
    app = make_app(backend=f"redis://127.0.0.1:{free_port()}/0", result_backend_transport_options={"timeout": 0.2})

    async def main() -> list[Any]:
        waits = [app.AsyncResult(f"t{number}").aget(timeout=SOON) for number in range(5)]
        return await asyncio.gather(*waits, return_exceptions=True)

    assert all(isinstance(error, BackendError) for error in asyncio.run(main()))


def test_the_rights_that_the_manual_names_are_enough(
    make_app: MakeApp, server: Callable[[str], Path], tmp_path: Path
) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    line = next(line for line in manual.splitlines() if line.startswith("ACL SETUSER results"))
    running = RedisServer(server("redis"), tmp_path / "server", user=[line.removeprefix("ACL SETUSER ")])
    app = make_app(
        backend=f"redis://results:password@127.0.0.1:{running.port}/0",
        result_backend_transport_options={"global_keyprefix": "site:"},
    )
    try:
        with work(app):
            result = task(app, "fail").delay("x")
            assert isinstance(result.get(timeout=SOON, propagate=False), KeyError)
            result.forget()
    finally:
        app.close()
        running.stop()


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
def test_results_wait_for_a_server_that_is_away(
    make_app: MakeApp, server: Callable[[str], Path], tmp_path: Path, broker: str
) -> None:
    running = RedisServer(server("redis"), tmp_path / "server")
    app = make_app(
        backend=running.url(),
        broker=None if broker == "memory" else f"sqlite:///{tmp_path}/broker.db",
        result_backend_transport_options={"timeout": SOON},
    )
    try:
        with work(app):
            assert task(app, "echo").delay(1).get(timeout=SOON) == 1
            app.backend.store.link.timeout = 0.5
            running.stop()
            results = [task(app, "echo").delay(number) for number in range(20)]
            with pytest.raises(BackendError, match="cannot be reached"):
                results[0].get(timeout=SOON)
            app.backend.store.link.timeout = SOON
            running.start()
            assert [result.get(timeout=3 * SOON) for result in results] == list(range(20))
    finally:
        app.close()
        running.stop()


def test_a_result_that_cannot_be_stored_does_not_keep_others_from_it(app: Celery, client: redis.Redis) -> None:
    client.rpush("celery-task-meta-blocked", "no result")
    with work(app):
        task(app, "echo").apply_async((0,), task_id="blocked")
        results = [task(app, "echo").delay(number) for number in range(5)]
        assert [result.get(timeout=3 * SOON) for result in results] == list(range(5))
        deadline = time.monotonic() + 3 * SOON
        while not (dead := app.broker.entries("dead")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [entry.task_id for entry in dead] == ["blocked"]
    assert "celery-task-meta-blocked holds a list" in dead[0].reason
    with pytest.raises(BackendError, match="celery-task-meta-blocked holds no result"):
        app.AsyncResult("blocked").get(timeout=SOON)
