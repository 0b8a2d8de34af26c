"""Every command, against a real worker where it needs one."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NODE = ("-d", "w1@example", "-t", "30")
"""Whom commands ask who wait for an answer: it is there as soon as that one has given it."""


def test_call_and_result(celery: Any, worker: Any) -> None:
    with worker("-c", "1", "-P", "solo"):
        called = celery("-A", "single", "call", "single.add", "-a", "[2, 3]")
        assert called.code == 0, called.err
        assert UUID.fullmatch(called.out.strip())
        assert celery("-A", "single", "result", called.out.strip()).out == "5\n"

        called = celery("-A", "single", "call", "single.fail", "-k", '{"message": "no luck"}')
        said = celery("-A", "single", "result", called.out.strip())
        assert said.code == 1
        assert "ValueError: no luck" in said.err
        assert "Traceback" not in said.err
        said = celery("-A", "single", "result", "--traceback", called.out.strip())
        assert said.code == 0
        assert said.out.startswith("Traceback")
        assert "no luck" in said.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-a", "{"], "is not JSON"),
        (["-a", "3"], "3 was not an array"),
        (["-k", "[1]"], "[1] was not an object"),
        (["--eta", "tomorrow"], "ISO 8601"),
        (["--expires", "soon"], "ISO 8601"),
        (["--countdown", "x"], "countdown"),
    ],
)
def test_call_explains_what_it_cannot_read(celery: Any, args: list[str], words: str) -> None:
    said = celery("-A", "single", "call", "single.add", *args)
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err


def test_call_explains_a_serializer_that_does_not_exist(celery: Any) -> None:
    said = celery("-A", "single", "call", "single.add", "--serializer", "stone")
    assert said.code == 1
    assert "stone" in said.err
    assert "Traceback" not in said.err


def test_queues_counts_what_waits(celery: Any) -> None:
    assert "no queue" in celery("-A", "single", "queues").out
    for more in ([], ["--countdown", "3600"], ["--queue", "urgent"]):
        assert celery("-A", "single", "call", "single.add", *more).code == 0
    said = celery("-A", "single", "queues", "--json")
    queues = json.loads(said.out)
    assert (queues["celery"]["ready"], queues["celery"]["delayed"], queues["urgent"]["ready"]) == (1, 1, 1)
    assert queues["celery"]["oldest"] >= 0
    table = celery("-A", "single", "queues").out.splitlines()
    columns = ["queue", "ready", "leased", "delayed", "parked", "dead", "oldest", "consumers", "state"]
    assert table[0].split() == columns
    assert table[1].split()[:6] == ["celery", "1", "0", "1", "0", "0"]
    assert table[1].split()[-1] == "open"
    assert "celery" not in celery("-A", "single", "queues", "-Q", "urgent").out


def test_a_queue_is_paused_and_resumed_without_a_worker(celery: Any) -> None:
    said = celery("-A", "single", "control", "pause", "urgent")
    assert (said.code, said.out.strip()) == (0, "queue urgent is paused")
    assert celery("-A", "single", "call", "single.add", "--queue", "urgent").code == 0
    queues = json.loads(celery("-A", "single", "queues", "--json").out)
    assert (queues["urgent"]["paused"], queues["urgent"]["ready"]) == (True, 1)
    assert "paused" in celery("-A", "single", "queues").out
    said = celery("-A", "single", "control", "resume", "urgent", "--json")
    assert json.loads(said.out) == {"ok": "queue urgent is resumed"}
    assert json.loads(celery("-A", "single", "queues", "--json").out)["urgent"]["paused"] is False
    assert celery("-A", "single", "control", "pause").code == 2


def test_purge_asks_first(celery: Any) -> None:
    for _ in range(3):
        celery("-A", "single", "call", "single.add")
    said = celery("-A", "single", "purge", stdin="n\n")
    assert said.code == 1
    assert "no undo" in said.out
    assert json.loads(celery("-A", "single", "queues", "-j").out)["celery"]["ready"] == 3

    said = celery("-A", "single", "purge", stdin="y\n")
    assert said.code == 0
    assert "Purged 3 messages from 1 queue." in said.out
    assert celery("-A", "single", "purge", "-f").out == "No messages purged from 1 queue.\n"


def test_purge_of_some_queues(celery: Any) -> None:
    for queue in ("a", "b"):
        celery("-A", "single", "call", "single.add", "--queue", queue)
    assert celery("-A", "single", "purge", "-f", "-Q", "a,b", "-X", "b").out == "Purged 1 message from 1 queue.\n"
    assert json.loads(celery("-A", "single", "queues", "-j").out)["b"]["ready"] == 1


def test_dead_messages_are_listed_replayed_and_dropped(celery: Any, worker: Any) -> None:
    ids = [celery("-A", "single", "call", "single.unheard_of").out.strip() for _ in range(2)]
    with worker("-c", "1", "-P", "solo") as running:
        running.expect(ids[0])
        running.expect(ids[1])
        running.stop()
    listed = json.loads(celery("-A", "single", "dead", "list", "-j").out)
    assert {entry["id"] for entry in listed} == set(ids)
    assert all(entry["reason"] and entry["task"] == "single.unheard_of" for entry in listed)
    table = celery("-A", "single", "dead", "list").out
    assert table.splitlines()[0].split()[0] == "id"
    assert ids[0] in table

    assert celery("-A", "single", "dead", "replay").code == 2
    said = celery("-A", "single", "dead", "drop", "nothing")
    assert said.code == 1
    assert "Not dead: nothing" in said.err
    assert celery("-A", "single", "dead", "replay", ids[0]).out == "Sent 1 message back.\n"
    assert celery("-A", "single", "dead", "drop", "--queue", "elsewhere").out == "Dropped 0 messages.\n"
    assert celery("-A", "single", "dead", "drop", "--all").out == "Dropped 1 message.\n"
    assert celery("-A", "single", "dead", "list").out == "No message is dead.\n"
    assert json.loads(celery("-A", "single", "queues", "-j").out)["celery"]["ready"] == 1


def test_report_describes_the_installation(celery: Any) -> None:
    said = celery("-A", "single", "report")
    assert said.code == 0
    assert "celeriac" in said.out.lower()
    assert "kombu" in said.out


@pytest.mark.timeout(300)  # many programs, one after the other
def test_asking_workers(celery: Any, worker: Any) -> None:
    with worker("-c", "1", "-n", "w1@example") as running:
        said = celery("-A", "single", "status", *NODE)
        assert said.code == 0, said.err
        assert "w1@example: OK" in said.out
        assert "1 node online." in said.out
        assert json.loads(celery("-A", "single", "inspect", "ping", "-j", *NODE).out) == {"w1@example": {"ok": "pong"}}
        assert "* single.add" in celery("-A", "single", "inspect", "registered", *NODE).out

        nap = celery("-A", "single", "call", "single.nap", "-a", "[600]").out.strip()
        celery("-A", "single", "call", "single.add", "--countdown", "3600")

        def active() -> list[tuple[str, str]]:
            said = json.loads(celery("-A", "single", "inspect", "active", "-j", *NODE).out)["w1@example"]
            return [(task["id"], task["name"]) for task in said]

        running.wait_for(lambda: active() == [(nap, "single.nap")])
        assert "w1@example" in celery("-A", "single", "inspect", "scheduled", "-j", *NODE).out
        assert "w1@example" in celery("-A", "single", "inspect", "reserved", "-j", *NODE).out
        stats = json.loads(celery("-A", "single", "inspect", "stats", "-j", *NODE).out)["w1@example"]
        assert stats["pid"] == running.process.pid
        assert celery("-A", "single", "control", "terminate", "KILL", nap, *NODE).code == 0
        assert celery("-A", "single", "control", "shutdown", *NODE).code in {0, 69}
        assert running.process.wait(timeout=60) == 0


def test_nobody_answers(celery: Any) -> None:
    for command in (("status",), ("inspect", "ping"), ("control", "heartbeat")):
        said = celery("-A", "single", *command, "--timeout", "0.2")
        assert said.code == 69
        assert said.err == "Error: No nodes replied within time constraint\n"


def test_a_destination_that_is_not_there(celery: Any, worker: Any) -> None:
    with worker("-c", "1", "-P", "solo", "-n", "w1@example"):
        assert celery("-A", "single", "inspect", "ping", *NODE).code == 0
        assert celery("-A", "single", "inspect", "ping", "-d", "w2@example", "-t", "0.3").code == 69


def test_remote_commands_are_listed_and_checked(celery: Any) -> None:
    said = celery("-A", "single", "inspect", "--list")
    assert said.code == 0
    for command in ("active", "ping", "registered", "reserved", "scheduled", "stats"):
        assert f"\n  {command} " in said.out
    assert "\n  shutdown " in celery("-A", "single", "control", "--list").out
    said = celery("-A", "single", "inspect", "pong")
    assert said.code == 2
    assert "Command pong not recognized" in said.err
    assert celery("-A", "single", "inspect").code == 2


def test_a_worker_starts_runs_and_stops(celery: Any, worker: Any) -> None:
    with worker("-c", "2", "-n", "w1@example") as running:
        assert "w1@example" in running.text()
        assert "single.add" in running.text()
        done = celery("-A", "single", "call", "single.add", "-a", "[1, 1]").out.strip()
        assert celery("-A", "single", "result", done).out == "2\n"
        running.expect(f"Task single.add[{done}] succeeded")
        assert running.stop(signal.SIGTERM) == 0
    assert "Traceback" not in running.text()


def test_a_worker_that_logs_json(celery: Any, worker: Any) -> None:
    with worker("-c", "1", "-P", "solo", app="logging_json") as running:
        done = celery("-A", "logging_json", "call", "logging_json.hello").out.strip()
        running.expect(f'"message": "hello from {done}"')
        running.stop()
    lines = [json.loads(line) for line in running.text().splitlines() if line.startswith("{")]
    hello = next(line for line in lines if line["message"] == f"hello from {done}")
    assert (hello["level"], hello["task_id"], hello["task_name"]) == ("INFO", done, "logging_json.hello")
    assert {"time", "logger", "process"} <= hello.keys()
    received = next(line for line in lines if line["message"].endswith(" received"))
    assert (received["task_id"], received["task_name"]) == (done, "logging_json.hello")


def test_a_worker_in_the_background(celery: Any, tmp_path: Any) -> None:
    pidfile, log = tmp_path / "worker.pid", tmp_path / "worker.log"
    said = celery(
        "-A", "single", "worker", "-D", "-c", "1", "-P", "solo", "-l", "INFO", "-f", str(log), "--pidfile", str(pidfile)
    )
    assert said.code == 0, said.err
    done = celery("-A", "single", "call", "single.add", "-a", "[4, 5]").out.strip()
    assert celery("-A", "single", "result", done).out == "9\n"
    pid = int(pidfile.read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    assert not pidfile.exists()


@pytest.mark.parametrize("option", ["--logfile", "--pidfile"])
def test_a_worker_explains_a_file_it_cannot_write(celery: Any, tmp_path: Path, option: str) -> None:
    said = celery("-A", "single", "worker", "-c", "1", "-P", "solo", option, str(tmp_path / "nowhere" / "file"))
    assert said.code not in {0, 2}
    assert str(tmp_path / "nowhere" / "file") in said.err
    assert "Traceback" not in said.text


def test_two_workers_with_one_pidfile(celery: Any, worker: Any, tmp_path: Path) -> None:
    with worker("-c", "1", "-P", "solo", "--pidfile", str(tmp_path / "pid")) as running:
        said = celery("-A", "single", "worker", "-P", "solo", "--pidfile", str(tmp_path / "pid"))
        assert said.code not in {0, 2}
        assert str(running.process.pid) in said.text
        assert "Traceback" not in said.text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-l", "LOUD"], "LOUD"),
        (["-P", "swimming"], "'swimming' is not one of"),
        (["-P", "custom"], "CELERY_CUSTOM_WORKER_POOL"),
        (["-c", "many"], "'auto'"),
        (["--autoscale", "4,x"], "10,3"),
        (["--umask", "9"], "octal"),
        (["-O", "best"], "fair"),
        (["--max-tasks-per-child", "x"], "max-tasks-per-child"),
    ],
)
def test_a_worker_explains_options_it_cannot_take(celery: Any, args: list[str], words: str) -> None:
    said = celery("-A", "single", "worker", *args)
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.text


def test_a_worker_takes_every_option_of_celery(celery: Any, worker: Any, tmp_path: Any) -> None:
    options = (
        f"-n everything@%h -S {tmp_path}/state -O fair --prefetch-multiplier 2 --disable-prefetch -c 1 -P threads -E"
        " --time-limit 60 --soft-time-limit 50 --max-tasks-per-child 100 --max-memory-per-child 1000000"
        " --pool-start-method fork --purge -Q celery,more -X other -I json --without-gossip --without-mingle"
        " --without-heartbeat --heartbeat-interval 5 -s schedule --scheduler x --umask 022"
    )
    with worker(*options.split(), "--pidfile", str(tmp_path / "pid")) as running:
        assert running.stop() == 0


@pytest.mark.parametrize("words", [["revoke"], ["terminate", "KILL"], ["time_limit", "single.add"], ["add_consumer"]])
def test_a_remote_command_with_too_few_arguments(celery: Any, words: list[str]) -> None:
    said = celery("-A", "single", "control", *words)
    assert said.code == 2
    assert f"Too few arguments. Usage: {words[0]} " in said.err


def test_what_every_node_refuses_has_failed(celery: Any, worker: Any) -> None:
    with worker("-c", "1", "-P", "solo", "-n", "w1@example"):
        said = celery("-A", "single", "control", "time_limit", "nobody.knows", "1", *NODE)
        unknown = celery("-A", "single", "control", "terminate", "FOO", "some-id", *NODE)
    assert said.code == 1
    assert "ERROR" in said.out
    assert unknown.code == 1
    assert "there is no signal 'FOO'" in unknown.out


def test_why_a_worker_cannot_start_is_no_log_record(celery: Any, tmp_path: Path) -> None:
    said = celery("-A", "single", "worker", "--pidfile", str(tmp_path / "no" / "folder.pid"))
    assert said.code == os.EX_CANTCREAT
    assert said.err.splitlines()[-1] == f"Error: {tmp_path / 'no' / 'folder.pid'}: No such file or directory"
    said = celery("-A", "single", "worker", "--uid", "nobody-of-this-name")
    assert said.code == 1
    assert "User does not exist: nobody-of-this-name." in said.err
    assert "Traceback" not in said.err
