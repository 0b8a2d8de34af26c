"""Events in fleets of both kinds: each kind hears the other."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.signals import task_postrun
from mixed.conftest import Mixed, brokers
from rig.original import Party

pytestmark = pytest.mark.timeout(300)
PATIENCE = 60.0


@contextmanager
def dump(party: Party, folder: Path) -> Iterator[Callable[[], str]]:
    """`celery events --dump` of one kind, while the block lasts; gives what it has printed."""
    out = folder / f"{party.name}.dump"
    command = [party.python, "-W", "ignore", "-m", "celery", "-A", party.file.stem, "events", "--dump"]
    with out.open("wb") as output:
        process = subprocess.Popen(command, env=party.env, cwd=party.folder, stdout=output, stderr=output)
    try:
        wait(lambda: "starting capture" in out.read_text(), out.read_text)
        listens(party, out)
        yield out.read_text
    finally:
        process.terminate()
        process.wait(30)


def listens(party: Party, out: Path) -> None:
    """Return when what is sent is printed: that somebody begins to listen is said before it is so."""
    app = Celery("prober", set_as_current=False)
    app.conf.update(json.loads(party.env["MIXED_SETTINGS"]))
    try:
        with app.events.default_dispatcher() as dispatcher:

            def printed() -> bool:
                dispatcher.send("probe")
                return "probe" in out.read_text()

            wait(printed, out.read_text)
    finally:
        app.close()


def wait(condition: Callable[[], object], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE} s, but: {said()[-3000:]}")
        time.sleep(0.05)


@brokers
def test_each_kind_prints_the_events_of_the_other(mixed: Mixed, tmp_path: Path) -> None:
    with dump(mixed.ours, tmp_path) as ours, dump(mixed.theirs, tmp_path) as theirs:
        mixed.ours.worker("-E", "-Q", "ours", concurrency=1)
        mixed.theirs.worker("-E", "--without-mingle", "-Q", "theirs", concurrency=1)

        def seen(text: Callable[[], str]) -> bool:
            said = text()
            return all(
                f"{kind}0@" in line
                for kind in ("ours", "theirs")
                for line in [
                    next((line for line in said.splitlines() if f"{kind}0@" in line and "started:" in line), "")
                ]
            )

        for text in (ours, theirs):
            wait(lambda text=text: seen(text), text)

        # Tasks, some for each.
        mixed.ours.run("for n in range(20): echo.apply_async((n,), queue=['ours', 'theirs'][n % 2])")
        for text in (ours, theirs):
            for kind in ("ours", "theirs"):
                wait(
                    lambda text=text, kind=kind: any(
                        f"{kind}0@" in line and "task succeeded: fleet_app.echo(" in line and "result=" in line
                        for line in text().splitlines()
                    ),
                    text,
                )
        assert "Traceback" not in ours() + theirs()


@brokers
def test_what_each_kind_sends_is_told_alike(mixed: Mixed, tmp_path: Path) -> None:
    with dump(mixed.ours, tmp_path) as ours:
        for party in (mixed.ours, mixed.theirs):
            party.run("app.conf.task_send_sent_event = True\nadd.apply_async((1, 2), task_id='one', expires=60)")
        wait(lambda: ours().count("task sent: fleet_app.add(one) args=(1, 2) kwargs={}") == 2, ours)
        first, second = (line.split("args=")[1] for line in ours().splitlines() if "task sent" in line)
        names = [[field.partition("=")[0].strip() for field in line.split(", ")] for line in (first, second)]
        assert names[0] == names[1]


@brokers
def test_mingle_and_gossip_with_workers_of_the_original(mixed: Mixed) -> None:
    """An original that starts beside ours is not disturbed; ours, asked to mingle, learns what it knows."""
    mixed.theirs.worker(concurrency=1)
    mixed.wait_for_theirs()
    mixed.theirs.run("app.control.revoke('unwanted')")
    first = mixed.ours.worker("--mingle", "--gossip", concurrency=1)
    second = mixed.theirs.worker(concurrency=1)
    mixed.wait_for_theirs()
    assert "mingle: sync with 1 nodes" in mixed.ours.said
    assert "unwanted" in mixed.ours.run(f"print(app.control.inspect(['ours0@{gethostname()}'], timeout=30).revoked())")

    # An election in which all three stand. (Originals may both think that they have won: they do not wait for all.)
    mixed.ours.run("app.control.election('e1', 'task', log.s('elected'))")
    wait(lambda: "elected" in mixed.lines(), lambda: mixed.ours.said + mixed.theirs.said)
    assert first.poll() is None
    assert second.poll() is None
    assert "Traceback" not in mixed.ours.said


@brokers
def test_gossip_among_our_own(broker_url: str, redis_url: str) -> None:
    joined: list[str] = []
    ran: list[str] = []
    app = TestApp(broker=broker_url, backend=redis_url)

    @app.task(name="lead", shared=False)
    def lead() -> None: ...

    @task_postrun.connect(weak=False)
    def on_postrun(task_id: str, **kwargs: object) -> None:
        ran.append(task_id)

    def options(name: str) -> dict[str, object]:
        return {"hostname": name, "gossip": True, "without_heartbeat": False, "heartbeat_interval": 2.0}

    try:
        with start_worker(app, perform_ping_check=False, **options("a@h")) as first:
            gossip = gossip_of(first)
            gossip.on.node_join.add(lambda worker: joined.append(str(worker.hostname)))
            gossip.on.node_leave.add(lambda worker: joined.append(f"-{worker.hostname}"))
            with start_worker(other(broker_url, redis_url), perform_ping_check=False, **options("b@h")):
                wait(lambda: "b@h" in joined, lambda: str(joined))
                app.control.election("e", "task", lead.s())
                wait(lambda: ran, lambda: str(joined))
            wait(lambda: "-b@h" in joined, lambda: str(joined))
        assert len(ran) == 1
    finally:
        task_postrun.disconnect(on_postrun)
        app.close()


def other(broker: str, backend: str) -> Celery:
    app = TestApp(broker=broker, backend=backend)

    @app.task(name="lead", shared=False)
    def lead() -> None: ...

    return app


def gossip_of(worker: object) -> object:
    gossip = worker.consumer.monitoring.gossip  # type: ignore[attr-defined]
    assert gossip is not None
    return gossip
