"""A worker that says how it is, and those that ask."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery.bin.health import ask
from rig.redis import RedisServer

PATIENT = ("-t", "30")


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.05)
    return found


def url_of(worker: Any) -> str:
    worker.expect("Health and metrics at http")
    return re.findall(r"Health and metrics at (\S+)", worker.text())[-1]


def test_a_busy_worker_lives_and_its_figures_can_be_read(celery: Any, worker: Any) -> None:
    with worker("-c", "2", "--health", "127.0.0.1:0", app="watched") as running:
        url = url_of(running)
        for _ in range(4):
            celery("-A", "watched", "call", "watched.spin", "-a", "[2]")
        wait(lambda: 'celery_worker_tasks_active{hostname="celery@' in ask(url, "/metrics", 20)[1])
        for path in ("/livez", "/readyz", "/startupz"):
            assert ask(url, path, 20)[0] == 200
        labels = r'{name="watched.spin",hostname="celery@[^"]*",queue_name="celery"}'
        wait(lambda: re.search(rf"celery_task_succeeded_total{labels} 4", ask(url, "/metrics", 20)[1]))
        figures = ask(url, "/metrics", 20)[1]
        assert re.search(rf"celery_task_runtime_count{labels} 4", figures)
        assert re.search(r'celery_active_process_count{queue_name="celery"} 2', figures)


def test_asking_takes_no_time_and_no_application(celery: Any, worker: Any) -> None:
    said = celery("-A", "broken", "health")
    assert said.code == 1
    assert "Start workers with --health" in said.err
    with worker("-P", "solo", "--health", ":0", "-n", "w1@here", app="single") as running:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = celery("-A", "broken", "health", *PATIENT)  # an application that cannot be imported
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (said.code, said.out) == (0, "w1@here: OK\n")
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
        loaded = celery("health", *PATIENT, PYTHONPROFILEIMPORTTIME="1").err
        modules = {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
        assert not modules & {"celery.app", "celery.app.base", "kombu", "asyncio", "email", "http.client", "ssl"}
        url = url_of(running)
        assert celery("-q", "health", "--url", url, "--check", "live", *PATIENT).text == ""
        assert json.loads(celery("health", "-n", "w1@here", "-j", *PATIENT).out) == {
            "node": "w1@here", "check": "ready", "ok": True, "reasons": []
        }  # fmt: skip
        figures = celery("health", "--pid", str(running.process.pid), "--check", "metrics", *PATIENT).out
        assert "celery_worker_up" in figures
        assert celery("health", *PATIENT, CELERY_HEALTH_URL=url).code == 0
        assert celery("health", "--pid", "1").code == 1
    said = celery("health", "--url", url)
    assert said.code == 1
    assert "cannot be asked: Connection refused" in said.out
    assert celery("health").code == 1


def test_a_loop_that_stands_still_is_not_live(celery: Any, worker: Any, tmp_path: Path) -> None:
    path, socket = tmp_path / "go", tmp_path / "h.sock"
    live = ("health", "--socket", str(socket), "--check", "live", *PATIENT)
    with worker(
        "-P", "threads", "--health", f"unix:{socket}", app="watched", WATCHED_PATIENCE="1.5"
    ) as running:  # fmt: skip
        running.wait_for(lambda: celery(*live).code == 0)
        celery("-A", "watched", "call", "watched.hold_up", "-a", json.dumps([str(path)]))
        url = f"unix:{socket}"
        status, body = wait(lambda: (said := ask(url, "/livez", 20))[0] == 503 and said)
        assert (status, json.loads(body)["status"]) == (503, "failing")
        assert "the loop has not turned for" in celery(*live).out
        path.touch()
        wait(lambda: ask(url, "/livez", 20)[0] == ask(url, "/readyz", 20)[0] == 200)


def test_without_its_broker_a_worker_lives_and_is_not_ready(
    worker: Any, server: Callable[[str], Path], tmp_path: Path
) -> None:
    redis = RedisServer(server("redis"), tmp_path / "server")
    env = {"WATCHED_BROKER": redis.url(), "WATCHED_PATIENCE": "3"}
    try:
        with worker("-c", "1", "--health", "127.0.0.1:0", app="watched", **env) as running:
            url = url_of(running)
            wait(lambda: ask(url, "/readyz", 20)[0] == 200)
            redis.kill()
            wait(lambda: ask(url, "/readyz", 20)[0] == 503)
            until = time.monotonic() + 4  # more than its patience
            while time.monotonic() < until:
                assert ask(url, "/livez", 20)[0] == 200
                time.sleep(0.2)
            assert ask(url, "/metrics", 20)[0] == 200
            redis.start()
            wait(lambda: ask(url, "/readyz", 20)[0] == 200)
            assert ask(url, "/livez", 20)[0] == 200
    finally:
        redis.stop()


def test_a_worker_that_waits_for_its_broker_has_not_started(worker: Any, tmp_path: Path) -> None:
    options = ("-P", "solo", "--health", f"unix:{tmp_path}/h.sock")
    with worker(*options, app="watched", ready=False, WATCHED_BROKER="redis://127.0.0.1:1") as waiting:
        waiting.expect("Trying again in")
        codes = [ask(f"unix:{tmp_path}/h.sock", path, 20)[0] for path in ("/livez", "/readyz", "/startupz")]
        assert codes == [200, 503, 503]


@pytest.mark.parametrize(("where", "why"), [("nonsense", "no address"), ("unix:/nowhere/x", "No such file")])
def test_an_address_that_is_none(celery: Any, where: str, why: str) -> None:
    said = celery("-A", "single", "worker", "-P", "solo", "--health", where)
    assert said.code == 1
    assert why in said.err.splitlines()[-1]
