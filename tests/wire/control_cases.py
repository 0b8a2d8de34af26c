"""The requests of remote control whose answers are compared with the original's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

NODE = "golden@host"


class Case(NamedTuple):
    """A request. `answers`: the original answers it (it has no answer to some)."""

    name: str
    command: str
    arguments: dict[str, Any]
    answers: bool = True


def _case(name: str, **arguments: Any) -> Case:
    return Case(name, name.partition("-")[0], arguments)


IDLE = [
    _case("ping"),
    _case("clock"),
    _case("stats"),
    _case("report"),
    _case("conf"),
    _case("conf-with-defaults", with_defaults=True),
    _case("registered"),
    _case("registered-items", taskinfoitems=["max_retries", "nothing_such"]),
    _case("registered-builtins", builtins=True),
    _case("active_queues"),
    _case("active"),
    _case("reserved"),
    _case("scheduled"),
    _case("revoked"),
    _case("query_task", ids=["nobody"]),
    _case("hello", from_node="other@host", revoked={}),
    _case("hello-myself", from_node=NODE, revoked={}),
    _case("memdump-before"),
    _case("memsample"),
    _case("memdump", samples=3),
    _case("objgraph", num=1, max_depth=1),
    _case("heartbeat"),
    _case("enable_events"),
    _case("enable_events-again"),
    _case("disable_events"),
    _case("disable_events-again"),
    _case("rate_limit", task_name="golden.add", rate_limit="5/m"),
    _case("rate_limit-off", task_name="golden.add", rate_limit=0),
    _case("rate_limit-unknown", task_name="nothing.such", rate_limit="5/m"),
    _case("rate_limit-invalid", task_name="golden.add", rate_limit="many"),
    _case("time_limit", task_name="golden.add", soft=10, hard=20),
    _case("time_limit-unknown", task_name="nothing.such", soft=10),
    _case("time_limit-none", task_name="golden.add"),
    _case("add_consumer", queue="extra"),
    _case("add_consumer-again", queue="extra"),
    _case("add_consumer-exchange", queue="more", exchange="ex", exchange_type="topic", routing_key="more.#"),
    _case("active_queues-more"),
    _case("cancel_consumer", queue="extra"),
    _case("cancel_consumer-unknown", queue="nothing.such"),
    _case("revoke", task_id="one"),
    _case("revoke-list", task_id=["one", "two"]),
    _case("revoke-terminate-unknown", task_id="one", terminate=True, signal="SIGTERM"),
    _case("revoke-bad-signal", task_id="one", terminate=True, signal="SIGSUCH"),
    _case("terminate-unknown", task_id="one", signal="KILL"),
    _case("revoke_by_stamped_headers", headers={"shop": "one"}),
    _case("revoke_by_stamped_headers-text", headers="shop=two"),
    _case("revoke_by_stamped_headers-list", headers=["shop=two", "till=1"]),
    _case("revoked-some"),
    _case("pool_grow", n=1),
    _case("pool_shrink", n=1),
    _case("autoscale-without", max=3, min=1),
    _case("pool_restart-disabled"),
    _case("nothing_such"),
    _case("ping-with-more", surprise=1),
    _case("time_limit-without-task"),
    _case("rate_limit-without"),
]
BUSY = [
    _case("active"),
    _case("active-safe", safe=True),
    _case("reserved"),
    _case("scheduled"),
    _case("query_task", ids=["running", "waiting", "later", "nobody"]),
    _case("query_task-text", ids="running"),
    _case("stats-busy"),
    _case("revoke-terminate", task_id="running", terminate=True, signal="SIGTERM"),
]
LAST = [
    _case("stats-after"),
    Case("shutdown", "shutdown", {}, answers=False),
]
BUSY = [case._replace(name=f"busy-{case.name}") for case in BUSY]


def make_busy(app: Any, folder: Any) -> Callable[[], None]:
    """Three tasks: one that runs, one that waits for it, and one for later. What is returned ends the first."""
    end = Path(folder) / "end"
    held = app.tasks["golden.held"]
    held.apply_async((str(end),), {"key": "value"}, task_id="running")
    held.apply_async((str(end),), task_id="waiting", priority=3)
    held.apply_async((str(end),), task_id="later", countdown=3600)
    return end.touch
