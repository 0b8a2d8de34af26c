"""Remote control from end to end: a client, the bus, a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.app.control import flatten_reply
from celery.exceptions import DuplicateNodenameWarning
from celery.worker.control import Panel, control_command, inspect_command

NODE = "w@here"


@pytest.fixture
def pool() -> str:
    return "threads"


@pytest.fixture
def worker(app: Celery, start: Any) -> Any:
    began, may_end = threading.Event(), threading.Event()

    @app.task(shared=False, name="held")
    def held(*args: Any, **kwargs: Any) -> None:
        began.set()
        assert may_end.wait(90)

    @app.task(shared=False, name="limited", rate_limit="5/m")
    def limited() -> None: ...

    with start(hostname=NODE, concurrency=1) as worker:
        worker.held, worker.began, worker.may_end = held, began, may_end
        yield worker
        may_end.set()


def asked(app: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
    answer = getattr(app.control.inspect(timeout=30, limit=1), name)(*args, **kwargs)
    assert list(answer) == [NODE]
    return answer[NODE]


def until(condition: Callable[[], object]) -> None:
    """Wait for what a busy loop does a little after it was answered."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not in time"


def told(app: Celery, name: str, *args: Any, **kwargs: Any) -> Any:
    [answer] = getattr(app.control, name)(*args, reply=True, timeout=30, limit=1, **kwargs)
    return answer[NODE]


def test_ping(app: Celery, worker: Any) -> None:
    assert app.control.ping(timeout=30, limit=1) == [{NODE: {"ok": "pong"}}]
    assert asked(app, "ping") == {"ok": "pong"}
    assert app.control.inspect(NODE, timeout=30).ping() == {"ok": "pong"}, "of a name, its answer"


def test_only_those_who_are_meant_answer(app: Celery, worker: Any) -> None:
    assert app.control.ping(destination=[NODE], timeout=30) == [{NODE: {"ok": "pong"}}]
    assert app.control.ping(destination=["w@elsewhere"], timeout=0.1) == []
    assert app.control.ping(pattern="w@*", matcher="glob", timeout=30, limit=1)
    assert app.control.ping(pattern="x@*", matcher="glob", timeout=0.1) == []
    assert app.control.ping(pattern="^w@h", matcher="pcre", timeout=30, limit=1)
    assert app.control.inspect(destination=["w@elsewhere"], timeout=0.1).ping() is None


def test_active_and_reserved(app: Celery, patient: None, worker: Any) -> None:
    first = worker.held.delay(1, key="value")
    assert worker.began.wait(30)
    second = worker.held.delay(2)
    [active] = asked(app, "active")
    assert active["id"] == first.id
    assert (active["name"], active["args"], active["kwargs"]) == ("held", [1], {"key": "value"})
    assert active["hostname"] == NODE
    assert active["acknowledged"] is True
    assert active["time_start"] == pytest.approx(time.time(), abs=60)
    until(lambda: asked(app, "reserved"))
    assert [request["id"] for request in asked(app, "reserved")] == [second.id]
    assert asked(app, "scheduled") == []
    assert asked(app, "query_task", first.id, "other")[first.id][0] == "active"


def test_what_waits_for_its_time_is_shown(app: Celery, worker: Any) -> None:
    later = worker.held.apply_async((1,), {"key": "value"}, countdown=3600)
    sooner = worker.held.apply_async((2,), countdown=1800)
    worker.held.apply_async((3,), countdown=1800, queue="elsewhere")
    first, second = asked(app, "scheduled")
    assert [entry["request"]["id"] for entry in (first, second)] == [sooner.id, later.id]
    assert datetime.fromisoformat(second["eta"]).timestamp() == pytest.approx(time.time() + 3600, abs=60)
    assert second["priority"] == 6
    assert (second["request"]["args"], second["request"]["time_start"]) == ([1], None)
    assert asked(app, "scheduled", safe=True)[1]["request"]["kwargs"] == "{'key': 'value'}"
    state, request = asked(app, "query_task", [later.id])[later.id]
    assert (state, request["id"]) == ("scheduled", later.id)


def test_memory_is_sampled(app: Celery, worker: Any) -> None:
    assert asked(app, "memsample").endswith("B")
    assert asked(app, "memdump", 3).count("rss") == 2
    assert asked(app, "memdump").count("rss") == 1


def test_stats(app: Celery, worker: Any, kind: str, tmp_path: Path) -> None:
    stats = asked(app, "stats")
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["broker"]["transport"] == kind
    assert stats["broker"]["virtual_host"] == {"memory": "/", "redis": "0"}.get(kind, f"{tmp_path}/place.db")
    assert {"total", "pid", "clock", "uptime", "pool", "broker", "prefetch_count", "rusage"} == set(stats)


def test_registered(app: Celery, worker: Any) -> None:
    assert asked(app, "registered") == ["held", "limited [rate_limit=5/m]"]
    assert asked(app, "registered", "max_retries") == ["held [max_retries=3]", "limited [max_retries=3]"]


