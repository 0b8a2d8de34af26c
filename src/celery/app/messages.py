"""The headers, properties and body of a task message, in protocol 2 and in protocol 1. No I/O.

Options are those of `Task.apply_async`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr
from celery.utils.time import is_naive, maybe_iso8601

REPR_SIZE = 1024
"""Characters of the arguments that are shown in logs and monitors."""

FIELDS = frozenset({
    "task_id", "countdown", "eta", "expires", "link", "link_error", "group_id", "group_index", "retries", "chord",
    "chain", "reply_to", "time_limit", "soft_time_limit", "root_id", "parent_id", "shadow", "replaced_task_nesting",
    "ignore_result", "stamped_headers", "argsrepr", "kwargsrepr", "headers", "origin",
})  # fmt: skip
"""Options that go into the headers and the body."""

_origin: tuple[int, str] = (0, "")


def moment(
    what: str, seconds: float | None, at: datetime | str | None, now: float, zone: Callable[[], tzinfo]
) -> tuple[str, float]:
    """A time as ISO 8601 text and as Unix time, given as seconds from *now* or as a date.

    A naive date is read in *zone*; the text always says which moment is meant.  Raises `TypeError` or `ValueError`,
    naming *what*.
    """
    if seconds is not None:
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"{what} must be a number of seconds, not {seconds!r}")
        try:
            date = datetime.fromtimestamp(now + seconds, UTC)
        except (OverflowError, OSError, ValueError) as error:
            raise ValueError(f"{what} is out of range: {seconds!r} seconds") from error
        # A float's own rounding must not drop the microseconds of a whole second: the text always has them.
        return date.isoformat(timespec="microseconds"), now + seconds
    try:
        found = maybe_iso8601(at)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what} must be a number of seconds, a date or ISO 8601 text, not {at!r}") from error
    if not isinstance(found, datetime):
        raise TypeError(f"{what} must be a number of seconds, a date or ISO 8601 text, not {at!r}")
    if is_naive(found):
        found = found.replace(tzinfo=zone())
    return found.isoformat(), found.timestamp()


def origin() -> str:
    """The name of this process as a sender: `gen<pid>@<host>`."""
    global _origin
    pid = os.getpid()
    if _origin[0] != pid:
        _origin = pid, anon_nodename()
    return _origin[1]


def protocol2(
    name: str,
    task_id: str,
    args: Any,
    kwargs: Any,
    options: Mapping[str, Any],
    eta: str | None = None,
    expires: str | None = None,
) -> tuple[dict[str, Any], Any]:
    """(headers, body): the headers say what the task is, the body holds what only its execution needs."""
    get = options.get
    stamped = get("stamped_headers")
    headers: dict[str, Any] = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": get("shadow"),
        "eta": eta,
        "expires": expires,
        "group": get("group_id"),
        "group_index": get("group_index"),
        "retries": get("retries", 0),
        "timelimit": [get("time_limit"), get("soft_time_limit")],
        "root_id": get("root_id") or task_id,
        "parent_id": get("parent_id"),
        "argsrepr": get("argsrepr") or saferepr(args, REPR_SIZE),
        "kwargsrepr": get("kwargsrepr") or saferepr(kwargs, REPR_SIZE),
        "origin": get("origin") or origin(),
        "ignore_result": get("ignore_result"),
        "replaced_task_nesting": get("replaced_task_nesting", 0),
        "stamped_headers": stamped,
        "stamps": {key: options[key] for key in stamped if key in options} if stamped else {},
    }
    extra = get("headers")
    if extra:
        headers.update(extra)
    embed = {
        "callbacks": _listed(get("link")),
        "errbacks": _listed(get("link_error")),
        "chain": get("chain"),
        "chord": get("chord"),
    }
    return headers, (args, kwargs, embed)


def _listed(links: Any) -> Any:
    """One signature as a list of one."""
    return links if links is None or isinstance(links, (list, tuple)) else [links]


def protocol1(
    name: str,
    task_id: str,
    args: Any,
    kwargs: Any,
    options: Mapping[str, Any],
    eta: str | None = None,
    expires: str | None = None,
    utc: bool = True,
) -> tuple[dict[str, Any], Any]:
    """(headers, body) as Celery 3 wrote them: everything is in the body."""
    get = options.get
    body = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs,
        "group": get("group_id"),
        "group_index": get("group_index"),
        "retries": get("retries", 0),
        "eta": eta,
        "expires": expires,
        "utc": utc,
        "callbacks": _listed(get("link")),
        "errbacks": _listed(get("link_error")),
        "timelimit": (get("time_limit"), get("soft_time_limit")),
        "taskset": get("group_id"),
        "chord": get("chord"),
    }
    return dict(get("headers") or {}), body
