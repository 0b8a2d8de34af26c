"""Where messages and results can be without any set-up but a server of Redis: a test that takes these runs on each."""

from __future__ import annotations

from uuid import uuid4

import pytest


@pytest.fixture(scope="session", params=["memory", "sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """What holds messages and results. Decided before a test begins, which the server of Redis outlives."""
    if request.param == "redis":
        request.getfixturevalue("redis_server")
    return str(request.param)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker, which is a result store too."""
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    if kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/place.db"
    return f"memory://{uuid4()}"
