"""An application whose settings are in the environment."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("settled")
app.conf.update(json.loads(os.environ.get("APP_SETTINGS", "{}")))


@app.task
def add(x: int, y: int) -> int:
    return x + y
