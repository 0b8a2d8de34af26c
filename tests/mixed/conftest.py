"""Producers and workers of both kinds of Celery on one Redis server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rig.original import Party, ending

APPLICATION = Path(__file__).parent / "application" / "fleet_app.py"


class Mixed(NamedTuple):
    """Both kinds, and the log that their tasks write to."""

    ours: Party
    theirs: Party
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def make_mixed(original: Path, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Mixed]]:
    """`make_mixed(**settings)`: both kinds, with these settings besides the broker's."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Mixed:
            log = tmp_path / "tasks.log"
            log.touch()
            known = {"broker_url": redis_url, "result_backend": redis_url, "broker_connection_retry_on_startup": True}
            env = {"MIXED_SETTINGS": json.dumps({**known, **settings}), "MIXED_LOG": str(log)}
            ours = Party("ours", sys.executable, APPLICATION, tmp_path / "ours", env)
            theirs = Party("theirs", original, APPLICATION, tmp_path / "theirs", env)
            stack.enter_context(ending(ours, theirs))
            return Mixed(ours, theirs, log)

        yield make


@pytest.fixture
def mixed(make_mixed: Callable[..., Mixed]) -> Mixed:
    return make_mixed()
