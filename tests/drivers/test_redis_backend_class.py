"""`celery.backends.redis.RedisBackend`: what programs derive a result backend of their own from."""

from __future__ import annotations

from typing import Any

import pytest

from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured


class Noting(RedisBackend):
    """Notes what is stored."""

    noted: list[str] = []

    def _store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        self.noted.append(task_id)
        return super()._store_result(task_id, result, state, *args, **kwargs)


def test_a_class_of_ones_own_is_used_and_writes_what_others_read(redis_server: Any) -> None:
    url = str(redis_server.url(7))
    with (
        Celery("mine", broker="memory://mine", backend=f"{__name__}:Noting+{url}") as app,
        Celery("other", broker="memory://other", backend=url) as other,
    ):
        assert type(app.backend) is Noting
        app.backend.store_result("the-task", {"a": 1}, "SUCCESS")
        assert Noting.noted[-1] == "the-task"
        assert other.AsyncResult("the-task").get(timeout=30) == {"a": 1}


def test_it_can_be_made_by_hand(redis_server: Any) -> None:
    with Celery("mine", broker="memory://mine", backend="disabled://") as app:
        backend = RedisBackend(host="127.0.0.1", port=redis_server.port, db=7, app=app, max_connections=3)
        backend.store_result("by-hand", 5, "SUCCESS")
        assert backend.get_result("by-hand") == 5
        backend.store.close()


def test_connections_of_others_are_refused(redis_server: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="no connection_pool of redis-py"):
        SentinelBackend(connection_pool=object())
