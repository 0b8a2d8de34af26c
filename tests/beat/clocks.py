"""An application whose time a test moves by hand, its tasks, and what was sent by them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from celery import Celery
from celery.utils import uuid
from celery.wire.protocol import decode_envelope, split_body

START = datetime(2024, 3, 10, 12, 0, 0, tzinfo=UTC)


class TimedCelery(Celery):
    """Its clock stands still until it is moved."""

    moment = START

    def now(self) -> datetime:
        return self.moment.astimezone(self.timezone)

    def move(self, seconds: float) -> datetime:
        self.moment += timedelta(seconds=seconds)
        return self.moment


def make_app(cls: type[Celery] = TimedCelery, broker: str | None = None, **settings: Any) -> Any:
    place = broker or f"memory://{uuid()}"
    app = cls("beat", broker=place, backend=place, set_as_current=False)
    app.conf.update(settings)

    @app.task(name="add", shared=False)
    def add(x: int = 0, y: int = 0) -> int:
        return x + y

    return app


class Sent(NamedTuple):
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    id: str
    queue: str
    headers: dict[str, Any]


def sent(app: Celery) -> list[Sent]:
    """What waits in the queues, oldest first; it is taken out of them."""
    found = []
    for entry in app.broker.entries("ready", limit=100_000):
        message = decode_envelope(entry.envelope)
        args, kwargs, _ = split_body(message)
        found.append(Sent(message.headers["task"], list(args), kwargs, entry.task_id, entry.queue, message.headers))
        app.broker.remove([entry.tag])
    return found
