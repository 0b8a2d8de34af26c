"""Public paths of Celery whose home is elsewhere here: each is there, small, and leads to where it says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import celery
from celery.contrib.testing import mocks

SOURCE = Path(celery.__file__).parent
DOORS = {
    **{
        f"worker.consumer.{module}": ("celery.worker.consumer.marks", name)
        for module, name in {
            "agent": "Agent", "connection": "Connection", "control": "Control", "delayed_delivery": "DelayedDelivery",
            "events": "Events", "gossip": "Gossip", "heart": "Heart", "mingle": "Mingle", "tasks": "Tasks",
        }.items()
    },
    "worker.pidbox": ("celery.worker.mailbox", "Pidbox"),
}  # fmt: skip
"""Alias doors: module -> (the home of what it names, that name)."""
MODULES = [
    "bootsteps", "security", "security.certificate", "security.key", "security.serialization",
    "security.utils", "contrib.pytest", "contrib.testing.app", "contrib.testing.worker",
    "contrib.testing.tasks", "contrib.testing.mocks", "utils.quorum_queues", "utils.static",
    "worker.components", "worker.loops", "worker.request", "worker.strategy", "worker.state",
    "worker.consumer", "worker.consumer.consumer", "worker.heartbeat", "worker.control", "worker.worker",
    "app.trace", "concurrency.base", "concurrency.prefork",
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_an_alias_is_five_lines_and_leads_home(door: str) -> None:
    home, name = DOORS[door]
    module = importlib.import_module(f"celery.{door}")
    found = getattr(importlib.import_module(home), name, None)
    assert found is None or getattr(module, name) is found
    code = [line for line in (SOURCE / f"{door.replace('.', '/')}.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 5


@pytest.mark.parametrize("name", MODULES)
def test_every_name_of_a_public_module_is_there(name: str) -> None:
    module = importlib.import_module(f"celery.{name}")
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), (name, public)


def test_messages_for_tests() -> None:
    message = mocks.TaskMessage("t", id="i", args=(1,), kwargs={"a": 2}, eta=None)
    assert (message.headers["task"], message.headers["id"], message.payload[0]) == ("t", "i", (1,))
    assert message.body == '[[1],{"a":2},{"callbacks":null,"errbacks":null,"chain":null}]'
    assert mocks.TaskMessage1("t", id="i").payload["task"] == "t"
    with mocks.ContextMock() as mock:
        assert mock.anything() is not None
