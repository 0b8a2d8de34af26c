"""The runner: a job's bytes in, its outcome out. Everything a slot does for one task happens in `Runner.__call__`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import _join_will_block
from celery.app import trace
from celery.app.context import Context
from celery.app.einfo import ExceptionInfo
from celery.app.errands import is_errand
from celery.app.errands import run as run_errand
from celery.app.nextsteps import cause_of
from celery.backends.store import Store
from celery.canvas.ids import fixed_ids
from celery.exceptions import BackendError, CeleryError, DecodeError, NotRegistered
from celery.states import FAILURE, IGNORED, REJECTED, SUCCESS
from celery.utils.deferred import deferred
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.wire.message import Job, Outcome
from celery.wire.protocol import Head, Message, decode_envelope, load_body, split_body
from celery.wire.serialization import accept_types

if TYPE_CHECKING:
    import asyncio
    import inspect

    from celery.app import coroutines
    from celery.app.base import Celery
    from celery.utils.loops import LoopThread
else:
    asyncio, inspect, coroutines = deferred("asyncio"), deferred("inspect"), deferred("celery.app.coroutines")

Prepared = tuple[Any, Context]
"""A tracer, and the request that it is to be called with."""
logger = get_logger("celery.app.trace")


ONCE = "celeriac_once"
"""The header of a message that is run only if no other message for its task was run before it."""
ONCE_KEPT = 86_400.0
"""Seconds for which it is known which message that was."""


def make_runner(app: Celery, hostname: str) -> Runner:
    """The runner of a slot: runs jobs of *app*, never raises but for what ends the process. One thread at a time."""
    return Runner(app, hostname)


def writer_of(head: Head) -> str:
    """Names the message with this head, as the tracer does: see `Record`."""
    return _writer(head.delivery_tag, head.id, head.retries, head.replays)


def _writer(tag: Any, task_id: Any, retries: Any, replays: Any) -> str:
    name = str(tag) if tag else f"{task_id}:{retries or 0}"
    return f"{name}:{replays}" if replays else name


def is_first(store: Store, key: str, request: Context) -> bool:
    """Whether the message of *request* is the first that asks for *key*, or the same one once more.

    A copy of a message that has all in common with it is told from it by not having been delivered before.
    """
    mine = str((request.properties or {}).get("delivery_tag")).encode()
    if store.add(key, mine, ONCE_KEPT):
        return True
    return bool((request.delivery_info or {}).get("redelivered")) and store.get([key]) == [mine]


class Runner:
    """Decodes a job, hands it to the tracer of its task, and puts what became of it into an `Outcome`."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self.app = app
        self.hostname = hostname
        self.accept = accept_types(app.conf.accept_content)
        self.tracers: dict[str, Any] = {}
        self._coroutines: dict[str, bool] = {}

    def __call__(self, job: Job) -> Outcome:
        """Run *job*. Blocks until the task has ended; the outcome carries its result and what it sent."""
        started = time.monotonic()
        prepared = self._prepare(job)
        if isinstance(prepared, Outcome):
            return prepared
        return self._run(job, started, *prepared)

    def begin(self, job: Job, home: LoopThread) -> Coroutine[Any, Any, Outcome] | Callable[[], Outcome]:
        """For slots that are tasks of the loop *home*, which calls this: the coroutine that runs *job* there.

        Where the task would block the loop, a function that runs it in whatever thread calls it; should it turn out
        to be a coroutine all the same, that runs in the loop.
        """
        if is_errand(job.envelope):
            return partial(run_errand, job)
        started = time.monotonic()
        prepared = self._prepare(job)
        if isinstance(prepared, Outcome):
            return _outcome(prepared)
        tracer, request = prepared
        if self._is_async(request.task) and hasattr(tracer, "run_async"):
            return self._run_async(job, started, tracer, request)
        return partial(self._run_beside, home, job, started, tracer, request)

    def _prepare(self, job: Job) -> Prepared | Outcome:
        """The tracer and the request of *job*, or what becomes of a message that nobody can run."""
        message = None
        try:
            message = decode_envelope(job.envelope)
            headers = message.headers
            body = split_body(message, self.accept)
            if "task" not in headers:
                headers = _headers_of_protocol_1(message, load_body(message, self.accept))
            name, task_id = headers["task"], headers["id"]
            tracer = self.tracers.get(name) or self._tracer(name)
        except Exception as exc:  # noqa: BLE001 - a message that nobody can run goes to the dead set with its reason
            return run_errand(job) if is_errand(job.envelope) else self._refused(job, message, exc)
        request = Context.from_message(
            headers, message.properties, body, hostname=self.hostname, redelivered=job.redelivered
        )
        fields = request.__dict__
        fields["effects"], fields["outbox"] = [], []
        if "compression" not in headers:
            fields["_body_size"] = len(message.body)
        fields["writer"] = _writer(
            message.properties.get("delivery_tag"), task_id, headers.get("retries"), headers.get("replays")
        )
        return tracer, request

    def _run(self, job: Job, started: float, tracer: Any, request: Context) -> Outcome:
        """Run the task in this thread."""
        fields = request.__dict__
        if ONCE in fields and not self._is_first(request):
            return _not_first(job)
        blocked = _join_will_block.get()
        _join_will_block.set(True)
        try:
            traced = tracer(fields["id"], fields["args"], fields["kwargs"], request)
        except Exception as exc:  # noqa: BLE001 - raised around the tracer by whoever replaced it
            traced = _failed_around(exc)
        finally:
            _join_will_block.set(blocked)
        return self._ended(job, traced, started, request)

    def _run_beside(self, home: LoopThread, job: Job, started: float, tracer: Any, request: Context) -> Outcome:
        with coroutines.running_at(home):
            return self._run(job, started, tracer, request)

    async def _run_async(self, job: Job, started: float, tracer: Any, request: Context) -> Outcome:
        """Run the task in the running event loop, as the only thing in its context."""
        if ONCE in vars(request) and not await asyncio.to_thread(self._is_first, request):
            return _not_first(job)
        _join_will_block.set(True)
        try:
            traced = await tracer.run_async(request.id, request.args, request.kwargs, request)
        except Exception as exc:  # noqa: BLE001 - raised around the tracer by whoever replaced it
            traced = _failed_around(exc)
        return self._ended(job, traced, started, request)

    def _is_async(self, name: str) -> bool:
        """Whether the task called *name* is a coroutine function."""
        known = self._coroutines.get(name)
        if known is None:
            known = self._coroutines[name] = inspect.iscoroutinefunction(self.app.tasks[name].run)
        return known

    def _is_first(self, request: Context) -> bool:
        """Whether no other message was run for the task, of which a ledger in two steps may have sent several.

        Where that cannot be found out now, the message is run: once too often is better than never.
        """
        store = self.app.store
        if store is None or request.id is None:
            return True
        try:
            return is_first(store, self.app.backend.get_key_for_task(request.id, ".once"), request)
        except BackendError as error:
            logger.warning("Task %s may be run twice: %s", request.id, error)
            return True

    def _tracer(self, name: str) -> Any:
        """The tracer of a task, made when it is first run here."""
        task = self.app.tasks.get(name)
        if task is None:
            raise NotRegistered(name)
        # By its name on the module: monitoring packages replace it there.
        tracer = task.__trace__ = self.tracers[name] = trace.build_tracer(
            name, task, self.app.loader, self.hostname, app=self.app
        )
        return tracer

    def _ended(self, job: Job, traced: trace.trace_ok_t, started: float, request: Context) -> Outcome:
        """What became of a task."""
        info = traced.info
        if info is None:
            fields = request.__dict__
            return Outcome(
                job.tag, SUCCESS, traced.runtime or 0.0, tuple(fields["effects"]), tuple(fields["outbox"]),
                tuple(fields.get("arrivals") or ()), False, traced.retstr or "",
            )  # fmt: skip
        runtime = time.monotonic() - started
        einfo: ExceptionInfo = traced.retval
        return Outcome(
            job.tag,
            info.state,
            runtime,
            tuple(request.effects or ()),
            tuple(request.outbox or ()),
            tuple(request.arrivals or ()),
            info.state == REJECTED and bool(getattr(info.retval, "requeue", False)),
            saferepr(getattr(info.retval, "exc", None) or info.retval),
            einfo.traceback,
            einfo.internal,
        )

    def _refused(self, job: Job, message: Message | None, exc: Exception) -> Outcome:
        """Nobody can run this message: it goes to the dead set, and whoever waits for its result is told."""
        einfo = ExceptionInfo.of(exc, internal=True)
        reason = _reason(exc)
        headers = message.headers if message is not None else {}
        task_id = headers.get("id")
        logger.error("Task %s[%s] cannot be run: %s", headers.get("task"), task_id, reason)
        request = Context()
        if message is not None and isinstance(task_id, str) and task_id:
            request = request_of(message, self.accept, hostname=self.hostname)
            tag = message.properties.get("delivery_tag")
            writer = _writer(tag, task_id, headers.get("retries"), headers.get("replays"))
            request.update(effects=[], records=[], outbox=[], writer=writer)
            stores = not headers.get("ignore_result")
            with self.app.publisher.collect(request.outbox), fixed_ids(cause_of(request, ":failed")):
                self.app.backend.mark_as_failure(task_id, exc, einfo.traceback, request=request, store_result=stores)
        return Outcome(
            job.tag, REJECTED, 0.0, tuple(request.records or ()), tuple(request.outbox or ()),
            tuple(request.arrivals or ()), detail=reason, traceback=einfo.traceback, internal=True,
        )  # fmt: skip


