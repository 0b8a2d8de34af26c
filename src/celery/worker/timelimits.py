"""What the worker says, when it starts, of how its pool enforces time limits."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from celery.concurrency.base import PoolCapabilities
from celery.utils.log import get_logger

logger = get_logger(__name__)


class Wanted(NamedTuple):
    """Which kinds of limits are set, for the worker or for one of its tasks."""

    soft: bool
    hard: bool


def wanted(app: Any, *, soft: float | None, hard: float | None) -> Wanted:
    """Which kinds are set: *soft* and *hard* are those of the worker."""
    tasks = list(app.tasks.values())
    return Wanted(
        soft is not None or any(task.soft_time_limit is not None for task in tasks),
        hard is not None or any(task.time_limit is not None for task in tasks),
    )


def statement(pool: str, can: PoolCapabilities, limits: Wanted) -> tuple[int, str] | None:
    """The level and the text of the line to log; None where nobody has set a limit."""
    if not (limits.soft or limits.hard):
        return None
    kinds = (("soft", limits.soft, can.soft_limits), ("hard", limits.hard, can.hard_limits))
    held = [kind for kind, is_set, can_hold in kinds if is_set and can_hold]
    missing = [kind for kind, is_set, can_hold in kinds if is_set and not can_hold]
    said = []
    if held:
        said.append(f"{' and '.join(held)} time limits are enforced")
    if missing:
        said.append(f"{' and '.join(missing)} time limits are NOT enforced: use -P prefork where you need them")
    text = f"Pool {pool!r}: {'; '.join(said)}"
    if can.limits:
        text += f" ({can.limits})"
    return (logging.WARNING if missing else logging.INFO), f"{text}."


def tell(pool: str, can: PoolCapabilities, limits: Wanted) -> None:
    """Log the statement, if there is one."""
    found = statement(pool, can, limits)
    if found is not None:
        logger.log(*found)
