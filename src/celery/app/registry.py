"""The tasks of an app, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from celery.exceptions import InvalidTaskError, NotRegistered


class TaskRegistry(dict[str, Any]):
    """Name to task. Reading a name that is not there raises `NotRegistered`."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        raise NotRegistered(key)

    def register(self, task: Any) -> None:
        """Add *task*; a class is made an instance first. Raises `InvalidTaskError` if it has no name."""
        if isinstance(task, type):
            task = task()
        if not task.name:
            raise InvalidTaskError(f"The task class {type(task).__name__!r} has no name: set its attribute `name`.")
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Remove the task *name* (or the task given). Raises `NotRegistered`."""
        key = getattr(name, "name", name)
        try:
            del self[key]
        except KeyError:
            raise NotRegistered(key) from None

    def regular(self) -> Iterator[tuple[str, Any]]:
        """The tasks that are not periodic."""
        return self.filter_types("regular")

    def periodic(self) -> Iterator[tuple[str, Any]]:
        """The tasks that are periodic by their class."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> Iterator[tuple[str, Any]]:
        return ((name, task) for name, task in list(self.items()) if getattr(task, "type", "regular") == type)


__all__ = ["TaskRegistry"]
