"""An application whose worker logs JSON."""

from __future__ import annotations

from celery import Celery, Task
from celery.utils.log import get_task_logger

app = Celery("logging_json")
app.conf.worker_log_json = True
logger = get_task_logger(__name__)


@app.task(bind=True)
def hello(self: Task) -> None:
    logger.info("hello from %s", self.request.id)
