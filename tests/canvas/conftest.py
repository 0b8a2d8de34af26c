"""Workflows on workers over every broker, its results beside the messages or apart from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from canvas.stage import Stage, staged
from celery.utils import uuid


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis", "split", "rabbitmq", "rpc"])
def _stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    broker = backend = f"memory://{uuid()}"
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        broker, backend = server.url(0), server.url(1)
    elif request.param == "sqlite":
        broker = backend = f"sqlite:///{tmp_path_factory.mktemp('canvas')}/canvas.db"
    elif request.param in {"rabbitmq", "rpc"}:
        node, vhosts = request.getfixturevalue("rabbitmq_server"), request.getfixturevalue("rabbitmq_vhosts")
        broker, backend = node.url(next(vhosts)), "rpc://"
        if request.param == "rabbitmq":
            server = request.getfixturevalue("redis_server")
            server.command("FLUSHALL")
            backend = server.url(1)
    elif request.param == "split":
        backend = f"sqlite:///{tmp_path_factory.mktemp('canvas')}/results.db"
    with staged(broker, backend) as stage:
        yield stage


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    """An app with a worker: in memory, in a file, in Redis; results elsewhere than messages."""
    _stage.noted.clear()
    _stage.gates.clear()
    conf = dict(_stage.app.conf.changes) if hasattr(_stage.app.conf, "changes") else {}
    yield _stage
    for gate in _stage.gates.values():
        gate.set()
    _stage.settle()
    for name in set(getattr(_stage.app.conf, "changes", {})) - set(conf):
        del _stage.app.conf.changes[name]
