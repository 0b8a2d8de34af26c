"""The registry of tasks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery.app.registry import TaskRegistry
from celery.exceptions import InvalidTaskError, NotRegistered


class Add:
    name = "add"


def test_register_an_instance_or_a_class() -> None:
    tasks = TaskRegistry()
    multiply = SimpleNamespace(name="multiply")

    tasks.register(multiply)
    tasks.register(Add)

    assert tasks["multiply"] is multiply
    assert isinstance(tasks["add"], Add)


def test_a_task_without_a_name() -> None:
    with pytest.raises(InvalidTaskError, match="'SimpleNamespace' has no name: set its attribute `name`"):
        TaskRegistry().register(SimpleNamespace(name=None))


def test_a_name_that_is_not_there() -> None:
    tasks = TaskRegistry()

    assert tasks.get("add") is None
    assert "add" not in tasks
    with pytest.raises(NotRegistered) as raised:
        tasks["add"]
    assert isinstance(raised.value, KeyError)
    assert repr(raised.value) == "Task of kind 'add' never registered, please make sure it's imported."
    assert TaskRegistry.NotRegistered is NotRegistered


def test_unregister_by_name_or_task() -> None:
    tasks = TaskRegistry(add=Add(), multiply=SimpleNamespace(name="multiply"))

    tasks.unregister("add")
    tasks.unregister(tasks["multiply"])

    assert tasks == {}
    with pytest.raises(NotRegistered):
        tasks.unregister("add")


def test_regular_and_periodic() -> None:
    tasks = TaskRegistry(add=Add(), tick=SimpleNamespace(name="tick", type="periodic"))

    assert [name for name, _ in tasks.regular()] == ["add"]
    assert [name for name, _ in tasks.periodic()] == ["tick"]
