"""Mingle: a worker that starts asks its neighbours what they know, which takes a second.

Revocations are with the broker, where every worker of ours sees them.  Those of original workers live in their memory:
that is what there is to ask for, in a fleet of both kinds.  So it is off unless asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import BrokerError
from celery.utils.log import get_logger
from celery.worker import state

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)

TIMEOUT = 1.0
"""Seconds for which answers are waited for."""


def mingle(app: Celery, hostname: str) -> int:
    """Take over revocations and the logical clock of the other workers; how many there were. Raises nothing."""
    logger.info("mingle: searching for neighbors")
    try:
        found = app.control.inspect(timeout=TIMEOUT).hello(hostname, revoked=list(state.revoked)) or {}
    except BrokerError as error:
        logger.warning("mingle: the neighbors cannot be asked: %s", error)
        return 0
    others = {node: reply for node, reply in found.items() if node != hostname and isinstance(reply, dict)}
    for reply in others.values():
        app.clock.adjust(int(reply.get("clock") or 0))
        state.revoked.update(list(reply.get("revoked") or ()))
    if others:
        logger.info("mingle: sync with %s nodes", len(others))
        logger.info("mingle: sync complete")
    else:
        logger.info("mingle: all alone")
    return len(others)
