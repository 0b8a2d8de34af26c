"""Tasks that can be asked to stop, and look from time to time whether they were.

```python
@app.task(bind=True, base=AbortableTask)
def long(self):
    for item in items:
        if self.is_aborted():
            return "stopped"
        work(item)

result = long.delay()
result.abort()
```

A task that does not look goes on.  `abort` stores the state `ABORTED`; the task's own end replaces it.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.result import AsyncResult

__all__ = ("AbortableAsyncResult", "AbortableTask")

ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of an abortable task."""

    def is_aborted(self) -> bool:
        """Whether it was asked to stop, and has not ended. Asks the result backend."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop."""
        # It may have ended meanwhile, and then its end stays: the store keeps the first end of an execution.
        return self.backend.store_result(self.id, result=None, state=ABORTED, traceback=None)


class AbortableTask(Task[..., Any]):
    """Base of tasks that can be asked to stop."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:  # noqa: N802 - the public name
        """The result of the task that was sent with *task_id*."""
        return AbortableAsyncResult(task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether this execution was asked to stop; inside of the task. Asks the result backend.

        *kwargs* may name a `task_id`; of a task that is not abortable it is False.
        """
        task_id = kwargs.get("task_id", self.request.id)
        if not task_id:
            return False
        result = self.AsyncResult(task_id)
        return isinstance(result, AbortableAsyncResult) and result.is_aborted()
