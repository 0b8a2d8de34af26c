"""What this worker process is doing: requests in hand, counts, revocations, and whether it is to stop.

The request sets are views of what the worker's loop holds, so that keeping them costs nothing per task.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.collections import LimitedSet
from celery.worker.statedb import Persistent as Persistent

if TYPE_CHECKING:
    from celery.worker.claimed import Claimed as Request

SOFTWARE_INFO = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": platform.system()}

REVOKES_MAX = int(os.environ.get("CELERY_WORKER_REVOKES_MAX", "50000"))
REVOKE_EXPIRES = float(os.environ.get("CELERY_WORKER_REVOKE_EXPIRES", "10800"))
SUCCESSFUL_MAX = int(os.environ.get("CELERY_WORKER_SUCCESSFUL_MAX", "1000"))
SUCCESSFUL_EXPIRES = float(os.environ.get("CELERY_WORKER_SUCCESSFUL_EXPIRES", "10800"))


class RequestView(AbstractSet["Request"]):
    """A set of requests that asks its source each time: there is one loop that knows, and no second copy."""

    def __init__(self) -> None:
        self.source: Callable[[], Iterable[Request]] = tuple

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self.source()))

    def __len__(self) -> int:
        return len(list(self.source()))

    def __contains__(self, request: object) -> bool:
        return any(request is mine for mine in self.source())

    @classmethod
    def _from_iterable(cls, iterable: Iterable[Any]) -> Any:
        return set(iterable)


reserved_requests = RequestView()
"""Claimed and not ended."""
active_requests = RequestView()
"""Handed to the pool and not ended."""
scheduled_requests = RequestView()
"""Held for their time: always empty, the broker keeps them."""


class RequestsById(Mapping[str, "Request"]):
    """Those of a view, by the id of their task."""

    def __init__(self, view: RequestView) -> None:
        self._view = view

    def __getitem__(self, task_id: str) -> Request:
        for request in self._view:
            if request.id == task_id:
                return request
        raise KeyError(task_id)

    def __iter__(self) -> Iterator[str]:
        return (request.id for request in self._view)

    def __len__(self) -> int:
        return len(self._view)


requests = RequestsById(reserved_requests)
"""Claimed and not ended, by id."""

total_count: Counter[str] = Counter()
"""How many tasks of each name this worker has started."""
all_total_count = [0]
revoked: Any = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)
"""Ids this worker was told to revoke since it started; the broker has the durable ones."""
revoked_stamps: dict[str, Any] = {}
successful_requests: Any = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)

should_stop: bool | int | None = None
"""Set to anything but None and False: stop warmly, with this exit code if it is a number."""
should_terminate: bool | int | None = None
"""Set to anything but None and False: stop cold."""


def merge_revoked(task_ids: Iterable[str]) -> None:
    """Revoke what was revoked elsewhere: on another worker, or in an earlier run."""
    revoked.update(task_ids)


def task_reserved(request: Any) -> None:
    """Kept for the API: the sets of requests are views of what the loop holds."""


task_scheduled = task_reserved


def task_accepted(request: Any, *args: Any) -> None:
    """Count a task that was started by somebody else than the loop."""
    total_count[request.name] += 1
    all_total_count[0] += 1


def task_ready(request: Any, successful: bool = False, *args: Any) -> None:
    """Note that a task has ended which somebody else than the loop has run."""
    if successful:
        successful_requests.add(request.id)


def maybe_shutdown() -> None:
    """Raise `WorkerTerminate` or `WorkerShutdown` if somebody has asked for it."""
    if should_terminate is not None and should_terminate is not False:
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)


def reset_state() -> None:
    """Forget everything; called when a worker starts."""
    global should_stop, should_terminate
    for view in (reserved_requests, active_requests, scheduled_requests):
        view.source = tuple
    total_count.clear()
    all_total_count[0] = 0
    revoked.clear()
    revoked_stamps.clear()
    successful_requests.clear()
    should_stop = should_terminate = None
