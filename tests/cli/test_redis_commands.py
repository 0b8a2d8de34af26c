"""The program `celery` on Redis: every command, and what it says where Redis is not as it should be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.redis import RedisServer, free_port

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECRET = "hush-hush"
NODE = "w1@example"
SOLO = ("-c", "1", "-P", "solo", "-n", NODE)
CLOSED = 1
"""A port on which nobody listens; one that is free may soon be another test's."""
ASKED = ("-d", NODE, "-t", "30")
PING = ("inspect", "ping", "-d", NODE, "-t", "5")


@pytest.fixture
def locked(server: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    """A server that wants a password."""
    running = RedisServer(server("redis"), tmp_path / "locked", requirepass=SECRET)
    yield running
    running.stop()


def with_password(server: RedisServer, db: int = 0, password: str = SECRET) -> str:
    return f"redis://:{password}@127.0.0.1:{server.port}/{db}"


@pytest.fixture
def on(celery: Any) -> Callable[..., Any]:
    """`on(url, *args)`: a command of the program for that broker."""

    def run(url: str, *args: str, **options: Any) -> Any:
        return celery("-A", "single", "-b", url, *args, **options)

    return run


# -- what there is -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # many programs, one after the other
def test_from_call_to_result_without_a_password_anywhere(on: Any, worker: Any, locked: RedisServer) -> None:
    url, results = with_password(locked), with_password(locked, 1)
    said = []
    env = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": results}
    with worker("-c", "2", "-n", NODE, **env) as running:
        both = ("--result-backend", results)

        def ask(*args: str, code: int = 0) -> str:
            done = on(url, *both, *args)
            assert done.code == code, done.text
            said.append(done.text)
            return str(done.out)

        called = ask("call", "single.add", "-a", "[2, 3]").strip()
        assert UUID.fullmatch(called)
        assert ask("result", called) == "5\n"
        assert f"{NODE}: OK" in ask("status", *ASKED)
        assert json.loads(ask(*PING, "-j")) == {NODE: {"ok": "pong"}}
        stats = json.loads(ask("inspect", "stats", "-j", *ASKED))[NODE]
        assert stats["broker"]["hostname"] == "127.0.0.1"
        assert (stats["broker"]["virtual_host"], stats["broker"]["port"]) == ("0", locked.port)
        ask("inspect", "conf", "-j", *ASKED)
        ask("inspect", "report", "-j", *ASKED)
        report = ask("report")
        assert re.search(r"redis:\d\S* hiredis:\d", report)
        assert re.search(r"server   -> Redis \d+\.\d+\.\d+ standalone primary noeviction", report)
        ask("call", "single.no_such_task")
        running.expect("dead set")
        ask("dead", "list")
        locked.restart()
        running.wait_for(lambda: on(url, *both, *PING).code == 0)  # it hears commands again
        assert ask("result", ask("call", "single.add", "-a", "[1, 1]").strip()) == "2\n"
        ask("control", *ASKED, "add_consumer", "extra")
        assert "extra" in ask("inspect", *ASKED, "active_queues")
        on(url, "control", *ASKED, "shutdown")
        assert running.process.wait(timeout=60) == 0
        said.append(running.text())
    assert "redis://:**@127.0.0.1" in said[-1]
    assert [text for text in said if SECRET in text] == []


@pytest.mark.timeout(300)  # many programs, one after the other
def test_queues_dead_and_purge(on: Any, worker: Any, redis_url: str) -> None:
    assert "no queue" in on(redis_url, "queues").out
    for more in ([], ["--countdown", "3600"], ["--queue", "urgent"]):
        assert on(redis_url, "call", "single.add", *more).code == 0
    queues = json.loads(on(redis_url, "queues", "-j").out)
    # Nobody of ours listens: what is due later goes where workers of original Celery find it.
    assert (queues["celery"]["ready"], queues["celery"]["delayed"], queues["urgent"]["ready"]) == (2, 0, 1)
    assert queues["celery"]["oldest"] >= 0
    unknown = on(redis_url, "call", "single.unheard_of").out.strip()
    with worker(*SOLO, CELERY_BROKER_URL=redis_url) as running:
        running.expect(unknown)
        running.expect("dead set")

        def counts() -> tuple[int, int, int]:
            queues = json.loads(on(redis_url, "queues", "-j").out)["celery"]
            return queues["delayed"], queues["dead"], queues["consumers"]

        running.wait_for(lambda: counts() == (1, 1, 1))
        running.stop()
    [entry] = json.loads(on(redis_url, "dead", "list", "-j").out)
    assert (entry["id"], entry["task"], entry["queue"]) == (unknown, "single.unheard_of", "celery")
    assert "no module that this worker imports" in entry["reason"]
    assert on(redis_url, "dead", "replay", unknown).out == "Sent 1 message back.\n"
    assert on(redis_url, "purge", "-f", "-Q", "celery,urgent").out == "Purged 3 messages from 2 queues.\n"
    assert on(redis_url, "purge", "-f").out == "No messages purged from 1 queue.\n"


def test_queues_of_a_million_are_counted_and_not_read(on: Any, redis_url: str, redis_server: RedisServer) -> None:
    fill = (
        "local many = {} for i = 1, 1000 do many[i] = ARGV[1] end "
        "for i = 1, 1000 do redis.call('LPUSH', KEYS[1], unpack(many)) end"
    )
    redis_server.ask("EVAL", fill, 1, "celery", '{"body": ""}')
    redis_server.ask("SADD", "celeriac.queues", "celery")
    redis_server.ask("CONFIG", "RESETSTAT")
    assert json.loads(on(redis_url, "queues", "-j").out)["celery"]["ready"] == 1_000_000
    assert "1000000" in on(redis_url, "queues").out
    assert on(redis_url, "purge", "-f").out == "Purged 1000000 messages from 1 queue.\n"
    ran = re.findall(r"calls=(\d+)", redis_server.ask("INFO", "commandstats").decode())
    sent = re.search(r"total_net_output_bytes:(\d+)", redis_server.ask("INFO", "stats").decode())
    assert sum(map(int, ran)) < 1000
    assert sent is not None
    assert int(sent[1]) < 1_000_000


def test_rubbish_is_listed_and_dropped(on: Any, worker: Any, redis_url: str, redis_server: RedisServer) -> None:
    redis_server.ask("LPUSH", "celery", b"rubbish", bytes(range(256)), b'{"wrapped": 1}')
    with worker(*SOLO, CELERY_BROKER_URL=redis_url) as running:
        running.expect("goes to the dead set")
        done = on(redis_url, "--result-backend", redis_url, "call", "single.shout", "-a", '["still here"]')
        running.expect(f"single.shout[{done.out.strip()}] succeeded")
    table = on(redis_url, "dead", "list").out.splitlines()
    assert len(table) == 4
    assert all("no envelope" in line for line in table[1:])
    entries = json.loads(on(redis_url, "dead", "list", "-j").out)
    assert on(redis_url, "dead", "drop", str(entries[0]["tag"])).out == "Dropped 1 message.\n"
    assert on(redis_url, "dead", "drop", "--all").out == "Dropped 2 messages.\n"
    assert on(redis_url, "dead", "list").out == "No message is dead.\n"


# -- what there should be ----------------------------------------------------------------------------------------------


def refused(said: Any, *words: str, code: int = 1) -> None:
    """One sentence, with these words in it."""
    errors = [line for line in said.err.splitlines() if line]
    assert said.code == code, said.text
    assert len(errors) == 1, said.text
    assert errors[0].startswith("Error: ")
    assert errors[0].endswith((".", "?"))
    assert [word for word in words if word not in errors[0]] == []
    assert "Traceback" not in said.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:wrong-secret@127.0.0.1:{port}/0", ["WRONGPASS", "check user and password"]),
        ("redis://127.0.0.1:{port}/0", ["it wants a password", "redis://:password@host"]),
        ("redis://:hush-hush@127.0.0.1:{port}/99", ["no database 99", "another number"]),
        ("redis://:hush-hush@127.0.0.1:{port}/abc", ["abc", "give a number"]),
        ("redis://:hush-hush@127.0.0.1:{port}/0?client=x", ["no option 'client'", "client_name"]),
    ],
    ids=["wrong password", "no password", "no such database", "no database at all", "no such option"],
)
def test_a_worker_that_may_not_in(on: Any, locked: RedisServer, url: str, words: list[str]) -> None:
    said = on(url.format(port=locked.port), "-q", "worker", *SOLO)
    refused(said, *words)
    assert "secret" not in said.text
    assert SECRET not in said.text


