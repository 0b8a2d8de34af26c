"""An application for both kinds of Celery whose messages and results are signed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from celery import Celery

settings = json.loads(os.environ["MIXED_SETTINGS"])
app = Celery("signed", set_as_current=True)
app.conf.update(
    broker_url=settings["broker_url"],
    result_backend=settings["result_backend"],
    broker_connection_retry_on_startup=True,
    security_key=os.environ["SIGNED_KEY"],
    security_certificate=os.environ["SIGNED_CERT"],
    security_cert_store=os.environ["SIGNED_STORE"],
    security_digest="sha256",
    task_serializer="auth",
    result_serializer="auth",
    event_serializer="auth",
    accept_content=["auth"],
    result_accept_content=["auth"],
)
app.setup_security()


@app.task(name="signed.add")
def add(x: int, y: int) -> int:
    with Path(os.environ["MIXED_LOG"]).open("a") as log:
        log.write(f"add {x} {y}\n")
    return x + y


@app.task(name="signed.fail")
def fail() -> None:
    raise KeyError("signed")
