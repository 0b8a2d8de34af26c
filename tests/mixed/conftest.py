"""Producers and workers of both kinds of Celery on one broker, Redis or RabbitMQ; results are in Redis."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from celery import Celery
from rig.original import VERSION, Party, ending, environment
from rig.rabbitmq import RabbitMQ
from rig.redis import RedisServer

APPLICATION = Path(__file__).parent / "application" / "fleet_app.py"
brokers = pytest.mark.parametrize("broker_server", ["redis", "rabbitmq"], indirect=True, scope="session")
on_rabbitmq = pytest.mark.parametrize("broker_server", ["rabbitmq"], indirect=True, scope="session")


class Mixed(NamedTuple):
    """Both kinds, and the log that their tasks write to."""

    ours: Party
    theirs: Party
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def wait_for_theirs(self) -> None:
        """Until the original's workers answer: on Redis they subscribe after they have said that they are ready."""
        app = Celery("asker", set_as_current=False)
        app.conf.update(json.loads(self.theirs.env["MIXED_SETTINGS"]))
        count = len(self.theirs.workers)
        asked = {"pattern": "theirs*", "matcher": "glob", "timeout": 1.0, "limit": count}
        try:
            self.theirs.wait(lambda: len(app.control.ping(**asked)) >= count)
        finally:
            app.close()

    def wait_for_lines(self, count: int, seconds: float) -> None:
        """Fails with what the workers of both kinds have written."""
        deadline = time.monotonic() + seconds
        while (found := len(self.lines())) < count:
            if time.monotonic() > deadline:
                said = "\n\n".join(f"{party.name} says:\n{party.said[-4000:]}" for party in (self.ours, self.theirs))
                pytest.fail(f"{found} of {count} lines within {seconds} s; {said}")
            time.sleep(0.02)


@pytest.fixture(scope="session")
def broker_server(request: pytest.FixtureRequest) -> RedisServer | RabbitMQ:
    """Redis, or what the test asks for with `brokers` or `on_rabbitmq`. It outlives the test: see `redis_server`."""
    found: RedisServer | RabbitMQ = request.getfixturevalue(f"{getattr(request, 'param', 'redis')}_server")
    return found


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, broker_server: RedisServer | RabbitMQ, redis_url: str) -> str:
    """An empty broker."""
    return redis_url if isinstance(broker_server, RedisServer) else str(request.getfixturevalue("rabbitmq_url"))


@pytest.fixture
def left(broker_server: RedisServer | RabbitMQ, broker_url: str) -> Callable[[str], set[str]]:
    """`left(word)`: lists or queues of the broker with *word* in their names."""
    if isinstance(broker_server, RedisServer):
        server = broker_server
        return lambda word: server.keys(f"*{word}*")
    node, vhost = broker_server, broker_url.rpartition("/")[2]
    return lambda word: {row[0] for row in node.queues("name", vhost=vhost) if word in row[0]}


@pytest.fixture
def make_mixed(original: Path, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[Callable[..., Mixed]]:
    """`make_mixed(**settings)`: both kinds, with these settings besides the broker's."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Mixed:
            log = tmp_path / "tasks.log"
            log.touch()
            known = {"broker_url": broker_url, "result_backend": redis_url, "broker_connection_retry_on_startup": True}
            env = {"MIXED_SETTINGS": json.dumps({**known, **settings}), "MIXED_LOG": str(log)}
            ours = Party("ours", sys.executable, APPLICATION, tmp_path / "ours", env)
            theirs = Party("theirs", original, APPLICATION, tmp_path / "theirs", env)
            stack.enter_context(ending(ours, theirs))
            return Mixed(ours, theirs, log)

        yield make


def files(folder: Path) -> dict[str, Any]:
    """The settings of a broker over `filesystem://`, all of it below *folder*."""
    (folder / "data").mkdir(exist_ok=True)
    options = {f"data_folder_{way}": str(folder / "data") for way in ("in", "out")}
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {**options, "control_folder": str(folder / "control")},
    }


@pytest.fixture(scope="session")
def with_sql() -> Path:
    """The Python of an environment with the original and what it needs for `sqla+sqlite://`."""
    try:
        return environment(
            f"original-celery-{VERSION}-sqlalchemy-2.0",
            f"celery[redis]=={VERSION}",
            "hiredis",
            "SQLAlchemy>=2.0.36,<2.1",
        )
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def bridged(request: pytest.FixtureRequest, make_mixed: Callable[..., Mixed], tmp_path: Path) -> Callable[..., Mixed]:
    """`bridged("files" or "sql", **settings)`: both kinds over a transport of kombu that has no driver here."""

    def make(place: str, **settings: Any) -> Mixed:
        if place == "files":
            return make_mixed(**files(tmp_path), **settings)
        made = make_mixed(broker_url=f"sqla+sqlite:///{tmp_path}/broker.db", **settings)
        made.theirs.python = str(request.getfixturevalue("with_sql"))
        return made

    return make


@pytest.fixture
def mixed(make_mixed: Callable[..., Mixed]) -> Mixed:
    return make_mixed()