def test_results_that_may_not_be_stored(on: Any, locked: RedisServer, redis_url: str) -> None:
    """Found out at the start, not by the first result."""
    wrong = with_password(locked, password="wrong-secret")
    said = on(redis_url, "--result-backend", wrong, "-q", "worker", *SOLO)
    refused(said, "WRONGPASS", str(locked.port))
    assert "wrong-secret" not in said.text
    refused(on(redis_url, "--result-backend", f"{redis_url[:-1]}77", "-q", "worker", *SOLO), "no database 77")


def test_a_server_that_may_evict(celery: Any, worker: Any, server: Callable[[str], Path], tmp_path: Path) -> None:
    forgetful = RedisServer(server("redis"), tmp_path / "forgetful", maxmemory_policy="allkeys-lru")
    try:
        with worker(*SOLO, CELERY_BROKER_URL=forgetful.url()) as running:
            assert running.text().count("maxmemory-policy allkeys-lru") == 1
        strict = json.dumps({"broker_transport_options": {"strict": True}})
        said = celery("-A", "settled", "-b", forgetful.url(), "-q", "worker", *SOLO, APP_SETTINGS=strict)
        refused(said, "maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction")
    finally:
        forgetful.stop()


@pytest.mark.parametrize("command", [["queues"], ["call", "single.add"], ["inspect", "ping"]])
def test_nobody_is_there(celery: Any, command: list[str]) -> None:
    url, settings = f"redis://user:{SECRET}@127.0.0.1:{CLOSED}/0", json.dumps({"broker_publish_timeout": 0.5})
    said = celery("-A", "settled", "-b", url, *command, APP_SETTINGS=settings)
    refused(said, "cannot be reached: Connection refused", "start the server there", code=69)
    assert SECRET not in said.text


