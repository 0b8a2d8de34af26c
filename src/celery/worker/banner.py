"""What a worker says when it starts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from celery.app.hidden import sanitize_url
from celery.utils.version import our_version

if TYPE_CHECKING:
    from celery.app.base import Celery

LOGO = (
    " --------------",
    "--- ***** -----",
    "-- ******* ----",
    "- *** --- * ---",
    "- ** ----------",
    "- ** ----------",
    "- ** ----------",
    "- ** ----------",
    "- *** --- * ---",
    "-- ******* ----",
    "--- ***** -----",
    " --------------",
)


def masked(url: str | None) -> str:
    """*url*, or several in one, without passwords."""
    return sanitize_url(url, "**") if url else "disabled://"


def banner(
    app: Celery, *, hostname: str, transport: str, results: str, concurrency: str, events: bool, protocol: str
) -> str:
    """Name, configuration and queues."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    state = "ON" if events else "OFF (enable -E to monitor tasks in this worker)"
    facts: Sequence[str] = (
        f"{hostname} v{protocol} (celeriac {our_version()})",
        "",
        f"{platform.platform()} {now}",
        "",
        "[config]",
        f".> app:         {app.main or '__main__'}:{id(app):#x}",
        f".> transport:   {transport}",
        f".> results:     {results}",
        f".> concurrency: {concurrency}",
        f".> task events: {state}",
        "",
        "[queues]",
    )
    lines = [f"{logo:<15} {fact}".rstrip() for logo, fact in zip(LOGO, facts, strict=True)]
    queues = app.amqp.queues.format(indent=16)
    return "\n".join(["", *lines, queues, ""])


def task_list(app: Celery, *, internal: bool = False) -> str:
    """The registered tasks."""
    names = sorted(name for name in app.tasks if internal or not name.startswith("celery."))
    return "\n".join(["[tasks]", *(f"  . {name}" for name in names), ""])
