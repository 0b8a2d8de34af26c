"""Monitoring programs made for Celery, on the original library in environments of their own, watch our workers.

They are not changed in any way: what they show and what their buttons do is what their users get.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery.utils.digests import sha1
from mixed.conftest import Mixed, brokers
from rig.original import PACKAGES, environment
from rig.redis import RedisServer, free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
FLOWER = ("flower-2.2.0", "flower==2.2.0", *PACKAGES)
EXPORTER = ("celery-exporter-0.11.2", "prometheus-exporter-celery==0.11.2", "celery[redis]==5.5.3")
"""This one does not bear the client of Redis that Celery 5.7 needs."""


def python_of(name: str, *packages: str) -> Path:
    try:
        return environment(name, *packages)
    except LookupError as error:
        pytest.skip(str(error))


class Served:
    """A program that serves HTTP."""

    def __init__(self, command: list[str], port: int, party: Any, folder: Path, **env: str) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.refusal: Exception | None = None
        self.log = folder / f"{Path(command[0]).parents[1].name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env={**party.env, **env}, cwd=folder, stdout=output, stderr=output, start_new_session=True
            )

    def ask(self, path: str, **form: Any) -> Any:
        """The answer to GET, or to POST with *form*; `data` is sent as JSON. None where it refuses."""
        body = None
        if "data" in form:
            body = json.dumps(form["data"]).encode()
        elif form:
            body = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.base + path, body, method="POST" if body is not None else "GET")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError) as error:
            self.refusal = error
            return None
        try:
            return json.loads(text)
        except ValueError:
            return text

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = self.log.read_text()[-3000:]
                pytest.fail(f"{what} was not seen within {PATIENCE} s ({self.refusal}); it says:\n{said}")
            time.sleep(0.1)

    def press(self, path: str, **form: Any) -> Any:
        """The answer to a button: it waits a second for the worker and then refuses, so it may be pressed again."""
        return self.wait(lambda: self.ask(path, **form), f"an answer to {path}")

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture(params=["original", "ours"])
def flower(request: pytest.FixtureRequest, mixed: Mixed, tmp_path: Path) -> Iterator[Served]:
    """Flower on the original library, and on ours, which stands before the one that it was installed with."""
    env = {"FLOWER_UNAUTHENTICATED_API": "true"}
    if request.param == "ours":
        about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = about["optional-dependencies"]
        needed = [*about["dependencies"], *extras["redis"], *extras["rabbitmq"]]
        python = python_of(f"flower-2.2.0-on-ours-{sha1(repr(needed).encode())[:8]}", "flower==2.2.0", *needed)
        env["PYTHONPATH"] = f"{ROOT / 'src'}:{mixed.ours.env['PYTHONPATH']}"
        which = [python, "-c", "import celery; print(celery.__file__)"]
        assert subprocess.check_output(which, env={**os.environ, **env}, text=True).startswith(str(ROOT / "src"))
    else:
        python = python_of(*FLOWER)
    port = free_port()
    command = [str(python), "-m", "celery", "-A", mixed.theirs.file.stem, "flower"]
    command += [f"--port={port}", "--address=127.0.0.1", "--inspect_timeout=2000"]
    served = Served(command, port, mixed.theirs, tmp_path, **env)
    yield served
    served.end()


@brokers
@pytest.mark.timeout(600)  # it may install Flower
def test_flower_shows_our_workers_and_their_tasks_and_its_buttons_work(
    mixed: Mixed, flower: Served, broker_server: object
) -> None:
    process = mixed.ours.worker("-E", "--heartbeat-interval", "0.5", concurrency=2)
    flower.wait(lambda: flower.ask("/api/workers") is not None, "the API")
    parts = ("stats", "active_queues", "registered")  # each is asked for by itself
    workers = flower.wait(
        lambda: {
            name: seen
            for name, seen in (flower.ask("/api/workers?refresh=1") or {}).items()
            if all(seen.get(part) for part in parts)
        },
        "our worker",
    )
    [name] = workers
    assert name.startswith("ours0@")

    # What it shows of workers and queues.
    assert workers[name]["stats"]["pool"]["max-concurrency"] == 2
    assert [queue["name"] for queue in workers[name]["active_queues"]] == ["celery"]
    assert "fleet_app.add" in workers[name]["registered"]
    flower.wait(lambda: flower.ask("/api/workers?status=1") == {name: True}, "that the worker is online")

    # Tasks that it sends, and their states.
    sent = flower.press("/api/task/async-apply/fleet_app.add", data={"args": [1, 2]})["task-id"]
    named = flower.press("/api/task/send-task/fleet_app.echo", data={"args": [1]})["task-id"]
    failed = flower.press("/api/task/async-apply/fleet_app.add", data={"args": ["a", 1]})["task-id"]

    def task(id: str, state: str) -> Any:
        return flower.wait(
            lambda: (seen := flower.ask("/api/tasks") or {}) and seen.get(id, {}).get("state") == state and seen[id],
            f"task {id} as {state}",
        )

    done = task(sent, "SUCCESS")
    assert (done["name"], done["args"], done["result"], done["worker"]) == ("fleet_app.add", "[1, 2]", "3", name)
    assert done["runtime"] > 0
    assert done["received"] <= done["started"] <= done["succeeded"]
    task(named, "SUCCESS")
    assert "TypeError" in task(failed, "FAILURE")["exception"]
    assert flower.press(f"/api/task/info/{sent}")["state"] == "SUCCESS"
    assert flower.press(f"/api/task/result/{sent}")["result"] == 3
    assert set(flower.press("/api/task/types")["task-types"]) >= {"fleet_app.add", "fleet_app.echo"}
    if isinstance(broker_server, RedisServer):  # of RabbitMQ it asks the management plugin
        assert [queue["name"] for queue in flower.press("/api/queues/length")["active_queues"]] == ["celery"]

    # The pool.
    assert "Growing" in flower.press(f"/api/worker/pool/grow/{name}", n=1)["message"]
    assert "Shrinking" in flower.press(f"/api/worker/pool/shrink/{name}", n=1)["message"]

    # Queues.
    assert "extra" in flower.press(f"/api/worker/queue/add-consumer/{name}", queue="extra")["message"]

    def consumed() -> list[str]:
        seen = (flower.ask(f"/api/workers?refresh=1&workername={name}") or {}).get(name, {})
        return [queue["name"] for queue in seen.get("active_queues", ())]

    flower.wait(lambda: consumed() == ["celery", "extra"], "both queues")
    assert flower.press(f"/api/worker/queue/cancel-consumer/{name}", queue="extra")["message"]

    # Limits.
    limits = flower.press("/api/task/timeout/fleet_app.slow_add", workername=name, soft=50, hard=60)
    assert "time limits set successfully" in str(limits)

    rates = flower.press("/api/task/rate-limit/fleet_app.slow_add", workername=name, ratelimit="100/s")
    assert "rate limit" in str(rates)

    # A task that runs is ended.
    running = flower.press("/api/task/async-apply/fleet_app.mark_late", data={"args": [1, 60]})["task-id"]
    task(running, "STARTED")
    assert "Revoked" in flower.press(f"/api/task/revoke/{running}", terminate="true")["message"]
    task(running, "REVOKED")

    # And the worker is shut down; Flower sees it go.
    assert "Shutting down" in flower.press(f"/api/worker/shutdown/{name}", go="now")["message"]
    assert process.wait(60) == 0
    flower.wait(lambda: flower.ask("/api/workers?status=1") == {name: False}, "that the worker is offline")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="capability: this exporter is for Python before 3.13")
@brokers
@pytest.mark.timeout(600)  # it may install the exporter
def test_a_prometheus_exporter_counts_our_tasks(mixed: Mixed, tmp_path: Path) -> None:
    python = python_of(*EXPORTER)
    url = json.loads(mixed.ours.env["MIXED_SETTINGS"])["broker_url"]
    port = free_port()
    main = "from src.cli import cli; cli()"
    command = [str(python), "-c", main, f"--broker-url={url}", f"--port={port}", "--host=127.0.0.1"]
    served = Served(command, port, mixed.theirs, tmp_path)
    try:
        mixed.ours.worker("-E", "--heartbeat-interval", "0.5", concurrency=1)

        def metrics() -> str:
            return str(served.ask("/metrics") or "")

        served.wait(lambda: 'celery_worker_up{hostname="' in metrics(), "the worker")  # so it listens
        mixed.ours.run("app.conf.task_send_sent_event = True\nfor n in range(3): add.delay(n)\nadd.delay('a', 1)")

        def counted(name: str, number: int) -> bool:
            return any(
                line.startswith(f"celery_{name}_total{{") and 'fleet_app.add"' in line and line.endswith(f" {number}.0")
                for line in metrics().splitlines()
            )

        for what, number in (("task_received", 4), ("task_started", 4), ("task_succeeded", 3), ("task_failed", 1)):
            served.wait(lambda what=what, number=number: counted(what, number), what)
    finally:
        served.end()
