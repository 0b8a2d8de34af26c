"""Redis servers of these tests' own, links to them, and certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from celery.exceptions import BrokerError
from celery.redis.channel import Channel
from celery.redis.link import Link
from rig.redis import RedisServer

MakeServer = Callable[..., RedisServer]
MakeLink = Callable[..., Link]


@pytest.fixture
def make_server(server: Callable[[str], Path], tmp_path: Path) -> Iterator[MakeServer]:
    """`make_server(**options)`: a server that ends with the test."""
    running: list[RedisServer] = []

    def make(kind: Callable[..., RedisServer] = RedisServer, *args: Any, **options: Any) -> RedisServer:
        made = kind(server("redis"), tmp_path / f"redis-{len(running)}", *args, **options)
        running.append(made)
        return made

    yield make
    for made in reversed(running):
        made.resume()
        made.stop()


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """`make_link(url, **options)`: a link that is closed with the test."""
    made: list[Link] = []

    def make(url: str | Sequence[str], error: type[Exception] = BrokerError, **options: Any) -> Link:
        more = {name: options.pop(name) for name in ("check",) if name in options}
        made.append(Link(url, options, error=error, **more))
        return made[-1]

    yield make
    for link in made:
        link.close()


@pytest.fixture
def listen() -> Iterator[Callable[[Link], Channel]]:
    """`listen(link)`: a channel that is closed with the test."""
    made: list[Channel] = []

    def make(link: Link) -> Channel:
        made.append(Channel(link))
        return made[-1]

    yield make
    for channel in made:
        channel.close()
