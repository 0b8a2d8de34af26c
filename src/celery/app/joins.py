"""`celery.chord_join`: the task that is sent when all parts of a chord have ended, and that sends the body or fails it.

It runs on a worker of ours as soon as one has a free slot, and does nothing but read the parts; what it sends and
stores are effects of its own settlement, so that a body is sent once where broker and results are committed together.
Where they are not, the first of two copies of it claims the chord.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from celery._state import connect_on_app_finalize
from celery.app.context import Context
from celery.app.followups import never_follow, never_run, not_started
from celery.app.runner import ONCE, is_first
from celery.backends.chords import JOIN, ChordParts
from celery.backends.store import Store, in_order, messages_of
from celery.brokers.answers import Joins
from celery.canvas.ids import fixed_ids
from celery.canvas.shelf import unfold_body
from celery.canvas.underway import steps_behind
from celery.exceptions import BackendError, BrokerError, ChordError, Ignore, Reject
from celery.states import FAILURE, PROPAGATE_STATES
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger
from celery.wire.message import Outgoing
from celery.wire.protocol import decode_envelope, encode_envelope

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger("celery.app.trace")

LIMIT = 3600.0
"""Seconds: the limits that an app sets for its tasks are not for this one."""
PAUSE = 1.0
"""Seconds before a join is handed back because the result store cannot be reached."""


@connect_on_app_finalize
def add_chord_join_task(app: Celery) -> Any:
    """`celery.chord_join` sends the body of the chord whose header was the group *group_id*, all of which has ended."""

    @app.task(
        bind=True, name=JOIN, shared=False, lazy=False, acks_late=True, acks_on_failure_or_timeout=True,
        reject_on_worker_lost=True, ignore_result=True, track_started=False, time_limit=LIMIT, soft_time_limit=LIMIT,
        send_events=False,
    )  # fmt: skip
    def chord_join(self: Any, group_id: str, body: Any) -> None:
        Join(app, self.request, group_id, body).run()

    return chord_join


class Join:
    """One chord whose parts have all ended; *request* is that of the task that sees to it."""

    def __init__(self, app: Celery, request: Context, group_id: str, body: Any) -> None:
        self.app = app
        self.request = request
        self.group_id = group_id
        self.body = body
        self.backend = app.backend
        if request.records is None:
            request.records = request.effects  # what is stored here is an effect of this task

    def run(self) -> None:
        """Send the body with the results of the parts, or fail it."""
        if not isinstance(self.backend, ChordParts):
            raise Reject(f"The chord {self.group_id} was counted in a result store, and this worker has none.")
        joins = self.backend.joins
        try:
            if isinstance(joins, Joins):
                self._run_held(joins)
                return
            self._claim(joins)
            self._send(*self._results(joins.arrived(self.backend.join_key(self.group_id))))
        except (BackendError, BrokerError) as error:
            if not error.temporary:
                self._fail(error)
                return
            logger.warning("The chord %s waits: %s", self.group_id, error)
            time.sleep(PAUSE)
            raise Reject(error, requeue=True) from error
        except (Ignore, Reject):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the body are told
            self._fail(error)

    def _run_held(self, joins: Joins) -> None:
        """What follows is sent at once, and the join forgotten then, while nobody else has its parts."""
        held = joins.hold(self.backend.join_key(self.group_id))
        if held is None:
            raise Ignore(f"The chord {self.group_id} is not complete, or has been seen to.")
        try:
            try:
                self._send(*self._results(in_order(held.parts)))
            except (BackendError, BrokerError):
                raise
            except Exception as error:  # noqa: BLE001 - as below
                self._fail(error)
            self._commit(joins)
            held.finish()
        finally:
            held.close()

    def _commit(self, joins: Joins) -> None:
        """Do now what would be the effects of this task: without the parts it could not be done again."""
        app, outbox, arrivals = self.app, self.request.outbox, self.request.arrivals
        assert outbox is not None
        if arrivals:
            outbox += messages_of(arrivals, joins.arrive(arrivals))
            arrivals.clear()
        if outbox:
            app.broker.publish(outbox)
            if app.conf.task_send_sent_event:
                app.events.announce(outbox)
            outbox.clear()

    def _claim(self, store: Store) -> None:
        """Of two copies of this task, where messages and results are not committed together, the first runs."""
        backend = self.backend
        if self.app.broker.fuses(store):
            return
        if not is_first(store, backend.join_key(self.group_id) + "fired", self.request):
            raise Ignore(f"Another copy of this task has seen to the chord {self.group_id}.")

    def _results(self, parts: list[bytes]) -> tuple[list[Any], str]:
        """The results of the parts in the order of the header, and the id of the last; raises if one of them failed."""
        backend = self.backend
        results: list[Any] = []
        task_id = ""
        for raw in parts:
            _, task_id, state, result = backend.decode(raw)
            if state in PROPAGATE_STATES:
                raise ChordError(f"Dependency {task_id} raised {backend.exception_to_python(result)!r}")
            results.append(result)
        if not results:
            raise ChordError(f"The results of the chord {self.group_id} are not in the result store any more.")
        return results, task_id

    def _send(self, results: list[Any], last: str) -> None:
        request, app = self.request, self.app
        body = unfold_body(app, self.body, request.records)
        signature = app.signature({name: value for name, value in body.items() if name != "chord_size"})
        place: dict[str, Any] = {"root_id": request.root_id, "parent_id": last}
        behind = steps_behind(app, self.group_id, body)
        if behind:
            place["chain"] = behind
        outbox: list[Any] = []
        with app.publisher.collect(outbox), fixed_ids(f"join:{self.group_id}"):
            signature.apply_async((results,), add_to_parent=False, **place)
        assert request.outbox is not None
        store = app.store
        fused = store is None or app.broker.fuses(store)  # without a store, the parts are held by this copy alone
        request.outbox += outbox if fused else map(once, outbox)

    def _fail(self, error: Exception) -> None:
        """The body will not run: it has failed, and what would have followed it; its error callbacks are called."""
        if not isinstance(error, ChordError):
            logger.error("The body of the chord %s cannot be sent", self.group_id, exc_info=error)
        request, app = self.request, self.app
        behind: list[Any] = []
        try:
            body = unfold_body(app, self.body, request.records)
            behind = steps_behind(app, self.group_id, body)
        except Exception as lost:
            logger.exception("The body of the chord %s cannot be read", self.group_id)
            error, body = lost, self.body
        assert request.outbox is not None
        with app.publisher.collect(request.outbox), fixed_ids(f"join:{self.group_id}:failed"):
            fail(app, body, request, error)
            for step in reversed(behind):
                _mark(app, never_run(app, step, request), error)


def once(message: Outgoing) -> Outgoing:
    """*message* as one that is run only if no other message for the same task was run before it."""
    decoded = decode_envelope(message.envelope)
    decoded.headers[ONCE] = True
    return msgspec.structs.replace(message, envelope=encode_envelope(decoded))


def give_up(app: Celery, request: Context, error: BaseException) -> None:
    """The join that *request* is has ended without having sent the body: that has failed with *error*."""
    try:
        group_id, body = request.kwargs["group_id"], request.kwargs["body"]
    except (TypeError, KeyError):
        return  # its message cannot be read
    join = Join(app, request, group_id, body)
    join._fail(ChordError(f"The chord {group_id} could not be completed: {error}"))


def fail(app: Celery, signature: Mapping[str, Any], cause: Context, error: Exception, errbacks: Any = ()) -> None:
    """Mark the tasks of *signature*, which will not run, as failed with *error*, and call its error callbacks.

    Those are the callbacks of the first step of a chain, of every task of a group, of the body of a chord.
    """
    parts: Mapping[str, Any] = signature.get("kwargs") or {}
    options: Mapping[str, Any] = signature.get("options") or {}
    called = [*(maybe_list(options.get("link_error")) or ()), *errbacks]
    match signature.get("subtask_type"):
        case "chain":
            first, *rest = parts["tasks"] or [{}]
            fail(app, first, cause, error, called)
            _mark(app, (request for step in rest for request in never_run(app, step, cause)), error)
        case "group":
            for part in parts["tasks"]:
                fail(app, part, cause, error, called)
        case "chord":
            header = {**signature, "kwargs": {**parts, "body": None}}
            _mark(app, never_run(app, header, cause), error)
            fail(app, parts["body"], cause, error, called)
        case _:
            request = not_started(app, signature, cause)
            request.errbacks = called
            if request.id is not None:
                app.backend.mark_as_failure(
                    request.id, error, None, request=request, store_result=not request.ignore_result
                )
            return  # with it has failed what was to follow it
    _mark(app, never_follow(app, options.get("chain"), cause), error)


def _mark(app: Celery, requests: Iterator[Context], error: Exception) -> None:
    app.backend._mark_as_never_run(requests, error, None, FAILURE)


__all__ = ["Join", "fail"]
