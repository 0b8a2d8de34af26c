"""An application that hears how logging is set up, in the worker and in its processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals
from celery.utils.log import get_task_logger

app = Celery("heard")
app.conf.update(json.loads(os.environ.get("APP_SETTINGS", "{}")))
logger = get_task_logger(__name__)


def note(what: str, **facts: Any) -> None:
    facts.pop("signal")
    said = {"what": what, "pid": os.getpid(), **{key: str(value) for key, value in facts.items()}}
    with Path(os.environ["HEARD"]).open("a") as file:
        file.write(json.dumps(said) + "\n")


@signals.after_setup_logger.connect
def root(**facts: Any) -> None:
    note("root", **facts)


@signals.after_setup_task_logger.connect
def task(**facts: Any) -> None:
    note("task", **facts)


@app.task(bind=True)
def speak(self: Task) -> str:
    logger.info("speaking")
    print("printing")
    return str(self.request.id)
