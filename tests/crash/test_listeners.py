"""Queues that are one listener's own (kombu's `Broadcast`): however it went, nothing of them is left."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crash.fleet import Fleet, Process, slaughter
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]


class Place(NamedTuple):
    """A fleet; what says where something of the queue `news.one` is; whether messages go out to other processes."""

    fleet: Fleet
    left: Callable[[], set[str]]
    fans_out: bool = True

    def send(self, task: str, *args: float, to: str, **options: Any) -> None:
        target = {"exchange": "news"} if self.fans_out else {"queue": to}
        self.fleet.client(f"{task}.apply_async({args!r}, **{ {**target, **options}!r})")


def own(name: str) -> dict[str, Any]:
    """The settings of a process that has the queue *name*, as `Broadcast('news')` makes it."""
    return {"task_queues": {name: {"exchange": "news", "exchange_type": "fanout", "auto_delete": True}}}


@pytest.fixture(params=["redis", "sqlite", "filesystem", "sqla"])
def place(request: pytest.FixtureRequest, make_fleet: Callable[..., Fleet], tmp_path: Path) -> Place:
    kind, sender, results = request.param, own("news.client"), f"sqlite:///{tmp_path}/results.db"
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("durable")
        return Place(make_fleet(broker=server.url(), **sender), lambda: redis_places(server))
    if kind == "filesystem":
        data, control = tmp_path / "data", tmp_path / "control"
        data.mkdir()
        options = {"data_folder_in": str(data), "data_folder_out": str(data), "control_folder": str(control)}
        fleet = make_fleet(broker="filesystem://", backend=results, broker_transport_options=options, **sender)
        return Place(fleet, lambda: file_places([data, control, fleet.folder / "home"]))
    database = tmp_path / "broker.db"
    url = f"{'sqla+' if kind == 'sqla' else ''}sqlite:///{database}"
    fleet = make_fleet(broker=url, backend=results, **sender)
    return Place(fleet, lambda: table_places(database), fans_out=kind == "sqlite")


def redis_places(server: RedisServer) -> set[str]:
    found = server.keys("*news.one*")
    kinds = {"set": ("SMEMBERS",), "zset": ("ZRANGE", 0, -1), "hash": ("HGETALL",)}
    for key in server.keys("celeriac.*") | server.keys("_kombu.*"):
        look = kinds.get(server.ask("TYPE", key).decode())
        if look and any(b"news.one" in name for name in server.ask(look[0], key, *look[1:])):
            found.add(key)
    return found


def table_places(path: Path) -> set[str]:
    database = sqlite3.connect(path)
    lines = [line for line in database.iterdump() if "news.one" in line]
    database.close()
    return {line.split()[2] for line in lines}


def file_places(folders: Sequence[Path]) -> set[str]:
    """Of files and folders that may go while they are looked at."""
    found = set[str]()
    for folder, folders_in, files in (step for place in folders for step in os.walk(place)):
        found |= {str(Path(folder, name)) for name in (*folders_in, *files) if "news.one" in name}
        for path in [Path(folder, name) for name in files]:
            with suppress(FileNotFoundError):
                if b"news.one" in path.read_bytes():
                    found.add(str(path))
    return found


def listen(place: Place, seconds: float) -> Process:
    """A worker that runs one task of its queue, and has others, one of which is not due."""
    fleet = place.fleet
    worker = fleet.start(ready=True, concurrency=1, **own("news.one"))
    place.send("late", 6, 0, to="news.one", countdown=600)
    for number in range(6):
        place.send("late", number, seconds, to="news.one")
    fleet.wait(lambda: fleet.begun() >= 1)
    return worker


def test_of_one_that_was_killed(place: Place) -> None:
    """When its lease has ended, with the next sweep of any worker."""
    fleet = place.fleet
    worker = listen(place, 60)
    assert place.left()
    slaughter(worker)
    # Its own lease is one that it keeps even where it stands still for a while.
    fleet.start(ready=True, concurrency=1, worker_lease=4.0, **own("news.two"))
    fleet.wait(lambda: not place.left())
    place.send("early", 0, to="news.two")
    fleet.wait(lambda: fleet.lines()["early 0"] == 1)
    assert not place.left()


def test_of_one_that_stops(place: Place) -> None:
    worker = listen(place, 3)
    worker.terminate()
    assert worker.wait(60) == 0
    assert "late-end" in place.fleet.log.read_text()
    assert place.left() == set()
