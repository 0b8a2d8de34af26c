"""An app whose results come over `rpc://`."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.exceptions import Ignore


def rpc_app(broker: str, **settings: Any) -> Celery:
    """With tasks that add, fail, tell a state of their own (and then nothing), and try again."""
    backend = settings.pop("result_backend", "rpc://")
    app = TestApp(broker=broker, backend=backend, config={"broker_connection_timeout": 5.0, **settings})

    @app.task(name="add", shared=False)
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    @app.task(name="fail", shared=False)
    def fail() -> None:
        raise ValueError("no", 7)

    @app.task(name="steps", bind=True, shared=False, track_started=True)
    def steps(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1})
        return "end"

    @app.task(name="only", bind=True, shared=False)
    def only(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"done": 2})
        raise Ignore

    @app.task(name="again", bind=True, shared=False)
    def again(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    return app
