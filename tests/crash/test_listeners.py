"""Queues that are one listener's own (kombu's `Broadcast`): however it went, nothing of them is left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crash.fleet import Fleet, Process, slaughter
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]
SEND = """
late.apply_async((6, 0), exchange='news', countdown=600)
for n in range(6):
    late.apply_async((n, {}), exchange='news')
"""


def own(name: str) -> dict[str, Any]:
    """The settings of a worker that has the queue *name*, as `Broadcast('news')` makes it."""
    return {"task_queues": {name: {"exchange": "news", "exchange_type": "fanout", "auto_delete": True}}}


@pytest.fixture(params=["redis", "sqlite"])
def places(
    request: pytest.FixtureRequest, make_fleet: Callable[..., Fleet], durable: RedisServer
) -> tuple[Fleet, Callable[[], set[str]]]:
    """A fleet, and what says where something of the queue `news.one` is."""
    if request.param == "redis":
        return make_fleet(broker=durable.url()), lambda: redis_places(durable)
    fleet = make_fleet()
    return fleet, lambda: sqlite_places(fleet.folder)


def redis_places(server: RedisServer) -> set[str]:
    found = server.keys("*news.one*")
    kinds = {"set": ("SMEMBERS",), "zset": ("ZRANGE", 0, -1), "hash": ("HGETALL",)}
    for key in server.keys("celeriac.*") | server.keys("_kombu.*"):
        look = kinds.get(server.ask("TYPE", key).decode())
        if look and any(b"news.one" in name for name in server.ask(look[0], key, *look[1:])):
            found.add(key)
    return found


def sqlite_places(folder: Path) -> set[str]:
    [path] = folder.rglob("*.db")
    with sqlite3.connect(path) as database:
        lines = [line for line in database.iterdump() if "news.one" in line]
    database.close()
    return {line.split()[2] for line in lines}


def listen(fleet: Fleet, seconds: float) -> Process:
    """A worker that runs one task of its queue, has claimed others, and holds back one."""
    worker = fleet.start(ready=True, concurrency=1, **own("news.one"))
    fleet.client(SEND.format(seconds))
    fleet.wait(lambda: fleet.lines()["late 0"] == 1)
    fleet.wait(lambda: fleet.client("[s] = app.broker.stats(['news.one']); print(s.delayed)").strip() == "1")
    return worker


def test_of_one_that_was_killed(places: tuple[Fleet, Callable[[], set[str]]]) -> None:
    """When its lease has ended, with the next sweep of any worker."""
    fleet, left = places
    worker = listen(fleet, 60)
    assert len(left()) > 4
    slaughter(worker)
    fleet.start(ready=True, concurrency=1, **own("news.two"))
    fleet.wait(lambda: not left(), 20)
    fleet.client("early.apply_async((0,), exchange='news')")
    fleet.wait(lambda: fleet.lines()["early 0"] == 1)
    assert not left()


def test_of_one_that_stops(places: tuple[Fleet, Callable[[], set[str]]]) -> None:
    fleet, left = places
    worker = listen(fleet, 3)
    worker.terminate()
    assert worker.wait(30) == 0
    assert fleet.lines()["late-end 0"] == 1
    assert left() == set()