DATA = frozenset({"application/json", "application/x-msgpack", "application/x-yaml"})
"""Content types that are nothing but data: reading them does no harm, whether they are accepted or not."""


def request_of(message: Message, accept: frozenset[str] | None, *, hostname: str, redelivered: bool = False) -> Context:
    """The request of *message* although nobody can run it: of its body, what can be read.

    So that those who wait for the task are told: the rest of its chain, its chord, its error callbacks.
    """
    try:
        body = load_body(message, None if accept is None else accept | DATA)
    except CeleryError:
        body = None
    match body:
        case [args, kwargs, dict(embed)]:
            return Context.from_message(
                message.headers, message.properties, (args, kwargs, embed), hostname=hostname, redelivered=redelivered
            )
        case {"task": _}:  # protocol 1
            headers = _headers_of_protocol_1(message, body)
            return Context.from_message(
                headers, message.properties, (body.get("args"), body.get("kwargs"), body), hostname=hostname,
                redelivered=redelivered,
            )  # fmt: skip
    return Context(message.headers, called_directly=False, hostname=hostname)


def _reason(exc: Exception) -> str:
    if isinstance(exc, NotRegistered):
        return f"No task is registered under the name {exc.args[0]!r}: have the worker import its module."
    if isinstance(exc, (DecodeError, KeyError)):
        return f"The message cannot be decoded: {exc}"
    return repr(exc)


async def _outcome(outcome: Outcome) -> Outcome:
    return outcome


def _not_first(job: Job) -> Outcome:
    return Outcome(job.tag, IGNORED, detail="Another message for the same task was run before this one.")


def _failed_around(exc: Exception) -> trace.trace_ok_t:
    return trace.trace_ok_t(ExceptionInfo.of(exc, internal=True), trace.TraceInfo(FAILURE, exc), None, None)


def _headers_of_protocol_1(message: Message, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of protocol 1 as the headers of protocol 2."""
    fields = {**message.headers, **body}
    for name in ("args", "kwargs", "callbacks", "errbacks", "chord"):
        fields.pop(name, None)
    fields.setdefault("root_id", fields.get("id"))
    return fields


__all__ = ["Runner", "make_runner", "request_of", "writer_of"]
