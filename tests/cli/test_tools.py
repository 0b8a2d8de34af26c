"""The commands beside the worker's: what is at the broker, prompts, pictures, logs, settings files, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery.bin.logtool import Audit, task_info
from celery.bin.upgrade import _compat_key, rewrite
from celery.utils.functional import pass1
from rig.rabbitmq import RabbitMQ

PROJECT = Path(__file__).parent / "project"


def test_bindings(celery: Any) -> None:
    celery("-A", "single", "amqp", "queue.declare", "images")
    lines = celery("-A", "single", "list", "bindings").out.splitlines()
    assert lines[0].split() == ["Queue", "Exchange", "Routing", "Key"]
    assert [line.split() for line in lines[2:]] == [["celery", "celery", "celery"], ["images", "images"]]


def test_bindings_of_every_type(celery: Any, rabbitmq_url: str, rabbitmq_server: RabbitMQ) -> None:
    said = celery("-A", "bound", "-b", rabbitmq_url, "list", "bindings")
    assert said.code == 0, said.text
    table = [(line[:28].strip(), line[29:57].strip(), line[58:].strip()) for line in said.out.splitlines()[2:]]
    assert table == [
        ("cats", "work", "cat"),
        ("dogs", "animals", "#.dog"),
        ("dogs", "animals", "dog.#"),
        ("dogs", "celery", "celery"),
        ("dogs", "work", "dogs"),
        ("everybody", "everybody", "celery"),
        ("plain", "celery", "celery"),
    ]
    assert rabbitmq_server.queues("name", vhost=rabbitmq_url.rpartition("/")[2]) == [], "it only looks"


# --- shell ------------------------------------------------------------------------------------------------------------


def test_a_prompt_with_the_application_at_hand(celery: Any) -> None:
    code = (
        "print('the app:', app.main, celery is app)\n"
        "print('names:', all(x in globals() for x in 'Task chord group chain chunks xmap xstarmap subtask'.split()))\n"
        "print('task:', add.name)\n"
    )
    said = celery("-A", "single", "shell", "--python", stdin=code)
    assert said.code == 0
    for words in ("the app: single True", "names: True", "task: single.add"):
        assert words in said.out
    said = celery("-A", "single", "shell", stdin="print('add' in globals())\n")
    assert "True" in said.out
    assert "False" in celery("-A", "single", "shell", "-T", stdin="print('add' in globals())\n").out


@pytest.mark.parametrize(("option", "package"), [("-I", "IPython"), ("-B", "bpython")])
def test_a_prompt_that_is_not_installed(celery: Any, tmp_path: Path, option: str, package: str) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError\n")
    said = celery("-A", "single", "shell", option, PYTHONPATH=str(tmp_path))
    assert said.code == 1
    assert said.err == f"Error: {package} is not installed: pip install {package.lower()}.\n"


def test_a_prompt_that_is(celery: Any, tmp_path: Path) -> None:
    (tmp_path / "IPython.py").write_text(
        "def start_ipython(argv, user_ns): print('IPython with', user_ns['app'].main)\n"
    )
    said = celery("-A", "single", "shell", "-I", PYTHONPATH=str(tmp_path))
    assert said.out == "IPython with single\n"


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_workers_are_drawn(celery: Any, worker: Any) -> None:
    said = celery("-A", "single", "graph", "workers", "nodes:a,b", "threads:2,9", "backend:redis://h")
    assert said.out.startswith("digraph")
    for words in ('"a 2" -> "a"', '"b: 1 more" -> "b"', '"b" -> "redis://h"', 'shape="circle"', 'shape="folder"'):
        assert words in said.out
    nobody = celery("-A", "single", "graph", "workers")
    assert nobody.code == 1
    assert "No worker answers" in nobody.err
    assert "What is 'colour'?" in celery("-A", "single", "graph", "workers", "colour:red").err
    with worker("-P", "solo", "-n", "w1@here") as running:  # it is given a second to answer
        running.wait_for(lambda: '"w1@here 1" -> "w1@here"' in celery("-A", "single", "graph", "workers").out)


def test_services_are_drawn(celery: Any) -> None:
    said = celery("-A", "stepped", "graph", "bootsteps")
    for words in ('"Consumer" -> "Pool"', '"Leases" -> "Consumer"', '"Mine" -> "Pool"'):
        assert words in said.out


# --- logs -------------------------------------------------------------------------------------------------------------

LOG = """\
[2026-11-28 08:49:30,544: INFO/MainProcess] Connected to redis://
[2026-11-28 08:49:30,544: INFO/MainProcess] Task proj.nap[id-1] received
[2026-11-28 08:49:30,545: INFO/MainProcess] Received task: proj.nap[id-2]
[2026-11-28 08:49:30,545: INFO/MainProcess] Task proj.bad[id-3] received
[2026-11-28 08:49:30,545: INFO/MainProcess] Task proj.again[id-4] received
\x1b[1;34m[2026-11-28 08:49:34,576: INFO/ForkPoolWorker-1] Task proj.nap[id-1] succeeded in 4.02s: 4\x1b[0m
[2026-11-28 08:49:34,576: ERROR/ForkPoolWorker-1] Task proj.bad[id-3] raised unexpected: ValueError('x')
Traceback (most recent call last):
ValueError: x
[2026-11-28 08:49:34,577: INFO/ForkPoolWorker-1] Task proj.again[id-4] retry: Retry in 3s: ValueError('y')
{"time": "2026-11-28T08:49:40.000+00:00", "level": "INFO", "process": "P", "message": "Task proj.json[id-5] received"}
"""


def test_logs_are_read(celery: Any, tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_text(LOG)
    assert (
        "Task total: 5\nTask errors: 1\nTask success: 1\nTask completed: 2\n"
        in celery("logtool", "stats", str(path)).out
    )
    assert "2: proj.nap" in celery("logtool", "stats", stdin=LOG).out
    assert celery("logtool", "traces", str(path)).out == "Traceback (most recent call last):\nValueError: x\n"
    assert celery("logtool", "errors", str(path)).out.splitlines() == [LOG.splitlines()[6]]
    missing = celery("logtool", "incomplete", str(path)).out.splitlines()
    assert missing == [
        f"Did not complete: {what}" for what in ("proj.nap[id-2]", "proj.again[id-4]", "proj.json[id-5]")
    ]
    assert celery("logtool", "debug", str(path)).out.splitlines() == [LOG.splitlines()[0]]
    assert celery("logtool", "stats", str(tmp_path / "nowhere")).code == 2


def test_logs_of_a_real_worker_are_read(celery: Any, worker: Any) -> None:
    with worker("-P", "solo") as running:
        celery("-A", "single", "call", "single.add", "-a", "[1, 2]")
        celery("-A", "single", "call", "single.fail", "-a", '["why"]')
        running.expect("raised unexpected")
        running.stop()
    report = Audit().run([str(running.log)]).report()["task"]
    assert (report["total"], report["errors"], report["succeeded"]) == (2, 1, 1)


def test_which_task_a_line_is_about() -> None:
    assert task_info("[2026-11-28 08:49:30,544: INFO/MainProcess] Task a.b[id] received") == ("a.b", "id")
    with pytest.raises(ValueError, match="No task is named"):
        task_info("[2026-11-28 08:49:30,544: INFO/MainProcess] ready")


# --- settings files ---------------------------------------------------------------------------------------------------

OLD = """\
# CELERYD_CONCURRENCY in a comment
BROKER_URL = 'redis://BROKER_URL'
CELERYD_CONCURRENCY   =   3
CELERYBEAT_SCHEDULE = {'x': {'task': 'CELERY_IMPORTS'}}
class Config: CELERY_TASK_SERIALIZER = "json"
OTHER = CELERYD_CONCURRENCY + thing.CELERYD_CONCURRENCY
CELERY_ACCEPT_CONTENT = ["json"]; MY_CELERY_TIMEZONE = 'é'
"""


def test_old_names_become_new_ones(celery: Any, tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_text(OLD, encoding="utf-8")
    said = celery("upgrade", "settings", str(path))
    assert said.code == 0
    assert "Changes to your setting have been made!" in said.out
    assert (
        path.read_text(encoding="utf-8")
        == """\
# CELERYD_CONCURRENCY in a comment
broker_url = 'redis://BROKER_URL'
worker_concurrency   =   3
beat_schedule = {'x': {'task': 'CELERY_IMPORTS'}}
class Config: task_serializer = "json"
OTHER = worker_concurrency + thing.CELERYD_CONCURRENCY
accept_content = ["json"]; MY_CELERY_TIMEZONE = 'é'
"""
    )
    assert (tmp_path / "celeryconfig.py.orig").read_text(encoding="utf-8") == OLD
    assert "not seem to require any changes" in celery("upgrade", "settings", str(path)).out


@pytest.mark.parametrize("option", ["--django", "--compat"])
def test_names_of_django_projects(celery: Any, tmp_path: Path, option: str) -> None:
    path = tmp_path / "settings.py"
    path.write_text(OLD, encoding="utf-8")
    assert celery("upgrade", "settings", option, "--no-backup", str(path)).code == 0
    assert "CELERY_WORKER_CONCURRENCY   =   3\nCELERY_BEAT_SCHEDULE" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_python_stays(celery: Any, tmp_path: Path) -> None:
    path = tmp_path / "settings.py"
    path.write_text("BROKER_URL = '''unfinished")
    said = celery("upgrade", "settings", str(path))
    assert said.code == 1
    assert "is no Python that can be read" in said.err
    assert path.read_text() == "BROKER_URL = '''unfinished"


def test_names_are_rewritten_where_they_are_names() -> None:
    assert rewrite("x = CELERY_IMPORTS\n", pass1) == ("x = imports\n", {"CELERY_IMPORTS": "imports"})
    assert rewrite("CELERY_IMPORTS = BROKER_URL\n", _compat_key)[0] == "CELERY_IMPORTS = CELERY_BROKER_URL\n"
    assert rewrite("imports = 1\n", pass1) == ("imports = 1\n", {})


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(celery: Any, shell: str) -> None:
    said = celery("-A", "broken", "completion", shell)
    assert said.code == 0
    assert f"_CELERY_COMPLETE={shell}_complete" in said.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="capability: no bash here")
def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "celery"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m celery "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(celery completion bash)"; COMP_WORDS=(celery wor); COMP_CWORD=1; _celery_completion celery;'
        ' echo "${COMPREPLY[@]}"; COMPREPLY=();'
        " COMP_WORDS=(celery worker --concu); COMP_CWORD=2; _celery_completion celery;"
        ' echo "${COMPREPLY[@]}"'
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines() == ["worker workflow", "--concurrency"]


# --- doctor and report ------------------------------------------------------------------------------------------------


def findings(celery: Any, *options: str, **settings: Any) -> tuple[int, dict[str, str]]:
    said = celery("-A", "settled", "doctor", "--json", *options, APP_SETTINGS=json.dumps(settings))
    return said.code, {found["setting"]: found["level"] for found in json.loads(said.out)}


def test_what_is_risky(celery: Any) -> None:
    code, found = findings(celery)
    assert code == 0
    assert found["task_acks_late"] == found["task_time_limit"] == "warning"
    assert found["broker_url"] == "note"
    assert findings(celery, "--strict")[0] == 1
    text = celery("-A", "settled", "doctor")
    assert "warning  task_time_limit: is not set" in text.out
    assert "warnings, " in text.out.splitlines()[-1]


def test_what_is_well(celery: Any) -> None:
    code, found = findings(
        celery,
        "--strict",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=60,
        task_soft_time_limit=50,
        worker_soft_shutdown_timeout=10,
        broker_connection_max_retries=None,
    )
    assert code == 0
    assert set(found.values()) <= {"note"}


@pytest.mark.parametrize(
    ("settings", "setting", "level"),
    [
        ({"broker_url": "redys://x"}, "broker_url", "error"),
        ({"broker_url": "redis://127.0.0.1:1"}, "broker_url", "error"),
        ({"task_time_limit": 5, "task_soft_time_limit": 5}, "task_soft_time_limit", "error"),
        ({"accept_content": ["json", "pickle"]}, "accept_content", "warning"),
        ({"task_serializer": "pickle"}, "task_serializer", "error"),
        ({"worker_pool": "threads", "task_time_limit": 5}, "task_time_limit", "warning"),
        ({"worker_eta_task_limit": 5}, "worker_eta_task_limit", "note"),
        ({"task_routes": {"a": {"queue": "nobody"}}, "task_create_missing_queues": False}, "task_routes", "error"),
        ({"broker_transport_options": {"visibility_timeout": 5}}, "broker_transport_options", "note"),
    ],
)
def test_what_is_found(celery: Any, settings: dict[str, Any], setting: str, level: str) -> None:
    code, found = findings(celery, **settings)
    assert found[setting] == level
    assert code == (level == "error")


def test_the_report_names_the_kind_of_driver(celery: Any) -> None:
    assert "driver   -> native" in celery("-A", "single", "report").out


# --- queues and messages by hand --------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # many programs, one after the other
def test_messages_by_hand(celery: Any) -> None:
    def amqp(*words: str, **options: Any) -> Any:
        return celery("-A", "single", "amqp", *words, **options)

    assert amqp("queue.declare", "foo").out == "queue:foo messages:0 consumers:0\nOK\n"
    assert amqp("queue.declare", "bar", "true").code == 1
    assert amqp("basic.publish", "hello", "", "foo").out == "OK\n"
    got = amqp("basic.get", "foo").out
    assert json.loads(got[: got.rindex("}") + 1])["body"] == "hello"
    # Not acknowledged: it is there again.
    session = amqp(stdin="basic.get foo\nbasic.ack 1\nqueue.declare foo\nnonsense\nbasic.ack 7\nexit\n")
    assert '"body": "hello"' in session.out
    assert "queue:foo messages:0 consumers:0" in session.out
    assert "No such command 'nonsense'" in session.text
    assert "No message '7' was taken in this session." in session.text
    assert amqp("basic.get", "foo").out.startswith("No messages in queue.")
    amqp("basic.publish", "x", "", "foo")
    assert amqp("queue.purge", "foo").out == "1 message deleted.\nOK\n"
    for words in (("exchange.declare", "x", "direct"), ("queue.bind", "a", "b", "c"), ("exchange.delete", "x")):
        refused = amqp(*words)
        assert refused.code == 1
        assert "This broker has no exchanges" in refused.err


def test_tasks_are_migrated(celery: Any, tmp_path: Path) -> None:
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    for number in (1, 2):
        celery("-A", "single", "-b", old, "call", "single.add", "-a", f"[{number}, 2]")
    said = celery("-A", "single", "migrate", "-a", "-n", "1", old, new)
    assert said.out.splitlines()[-1] == "Migrated 1 of 1 task."
    assert "Migrating task 1/2: single.add[" in said.out
    assert "celery      1" in celery("-A", "single", "-b", old, "queues").out
    assert "celery      1" in celery("-A", "single", "-b", new, "queues").out
