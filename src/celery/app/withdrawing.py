"""Ending revoked tasks here, whose messages nobody is there to claim.

A revoked task that waits for its time ends at once.  Where a worker listens to its queue that worker ends it; else
whoever revokes it does what the worker would do: the result, the join it is part of, its error callbacks, the signal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery import signals
from celery.app.nextsteps import cause_of
from celery.app.runner import request_of, writer_of
from celery.backends.store import messages_of
from celery.brokers.base import Entry
from celery.canvas.ids import fixed_ids
from celery.exceptions import CeleryError, TaskRevokedError
from celery.utils.nodenames import anon_nodename
from celery.wire.protocol import decode_envelope, peek
from celery.wire.serialization import accept_types

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = logging.getLogger(__name__)


def withdraw(app: Celery, task_ids: Sequence[str]) -> None:
    """Have the delayed and parked messages of revoked tasks ended now: by a worker if there is one, else here."""
    broker = app.broker
    entries = broker.withdraw(task_ids)
    if not entries:
        return
    attended = {stats.name for stats in broker.stats(sorted({entry.queue for entry in entries})) if stats.consumers}
    for entry in entries:
        if entry.queue not in attended:
            _end(app, entry)


def _end(app: Celery, entry: Entry) -> None:
    """What is recorded can be recorded twice: the message goes last."""
    try:
        head, message = peek(entry.envelope), decode_envelope(entry.envelope)
    except CeleryError:
        return  # a worker has to say what is wrong with it
    context = request_of(message, accept_types(app.conf.accept_content), hostname=anon_nodename())
    context.id = head.id
    context.update(records=[], outbox=[], arrivals=[], writer=writer_of(head))
    task = app.tasks.get(head.task)
    ignored = bool(head.ignore_result) or bool(task is not None and task.ignore_result)
    error = TaskRevokedError("revoked")
    with app.publisher.collect(context.outbox), fixed_ids(cause_of(context, ":failed")):
        app.backend.mark_as_revoked(head.id, str(error), request=context, store_result=not ignored)
    outgoing = list(context.outbox or ())
    if app.store is not None and context.records:
        app.store.put(context.records)
    joins = app.store if app.store is not None else app.broker.joins()
    if joins is not None and context.arrivals:
        outgoing += messages_of(context.arrivals, joins.arrive(context.arrivals))
    if outgoing:
        app.publish(outgoing)
    if app.broker.remove([entry.tag]):
        logger.info("Task %s[%s] was revoked before its time: it has ended", head.task, head.id)
        signals.task_revoked.send(sender=task, request=context, terminated=False, signum=None, expired=False)
