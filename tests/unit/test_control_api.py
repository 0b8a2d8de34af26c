"""`app.control` and `app.control.inspect()` have the methods of the original, with its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery
from celery.app.control import Control, Inspect, flatten_reply
from celery.exceptions import DuplicateNodenameWarning

CONTROL = {
    "add_consumer": "(queue, exchange=None, exchange_type='direct', routing_key=None, options=None, destination=None,"
    " **kwargs)",
    "autoscale": "(max, min, destination=None, **kwargs)",
    "broadcast": "(command, arguments=None, destination=None, connection=None, reply=False, timeout=1.0, limit=None,"
    " callback=None, channel=None, pattern=None, matcher=None, **extra_kwargs)",
    "cancel_consumer": "(queue, destination=None, **kwargs)",
    "disable_events": "(destination=None, **kwargs)",
    "discard_all": "(connection=None)",
    "election": "(id, topic, action=None, connection=None)",
    "enable_events": "(destination=None, **kwargs)",
    "heartbeat": "(destination=None, **kwargs)",
    "mailbox": "(connection=None)",
    "ping": "(destination=None, timeout=1.0, **kwargs)",
    "pool_grow": "(n=1, destination=None, **kwargs)",
    "pool_restart": "(modules=None, reload=False, reloader=None, destination=None, **kwargs)",
    "pool_shrink": "(n=1, destination=None, **kwargs)",
    "purge": "(connection=None)",
    "rate_limit": "(task_name, rate_limit, destination=None, **kwargs)",
    "revoke": "(task_id, destination=None, terminate=False, signal='SIGTERM', **kwargs)",
    "revoke_by_stamped_headers": "(headers, destination=None, terminate=False, signal='SIGTERM', **kwargs)",
    "shutdown": "(destination=None, **kwargs)",
    "terminate": "(task_id, destination=None, signal='SIGTERM', **kwargs)",
    "time_limit": "(task_name, soft=None, hard=None, destination=None, **kwargs)",
}  # fmt: skip
INSPECT = {
    "__init__": "(destination=None, timeout=1.0, callback=None, connection=None, app=None, limit=None, pattern=None,"
    " matcher=None)",
    "active": "(safe=None)",
    "active_queues": "()",
    "clock": "()",
    "conf": "(with_defaults=False)",
    "hello": "(from_node, revoked=None)",
    "memdump": "(samples=10)",
    "memsample": "()",
    "objgraph": "(type='Request', n=200, max_depth=10)",
    "ping": "(destination=None)",
    "query_task": "(*ids)",
    "registered": "(*taskinfoitems)",
    "registered_tasks": "(*taskinfoitems)",
    "report": "()",
    "reserved": "(safe=None)",
    "revoked": "()",
    "scheduled": "(safe=None)",
    "stats": "()",
}  # fmt: skip


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("control", broker="memory://control-api") as app:
        yield app


def arguments(method: Any) -> str:
    """Its signature without what types say."""
    plain = [p.replace(annotation=p.empty) for p in inspect.signature(method).parameters.values() if p.name != "self"]
    return str(inspect.Signature(plain))


@pytest.mark.parametrize("name", CONTROL)
def test_control(app: Celery, name: str) -> None:
    assert arguments(getattr(app.control, name)) == CONTROL[name]


@pytest.mark.parametrize("name", INSPECT)
def test_inspect(app: Celery, name: str) -> None:
    assert arguments(getattr(app.control.inspect, name)) == INSPECT[name]


def test_their_classes(app: Celery) -> None:
    assert isinstance(app.control, Control)
    assert isinstance(app.control.mailbox, Control.Mailbox)
    assert issubclass(app.control.inspect, Inspect)
    assert app.control.inspect().app is app


def test_nobody_is_none(app: Celery) -> None:
    assert app.control.inspect(timeout=0.01).stats() is None
    assert app.control.ping(timeout=0.01) == []
    assert app.control.broadcast("ping") is None


def test_two_nodes_of_one_name() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="answer to the name twice: 1, 2:"):
        assert flatten_reply([{"twice: 1, 2": 1}, {"twice: 1, 2": 2}, {"once": 3}]) == {"twice: 1, 2": 2, "once": 3}
