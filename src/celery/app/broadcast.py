"""`broadcast`: run a task once on every worker that is up.

Every worker has a queue that only it consumes, its *direct* queue (`celery@host.dq2`, the one of the setting
`worker_direct`).  The workers that are up are asked to consume theirs; each that agrees is sent a message of its own,
an ordinary one: durable, acknowledged, retried and stored like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery._state import app_or_default
from celery.canvas.ids import new_id
from celery.result import GroupResult
from celery.utils.log import get_logger
from celery.utils.nodenames import WORKER_DIRECT_QUEUE_FORMAT

if TYPE_CHECKING:
    from celery.app.base import Celery

EXCHANGE = "C.dq2"
"""The exchange of direct queues; the routing key is the name of the node."""
logger = get_logger(__name__)


class BroadcastResult(GroupResult):
    """The results of one task on several workers; `nodes` has them by the names of the workers."""

    nodes: Mapping[str, Any]

    def by_node(self, **options: Any) -> dict[str, Any]:
        """Wait for all; the values by the names of the workers. *options* as for `get`."""
        return dict(zip(self.nodes, self.get(**options), strict=True))


def broadcast(
    name: Any,
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    app: Celery | None = None,
    destination: str | Iterable[str] | None = None,
    timeout: float = 1.0,
    limit: int | None = None,
    **options: Any,
) -> BroadcastResult:
    """Send the task *name* to every worker that answers within *timeout* seconds; a result for each, by its name.

    Blocks for that time, unless all of *destination*, or *limit* workers, have answered before.  *name* can be the task
    itself.  *options* are those of `Task.apply_async`, without `task_id`.  With `task_always_eager` it runs once, here.
    """
    app = app_or_default(app)
    task_name = getattr(name, "name", name)
    args, kwargs = list(args or ()), dict(kwargs or {})
    group_id = options.pop("group_id", None) or new_id()
    if app.conf.task_always_eager:
        here = app.tasks[task_name].apply(args, kwargs, **options)
        return _result(app, group_id, {"here": here})
    wanted = [destination] if isinstance(destination, str) else destination
    destination = None if wanted is None else list(wanted)
    answers = app.control.ping(destination=destination, timeout=timeout, limit=limit)
    found = sorted({node for answer in answers or () for node in answer})
    nodes = [node for node in found if _listens(app, node, timeout)]
    with app.bulk():
        sent = {
            node: app.send_task(
                task_name, args, kwargs, **{**options, "exchange": EXCHANGE, "routing_key": node, "group_id": group_id}
            )
            for node in nodes
        }
    return _result(app, group_id, sent)


def _listens(app: Celery, node: str, timeout: float) -> bool:
    """Have *node* consume its direct queue; whether it does."""
    answers = app.control.add_consumer(
        WORKER_DIRECT_QUEUE_FORMAT.format(hostname=node), exchange=EXCHANGE, exchange_type="direct", routing_key=node,
        destination=[node], reply=True, timeout=max(timeout, LEAST),
    )  # fmt: skip
    answer = next((said[node] for said in answers or () if node in said), None)
    if isinstance(answer, Mapping) and "ok" in answer:
        return True
    logger.warning("%s takes no broadcast task: %s", node, "no answer" if answer is None else answer)
    return False


LEAST = 5.0
"""Seconds within which a worker that is up consumes one queue more."""


def _result(app: Celery, group_id: str, nodes: dict[str, Any]) -> BroadcastResult:
    made = BroadcastResult(group_id, nodes.values(), app=app)
    made.nodes = nodes
    return made


__all__ = ["BroadcastResult", "broadcast"]
