"""Chords over `rpc://`, with no result store anywhere, while the workers that run them are killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixed.conftest import APPLICATION
from rig.original import Party, ending

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

CHORDS, PARTS = 12, 5
CLIENT = f"""
import json, sys
from celery import chord
sent = [chord([mark_late.s(part, 0.02) for part in range({PARTS})])(mark_late.s()) for _ in range({CHORDS})]
print("sent", flush=True)
print(json.dumps([body.get(timeout=120) for body in sent]), flush=True)
"""


@pytest.fixture
def fleet(rabbitmq_url: str, tmp_path: Path) -> Iterator[Party]:
    settings = {"broker_url": rabbitmq_url, "result_backend": "rpc://", "broker_heartbeat": 5}
    (tmp_path / "tasks.log").touch()
    env = {"MIXED_SETTINGS": json.dumps(settings), "MIXED_LOG": str(tmp_path / "tasks.log")}
    party = Party("ours", sys.executable, APPLICATION, tmp_path / "ours", env)
    with ending(party):
        yield party


def test_every_body_is_sent_whatever_dies(fleet: Party, tmp_path: Path) -> None:
    def ran() -> int:
        return len((tmp_path / "tasks.log").read_text().splitlines())

    first, _ = fleet.worker(), fleet.worker()
    with fleet.client(CLIENT) as client:
        fleet.wait(lambda: ran() > CHORDS * PARTS // 4)
        fleet.kill(first)
        fleet.worker()
        fleet.wait(lambda: ran() > CHORDS * PARTS // 2)
        fleet.kill(fleet.workers[1])
        found = json.loads(client.communicate(timeout=200)[0].splitlines()[-1])
    assert found == [list(range(PARTS))] * CHORDS