def test_a_worker_waits_for_its_server(worker: Any, server: Callable[[str], Path], tmp_path: Path) -> None:
    port = free_port()
    env = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0", "APP_SETTINGS": '{"broker_publish_timeout": 0.5}'}
    later = None
    try:
        with worker(*SOLO, app="settled", ready=False, **env) as starting:
            starting.expect("Cannot connect: Redis at redis://127.0.0.1")
            starting.expect("Trying again in 2 s (1/100).")
            later = RedisServer(server("redis"), tmp_path / "later", port=port)
            tries = starting.text().count("Cannot connect")
            starting.expect("ready.")
            assert starting.text().count("Cannot connect") <= tries + 1, "one may have been under way"
            assert starting.stop() == 0
    finally:
        if later is not None:
            later.stop()


@pytest.mark.parametrize("setting", ["broker_connection_retry", "broker_connection_retry_on_startup"])
def test_a_worker_that_is_not_to_wait(celery: Any, setting: str) -> None:
    url = f"redis://127.0.0.1:{CLOSED}/0"
    settings = json.dumps({setting: False, "broker_publish_timeout": 0.5})
    said = celery("-A", "settled", "-b", url, "-q", "worker", *SOLO, APP_SETTINGS=settings)
    refused(said, "cannot be reached: Connection refused", code=69)


def test_a_worker_that_waits_so_often(celery: Any) -> None:
    settings = {"broker_connection_max_retries": 1, "broker_publish_timeout": 0.5}
    url = f"redis://127.0.0.1:{CLOSED}/0"
    said = celery("-A", "settled", "-b", url, "-q", "worker", *SOLO, APP_SETTINGS=json.dumps(settings))
    assert said.code == 69
    waiting, error = said.err.splitlines()
    assert "Trying again in 2 s (1/1)." in waiting
    assert error.startswith("Error: ")


def test_a_package_is_missing(on: Any, tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['hiredis'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for command in (["-q", "worker", *SOLO], ["queues"]):
        refused(on(redis_url, *command, PYTHONPATH=path), "hiredis", "pip install 'celery[redis]'")
