"""Apps on every kind of broker, and ears that hear their events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.utils import uuid

PATIENCE = 30.0
"""Seconds within which an event that was sent is heard."""


class Ear:
    """Hears the events of an app from the moment it is made until `close`."""

    def __init__(self, app: Celery, routing_key: str = "#", channel: Any = None, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        ready = threading.Event()

        class Receiver(app.events.Receiver):  # type: ignore[misc, name-defined]  # it is made for the app
            def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
                super().on_consume_ready(*args, **kwargs)
                ready.set()

        self.receiver = Receiver(channel, handlers={"*": self._hear}, routing_key=routing_key, **options)
        self.thread = threading.Thread(target=self.receiver.capture, kwargs={"wakeup": False}, daemon=True)
        self.thread.start()
        assert ready.wait(PATIENCE)

    def _hear(self, event: dict[str, Any]) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def of(self, *types: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of some types (all of them if none is named) with these fields."""
        return [
            event
            for event in list(self.events)
            if (not types or event["type"] in types) and fields.items() <= event.items()
        ]

    def wait(self, *types: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The same, once there are *count* of them."""
        deadline = time.monotonic() + PATIENCE
        with self.changed:
            while len(self.of(*types, **fields)) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    pytest.fail(f"no {count} of {types} {fields} were heard, but {self.events}")
            return self.of(*types, **fields)

    def close(self) -> None:
        self.receiver.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


Listen = Callable[..., Ear]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Makes ears that are closed in the end."""
    ears: list[Ear] = []

    def listen(app: Celery, *args: Any, **options: Any) -> Ear:
        ears.append(Ear(app, *args, **options))
        return ears[-1]

    yield listen
    for ear in ears:
        ear.close()


@pytest.fixture
def app(place: str) -> Iterator[Celery]:
    app = TestApp(broker=place, backend=place)
    yield app
    app.close()


@pytest.fixture
def memory_app() -> Iterator[Celery]:
    place = f"memory://{uuid()}"
    app = TestApp(broker=place, backend=place)
    yield app
    app.close()
