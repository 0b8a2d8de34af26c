"""The classes that other packages subclass, used as those packages use them; and our own over the memory store."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, chord, states
from celery.app import trace
from celery.app.context import Context
from celery.app.runner import make_runner
from celery.backends.base import (
    BaseBackend,
    BaseDictBackend,
    DisabledBackend,
    KeyValueStoreBackend,
    ResultBackend,
    get_current_task,
)
from celery.exceptions import BackendStoreError, ImproperlyConfigured, TaskRevokedError, TimeoutError  # noqa: A004
from celery.result import AsyncResult, GroupResult, result_from_tuple
from celery.utils import uuid
from celery.wire.message import Job


class TableBackend(BaseDictBackend):
    """As django-celery-results does it: a row for each task, contents encoded one by one."""

    subpolling_interval = 0.01

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, Any] = {}
        self.parts: list[Any] = []
        self.failing = 0

    def encode_content(self, data: Any) -> tuple[str, str, Any]:
        content_type, content_encoding, content = self._encode(data)
        if content_encoding == "binary":
            content = base64.b64encode(content).decode()  # type: ignore[arg-type]
        return content_type, content_encoding, content

    def decode_content(self, row: dict[str, Any], content: Any) -> Any:
        if content:
            if row["content_encoding"] == "binary":
                content = base64.b64decode(content)
            return self.decode(content)
        return None

    def _store_result(  # type: ignore[override]
        self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None, using: Any = None
    ) -> Any:
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the table is away")
        content_type, content_encoding, content = self.encode_content(result)
        _, _, meta = self.encode_content({"children": self.current_task_children(request)})
        self.rows[task_id] = {
            "task_id": task_id,
            "status": status,
            "result": content,
            "traceback": traceback,
            "meta": meta,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "task_name": getattr(request, "task", None),
            "worker": getattr(request, "hostname", None),
        }
        return content

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self.rows.get(task_id)
        if row is None:
            return {"status": states.PENDING, "result": None}
        found = dict(row)
        meta = self.decode_content(row, found.pop("meta")) or {}
        result = self.decode_content(row, found["result"])
        found.update(meta, result=result)
        return self.meta_from_decoded(found)

    def _forget(self, task_id: str) -> None:
        self.rows.pop(task_id, None)

    def _save_group(self, group_id: str, group_result: GroupResult) -> GroupResult:
        self.groups[group_id] = self.encode_content(group_result.as_tuple())[2]
        return group_result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        content = self.groups.get(group_id)
        if content is None:
            return None
        return {"result": result_from_tuple(self.decode(content), app=self.app)}

    def _delete_group(self, group_id: str) -> None:
        self.groups.pop(group_id, None)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, ConnectionError)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        self.parts.append((request.id, state, result))


class DictBackend(KeyValueStoreBackend):
    """A key value store in a dictionary, as a cache backend is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.values: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        return self.values.get(key)

    def set(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: Any) -> None:
        self.values.pop(key, None)


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid()
    app = Celery("backends", broker=f"memory://{name}", backend=f"memory://{name}", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def table(app: Celery) -> TableBackend:
    return TableBackend(app=app)


def with_backend(app: Celery, backend: Any, function: Any, **options: Any) -> Any:
    task = app.task(function, name=f"task-{uuid()}", shared=False, **options)
    task.backend = backend
    return task


# -- a backend of others -----------------------------------------------------------------------------------------------


def test_a_subclass_stores_and_reads_successes_and_failures(table: TableBackend) -> None:
    table.mark_as_done("a", {"x": 1}, request=Context(id="a", task="t", hostname="w@h"))
    table.mark_as_failure("b", KeyError("k"), "TB", request=Context(id="b"))
    table.mark_as_revoked("c", "why")
    table.mark_as_started("d", pid=1)
    table.mark_as_retry("e", ValueError("v"))

    assert table.rows["a"]["result"] == '{"x":1}'
    assert (table.rows["a"]["task_name"], table.rows["a"]["worker"]) == ("t", "w@h")
    assert (table.get_state("a"), table.get_result("a"), table.get_children("a")) == (states.SUCCESS, {"x": 1}, [])
    assert repr(table.get_result("b")) == "KeyError('k')"
    assert (table.get_traceback("b"), table.get_status("b")) == ("TB", states.FAILURE)
    assert isinstance(table.get_result("c"), TaskRevokedError)
    assert table.get_result("d") == {"pid": 1}
    assert (table.get_state("e"), repr(table.get_result("e"))) == (states.RETRY, "ValueError('v')")
    assert (table.task_result_exists("a"), table.task_result_exists("z")) == (True, False)
    table.forget("a")
    assert table.get_state("a") == states.PENDING


def test_results_of_a_subclass_are_waited_for_by_looking(app: Celery, table: TableBackend) -> None:
    result: AsyncResult[Any] = AsyncResult("a", backend=table, app=app)

    def arrive() -> None:
        table.mark_as_done("a", 3)

    assert result.get(timeout=10, interval=0.001, on_interval=arrive) == 3
    with pytest.raises(TimeoutError):
        AsyncResult("z", backend=table, app=app).get(timeout=0.01, interval=0.001)
    assert asyncio.run(AsyncResult("a", backend=table, app=app).aget(timeout=10)) == 3

    async def late() -> None:
        with pytest.raises(TimeoutError):
            await AsyncResult("z", backend=table, app=app).aget(timeout=0.01, interval=0.001)

    asyncio.run(late())


def test_groups_of_a_subclass(app: Celery, table: TableBackend) -> None:
    group = app.GroupResult("G", [app.AsyncResult("a")])
    group.save(backend=table)
    assert app.GroupResult.restore("G", backend=table) == group
    table.delete_group("G")
    assert table.restore_group("G") is None


def test_a_worker_stores_in_a_subclass_itself(app: Celery, table: TableBackend) -> None:
    task = with_backend(app, table, lambda x: 1 / x)
    runner = make_runner(app, "w@h")
    outcomes = [runner(Job(x, app.amqp.outgoing(task.name, (x,), {}, task_id=f"id-{x}").envelope)) for x in range(2)]

    assert [outcome.records for outcome in outcomes] == [(), ()]
    assert [outcome.state for outcome in outcomes] == [states.FAILURE, states.SUCCESS]
    assert isinstance(table.get_result("id-0"), ZeroDivisionError)
    assert table.get_result("id-1") == 1.0


def test_the_start_is_stored_where_no_worker_does_it(app: Celery, table: TableBackend) -> None:
    seen: list[Any] = []

    def look(self: Any) -> None:
        seen.append(table.get_task_meta(self.request.id))

    task = with_backend(app, table, look, bind=True, track_started=True)
    trace.build_tracer(task.name, task, app=app, hostname="w@h")("a", (), {}, {"id": "a"})

    assert seen[0]["status"] == states.STARTED
    assert seen[0]["result"].keys() == {"pid", "hostname"}


def test_parts_of_a_chord_reach_a_subclass(app: Celery, table: TableBackend) -> None:
    task = with_backend(app, table, lambda x: 1 / x)
    tracer = trace.build_tracer(task.name, task, app=app)

    tracer("good", (1,), {}, {"id": "good", "chord": {"task": "body"}})
    tracer("bad", (0,), {}, {"id": "bad", "chord": {"task": "body"}})

    assert [(id, state) for id, state, _ in table.parts] == [("good", states.SUCCESS), ("bad", states.FAILURE)]


def test_a_storage_that_fails_is_tried_again_on_demand(app: Celery, table: TableBackend) -> None:
    table._sleep = lambda amount: None  # type: ignore[method-assign]
    table.failing = 1
    with pytest.raises(ConnectionError):
        table.mark_as_done("a", 1)
    table.always_retry, table.max_retries, table.failing = True, 3, 3
    table.mark_as_done("a", 1)
    assert table.get_result("a") == 1
    table.failing = 10
    with pytest.raises(BackendStoreError) as raised:
        table.mark_as_done("b", 1)
    assert (raised.value.task_id, raised.value.state) == ("b", states.SUCCESS)


def test_a_storage_that_fails_in_a_worker_is_an_internal_error(app: Celery, table: TableBackend) -> None:
    task = with_backend(app, table, lambda: 1)
    table.failing = 9

    outcome = make_runner(app, "w@h")(Job(1, app.amqp.outgoing(task.name, (), {}).envelope))

    assert outcome.internal
    assert "the table is away" in outcome.detail


def test_what_a_subclass_has_to_fill_in_is_said(app: Celery) -> None:
    with pytest.raises(NotImplementedError, match=r"BaseBackend does not implement _store_result\(\)"):
        BaseBackend(app).store_result("a", 1, states.SUCCESS)


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack", "yaml"])
def test_every_serializer_goes_both_ways(app: Celery, serializer: str) -> None:
    backend = TableBackend(app=app, serializer=serializer, accept=[serializer])
    backend.mark_as_done("a", {"x": [1, "é"]})
    backend.mark_as_failure("b", ValueError("x", 1))

    assert backend.get_result("a") == {"x": [1, "é"]}
    assert repr(backend.get_result("b")) == "ValueError('x', 1)"


# -- key and value -----------------------------------------------------------------------------------------------------


def test_a_key_value_subclass(app: Celery) -> None:
    backend = DictBackend(app)
    backend.mark_as_done("a", 5, request=Context(id="a", group="G", parent_id="P"))

    [(key, value)] = backend.values.items()
    assert key == b"celery-task-meta-a"
    assert json.loads(value) | {"date_done": None} == {
        "status": "SUCCESS", "result": 5, "traceback": None, "children": [], "date_done": None, "group_id": "G",
        "parent_id": "P", "task_id": "a",
    }  # fmt: skip
    backend.mark_as_failure("a", ValueError("late"))
    assert backend.get_result("a") == 5
    assert dict(backend.get_many(["a"], timeout=1))["a"]["result"] == 5
    with pytest.raises(TimeoutError):
        list(backend.get_many(["a", "b"], timeout=0.01, interval=0.001))
    backend.forget("a")
    assert backend.values == {}
    with pytest.raises(ValueError, match="under the id"):
        backend.get_key_for_task("")
    assert backend.get_key_for_chord("g", ".x") == b"chord-unlock-g.x"


def test_groups_of_a_key_value_subclass(app: Celery) -> None:
    backend = DictBackend(app)
    group = app.GroupResult("G1", [app.AsyncResult("a"), app.AsyncResult("b")])
    group.save(backend=backend)

    [(key, value)] = backend.values.items()
    assert key == b"celery-taskset-meta-G1"
    assert json.loads(value) == {"result": [["G1", None], [[["a", None], None], [["b", None], None]]]}
    assert backend.restore_group("G1") == group


# -- ours --------------------------------------------------------------------------------------------------------------


def test_records_have_the_lifetime_that_the_settings_say(app: Celery) -> None:
    app.conf.result_expires = 60
    app.conf.result_failure_expires = 600
    backend = app.backend
    assert isinstance(backend, ResultBackend)

    assert backend.record("a", 1, states.SUCCESS).ttl == 60
    assert backend.failure_record("a", ValueError()).ttl == 600
    assert backend.record("a", 1, states.SUCCESS, writer="w").writer == "w"


def test_results_for_ever(app: Celery) -> None:
    app.conf.result_expires = 0
    assert app.backend.record("a", 1, states.SUCCESS).ttl is None


def test_compressed_results_are_marked_and_read_by_anyone(app: Celery) -> None:
    name = uuid()
    writer = Celery("w", backend=f"memory://{name}", set_as_current=False)
    writer.conf.result_compression = "gzip"
    reader = Celery("r", backend=f"memory://{name}", set_as_current=False)

    writer.backend.mark_as_done("a", "x" * 1000)

    raw = writer.backend.get(writer.backend.get_key_for_task("a"))
    assert raw.startswith(b"\x00celery-compressed\x00application/x-gzip\x00")
    assert len(raw) < 500
    assert reader.AsyncResult("a").get() == "x" * 1000
    writer.conf.result_compression = "nope"
    with pytest.raises(ImproperlyConfigured, match="result_compression"):
        ResultBackend(writer.backend.store, writer)


def test_keys_can_have_a_prefix(app: Celery) -> None:
    app.conf.result_backend_transport_options = {"global_keyprefix": "site"}
    assert app.backend.get_key_for_task("a") == "site_celery-task-meta-a"


def test_a_result_of_a_task_that_is_a_result_is_stored_as_its_tuple(app: Celery) -> None:
    record = app.backend.record("a", app.AsyncResult("b"), states.SUCCESS)
    assert json.loads(record.value)["result"] == [["b", None], None]


def test_the_password_of_a_url_is_masked(app: Celery) -> None:
    backend = BaseBackend(app, url="redis://me:secret@host:1/2")
    assert backend.as_uri() == "redis://me:**@host:1/2"
    assert backend.as_uri(include_password=True) == "redis://me:secret@host:1/2"


def test_the_cache_keeps_successes_only(app: Celery) -> None:
    app.conf.result_cache_max = 2
    backend = app.backend
    for number in range(3):
        backend.mark_as_done(str(number), number)
        backend.get_task_meta(str(number))
    assert [backend.is_cached(str(number)) for number in range(3)] == [False, True, True]
    backend.mark_as_failure("f", ValueError())
    backend.get_task_meta("f")
    assert not backend.is_cached("f")
    backend.forget("2")
    assert not backend.is_cached("2")
    backend.reload_task_result("1")
    assert backend.is_cached("1")


def test_a_chord_whose_parts_nobody_counts_is_refused(app: Celery) -> None:
    app.backend = DictBackend(app)
    with pytest.raises(NotImplementedError, match="DictBackend does not: set `result_backend`"):
        chord([app.signature("part")], app.signature("body")).apply_async()
    app.backend = TableBackend(app)
    assert chord([app.signature("part")], app.signature("body")).apply_async().id


def test_the_disabled_backend_stores_nothing(app: Celery) -> None:
    backend = DisabledBackend(app)
    backend.mark_as_done("a", 1)
    assert backend.as_uri() == "disabled://"
    for ask in (backend.get_state, backend.get_result, backend.wait_for):
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            ask("a")
    with pytest.raises(NotImplementedError, match="chord"):
        backend.ensure_chords_allowed()


def test_the_failure_of_the_current_stack(app: Celery) -> None:
    try:
        raise LookupError("here")
    except LookupError:
        app.backend.fail_from_current_stack("a")
    assert isinstance(app.AsyncResult("a").result, LookupError)
    assert "here" in (app.AsyncResult("a").traceback or "")
    with pytest.raises(ValueError, match="needs an exception"):
        app.backend.fail_from_current_stack("b")


def test_the_current_task_is_found_here(app: Celery) -> None:
    assert get_current_task() is None
