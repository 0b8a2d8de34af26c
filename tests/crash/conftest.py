"""Fleets, on servers that the fault tests may kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crash.fleet import Fleet, killing
from crash.rabbit import Commits
from rig.proxy import Proxy
from rig.redis import RedisServer


@pytest.fixture
def durable(server: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test that has written to disk what it has answered."""
    running = RedisServer(server("redis"), tmp_path / "server", appendonly="yes", appendfsync="always")
    yield running
    running.stop()


@pytest.fixture
def way(durable: RedisServer) -> Iterator[Proxy]:
    """A proxy before that server."""
    with Proxy(durable.port) as proxy:
        yield proxy


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """`make_fleet(broker=…)`: a fleet whose processes end with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Fleet:
            folder = tmp_path / "fleet"
            folder.mkdir()
            return stack.enter_context(killing(Fleet(folder, **options)))

        yield make


@pytest.fixture
def commits(redis_url: str) -> Iterator[Commits]:
    """What the shared Redis server stores of results, from now on."""
    heard = Commits(redis_url)
    yield heard
    heard.close()