def test_queues_come_and_go(app: Celery, worker: Any) -> None:
    def queues() -> list[str]:
        return [queue["name"] for queue in asked(app, "active_queues")]

    assert queues() == ["celery"]
    assert told(app, "add_consumer", "extra") == {"ok": "add consumer extra"}
    until(lambda: queues() == ["celery", "extra"])
    worker.may_end.set()
    worker.held.apply_async(queue="extra").get(timeout=30)
    assert told(app, "cancel_consumer", "extra") == {"ok": "no longer consuming from extra"}
    until(lambda: queues() == ["celery"])


def test_queues_change_while_a_task_runs(app: Celery, worker: Any) -> None:
    result = worker.held.delay()
    assert worker.began.wait(30)
    told(app, "add_consumer", "extra")
    worker.may_end.set()
    assert result.get(timeout=30) is None
    assert worker.held.delay().get(timeout=30) is None


def test_revoke(app: Celery, worker: Any) -> None:
    assert told(app, "revoke", "an-id") == {"ok": "tasks {'an-id'} flagged as revoked"}
    assert "an-id" in asked(app, "revoked")
    assert told(app, "revoke", ["an-id", "b"], terminate=True) == {"ok": "terminate: tasks unknown"}


def test_time_limit(app: Celery, worker: Any) -> None:
    assert told(app, "time_limit", "held", soft=1, hard=2) == {"ok": "time limits set successfully"}
    assert (worker.held.soft_time_limit, worker.held.time_limit) == (1, 2)
    assert told(app, "time_limit", "unknown", soft=1) == {"error": "unknown task"}


def test_the_pool_grows_and_shrinks(app: Celery, worker: Any) -> None:
    assert told(app, "pool_grow", 2) == {"ok": "pool will grow"}
    until(lambda: asked(app, "stats")["pool"]["max-concurrency"] == 3)
    assert told(app, "pool_shrink", 1) == {"ok": "pool will shrink"}
    until(lambda: asked(app, "stats")["pool"]["max-concurrency"] == 2)
    assert "error" in told(app, "pool_shrink", 9)


def test_an_unknown_command_is_answered(app: Celery, worker: Any) -> None:
    assert app.control.broadcast("nope", reply=True, timeout=30, limit=1) == [{NODE: {"error": "KeyError('nope')"}}]


def test_a_command_that_raises_is_answered(app: Celery, worker: Any) -> None:
    [answer] = app.control.broadcast("time_limit", arguments={"task_name": []}, reply=True, timeout=30, limit=1)
    assert "error" in answer[NODE]


def test_rubbish_in_the_mailbox_changes_nothing(app: Celery, worker: Any) -> None:
    for rubbish in (b"", b"[]", b"{}", b'{"body": {"method": 1, "arguments": 2}}', b"\xff"):
        app.broker.bus().publish(app.control.mailbox.exchange, rubbish)
    assert asked(app, "ping") == {"ok": "pong"}


def test_commands_of_users(app: Celery, worker: Any) -> None:
    @control_command(args=[("n", int)], signature="[N=1]")
    def set_something(state: Any, n: int = 1, **kwargs: Any) -> Any:
        """Set something."""
        return {"ok": f"{state.hostname} {n}"}

    @inspect_command(alias="old_name")
    def get_something(state: Any) -> Any:
        return {"unplain": {1, 2}}

    try:
        [answer] = app.control.broadcast("set_something", arguments={"n": 3}, reply=True, timeout=30, limit=1)
        assert answer == {NODE: {"ok": f"{NODE} 3"}}
        [answer] = app.control.broadcast("old_name", reply=True, timeout=30, limit=1)
        assert answer == {NODE: {"unplain": [1, 2]}}
        assert Panel.meta["set_something"].help == "Set something."
    finally:
        for name in ("set_something", "get_something", "old_name"):
            del Panel.data[name]


def test_conf_and_report_hide_passwords(app: Celery, worker: Any) -> None:
    assert "broker_url" in asked(app, "conf")
    assert "celery" in asked(app, "report")["ok"]


def test_the_clock_goes_on(app: Celery, worker: Any) -> None:
    first = asked(app, "clock")["clock"]
    assert asked(app, "clock")["clock"] > first
    assert asked(app, "hello", "w@other", {"revoked-there": 1})["clock"] > first
    assert "revoked-there" in asked(app, "revoked")


def test_shutdown(app: Celery, worker: Any) -> None:
    app.control.shutdown()
    assert worker.wait_stopped(30)


def test_two_nodes_with_one_name_are_noticed() -> None:
    with pytest.warns(DuplicateNodenameWarning):
        flatten_reply([{"a": 1}, {"a": 2}])


def test_purge(app: Celery) -> None:
    app.send_task("anything")
    app.send_task("anything", countdown=60)
    assert app.control.purge() == 2
