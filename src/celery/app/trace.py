"""The tracer: runs one task and says what became of it.

The flow is written once, as a generator (`Tracer.steps`) that yields what it must wait for: the coroutine of an
`async def` task.  `Tracer.__call__` drives it in a thread, `Tracer.run_async` in an event loop.

Around the task, in this order: `task_prerun`, `before_start`, the task, its callbacks and the next task of its chain,
its result, `on_success`/`on_retry`/`on_failure`, `task_success`/`task_retry`/`task_failure`, `after_return`,
`task_postrun`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from types import CoroutineType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals
from celery._state import _task_stack, app_or_default
from celery.app.context import Context, is_result_ignored
from celery.app.einfo import ExceptionInfo
from celery.app.nextsteps import cause_of, send_callbacks
from celery.app.task import Task
from celery.app.tracelog import (
    LOG_FAILURE,
    LOG_IGNORED,
    LOG_INTERNAL_ERROR,
    LOG_RECEIVED,
    LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
    get_log_policy,
    get_task_name,
    info,
    log_handler,
    log_policy_expected,
    log_policy_ignore,
    log_policy_internal,
    log_policy_reject,
    log_policy_t,
    log_policy_unexpected,
)
from celery.backends.base import Backend, DisabledBackend, ResultBackend
from celery.canvas.ids import fixed_ids
from celery.exceptions import Ignore, Reject, Retry
from celery.loaders.base import BaseLoader
from celery.states import EXCEPTION_STATES, FAILURE, IGNORED, REJECTED, RETRY, STARTED, SUCCESS
from celery.utils.deferred import deferred
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.wire.serialization import accept_types, loads

if TYPE_CHECKING:
    from celery.app import coroutines
    from celery.app.base import Celery
else:
    coroutines = deferred("celery.app.coroutines")

logger = get_logger(__name__)

send_prerun = signals.task_prerun.send
send_postrun = signals.task_postrun.send
send_success = signals.task_success.send

IGNORE_STATES = frozenset({IGNORED, RETRY, REJECTED})
"""After these there is no `after_return`: the task has not ended, or nobody is to hear of it."""


class trace_ok_t(NamedTuple):  # noqa: N801 - the public name
    """What a tracer returns.

    `retval` is the task's value, or an `ExceptionInfo`; `info` None after a success; `retstr` the repr of the value.
    """

    retval: Any
    info: TraceInfo | None
    runtime: float | None
    retstr: str | None


TraceResult = trace_ok_t
_make_traced = tuple.__new__
"""What `trace_ok_t(...)` does in two calls."""


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether the class of *task* overrides *attr* of `Task`."""
    for cls in task.__class__.__mro__:
        if cls is Task or cls is object:
            return False
        if attr in cls.__dict__:
            return True
    return False


def traceback_clear(exc: BaseException | None = None) -> None:
    """Let go of the local variables in the traceback of *exc*: they would live as long as it does."""
    step: TracebackType | None = exc.__traceback__ if exc is not None else None
    while step is not None:
        frame: FrameType = step.tb_frame
        step = step.tb_next
        try:
            frame.clear()
        except RuntimeError:
            continue  # it is still running


class TraceInfo:
    """How a task ended, other than well: its `state` and, in `retval`, the exception."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval

    def handle_error_state(self, task: Any, req: Any, eager: bool = False, call_errbacks: bool = True) -> ExceptionInfo:
        """Store, tell and log a retry or a failure."""
        ignored = is_result_ignored(task, req)
        if ignored:
            store_errors = bool(task.store_errors_even_if_ignored)
        else:
            store_errors = not eager or bool(task.store_eager_result)
        if self.state == RETRY:
            return self.handle_retry(task, req, store_errors=store_errors)
        return self.handle_failure(task, req, store_errors=store_errors, call_errbacks=call_errbacks)

    def handle_reject(self, task: Any, req: Any, **kwargs: Any) -> ExceptionInfo:
        """Log that the task rejected its message, or wants to be ignored."""
        return self._log_error(task, req, ExceptionInfo.of(self.retval))

    handle_ignore = handle_reject

    def handle_retry(self, task: Any, req: Any, store_errors: bool = True, **kwargs: Any) -> ExceptionInfo:
        """Store, tell and log that the task will be tried again."""
        reason: Retry = self.retval
        einfo = ExceptionInfo.of(reason)
        if store_errors:
            with _collecting(task, req):
                task.backend.mark_as_retry(req.id, reason.exc, einfo.traceback, request=req)
        task.on_retry(reason.exc, req.id, req.args, req.kwargs, einfo)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=task, request=req, reason=reason, einfo=einfo)
        if logger.isEnabledFor(logging.INFO):
            info(LOG_RETRY, {"id": req.id, "name": get_task_name(req, task.name), "exc": str(reason)})
        return einfo

    def handle_failure(
        self, task: Any, req: Any, store_errors: bool = True, call_errbacks: bool = True
    ) -> ExceptionInfo:
        """Store, tell and log that the task has failed."""
        exc: BaseException = self.retval
        einfo = ExceptionInfo.of(exc)
        with _collecting(task, req), fixed_ids(cause_of(req, ":failed")):
            task.backend.mark_as_failure(
                req.id, exc, einfo.traceback, request=req, store_result=store_errors, call_errbacks=call_errbacks
            )
        task.on_failure(exc, req.id, req.args, req.kwargs, einfo)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=task,
                task_id=req.id,
                exception=exc,
                args=req.args,
                kwargs=req.kwargs,
                traceback=einfo.tb,
                einfo=einfo,
            )
        return self._log_error(task, req, einfo)

    def give_up(self, task: Any, req: Any) -> None:
        """Nobody waits for the task any more: it ends without a result, and what would have followed it does not run.

        For its chord, and for the rest of its chain, that is a failure.
        """
        if (req.chord or req.chain) and not req.replaced:
            with _collecting(task, req):
                task.backend.mark_as_failure(req.id, self.retval, request=req, store_result=False, call_errbacks=False)

    def _log_error(self, task: Any, req: Any, einfo: ExceptionInfo) -> ExceptionInfo:
        exc: BaseException = self.retval
        policy = get_log_policy(task, einfo, exc)
        if not logger.isEnabledFor(policy.severity):
            return einfo
        context = {
            "hostname": req.hostname,
            "id": req.id,
            "name": get_task_name(req, task.name),
            "exc": saferepr(exc, task.resultrepr_maxsize),
            "traceback": einfo.traceback,
            "args": req.get("argsrepr") or saferepr(req.args),
            "kwargs": req.get("kwargsrepr") or saferepr(req.kwargs),
            "description": policy.description,
            "internal": einfo.internal,
        }
        exc_info = einfo.exc_info if policy.traceback else None
        logger.log(policy.severity, policy.format, context, exc_info=exc_info, extra={"data": context})
        return einfo


class _collecting:  # noqa: N801 - used as `with _collecting(...)`
    """In this block, what the result backend stores and what callbacks send becomes an effect of the execution."""

    __slots__ = ("outbox", "request")

    def __init__(self, task: Any, request: Any) -> None:
        self.request = request
        self.outbox = nullcontext() if request.outbox is None else task.app.publisher.collect(request.outbox)

    def __enter__(self) -> None:
        self.request.records = self.request.effects
        self.outbox.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self.outbox.__exit__(*exc_info)
        self.request.records = None


class Tracer:
    """Runs one task, again and again. Thread-safe: what belongs to one execution is in its request."""

    def __init__(
        self, name: str, task: Any, app: Celery, loader: Any, hostname: str | None, *, eager: bool, propagate: bool
    ) -> None:
        self.name = name
        self.task = task
        self.app = app
        self.hostname = hostname
        self.eager = eager
        self.propagate = propagate
        # Looked up here, on the task itself: monitoring packages have replaced it on the task by now.
        self.fun: Callable[..., Any] = task if task_has_custom(task, "__call__") else task.run
        self.before_start = task.before_start if task_has_custom(task, "before_start") else None
        self.on_success = task.on_success if task_has_custom(task, "on_success") else None
        self.after_return = task.after_return if task_has_custom(task, "after_return") else None
        self.backend: Any = task.backend
        self.is_ours = isinstance(self.backend, ResultBackend)
        self.is_disabled = isinstance(self.backend, DisabledBackend)
        self.cleanups = [] if eager else _cleanups(self.backend, loader)
        self.on_task_init = loader.on_task_init if type(loader).on_task_init is not BaseLoader.on_task_init else None
        # The variables behind two stacks. Setting them to what they were is cheaper than pushing and popping.
        self.tasks = _task_stack._items
        self.requests = task.request_stack._items
        self.repr_size: int = task.resultrepr_maxsize

    # -- the two drivers ------------------------------------------------------------------------------------------

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        """Run the task in this thread. A coroutine runs on the event loop of this thread's slot."""
        steps = self.steps(uuid, args, kwargs, request)
        try:
            awaited = next(steps)
            while True:
                try:
                    value = coroutines.run_coroutine(awaited)
                except BaseException as exc:  # noqa: BLE001 - whatever the task raises is the steps' business
                    awaited = steps.throw(exc)
                else:
                    awaited = steps.send(value)
        except StopIteration as end:
            traced: trace_ok_t = end.value
            return traced

    async def run_async(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        """Run the task in the running event loop, beside others."""
        steps = self.steps(uuid, args, kwargs, request)
        try:
            awaited = next(steps)
            while True:
                try:
                    value = await coroutines.interruptible(awaited, [])
                except BaseException as exc:  # noqa: BLE001 - whatever the task raises is the steps' business
                    awaited = steps.throw(exc)
                else:
                    awaited = steps.send(value)
        except StopIteration as end:
            traced: trace_ok_t = end.value
            return traced

    # -- the flow -------------------------------------------------------------------------------------------------

    def steps(self, uuid: str, args: Any, kwargs: Any, request: Any) -> Generator[Any, Any, trace_ok_t]:
        """One execution, from `task_prerun` to `task_postrun`."""
        task = self.task
        request = self._request(uuid, args, kwargs, request)
        traced = None
        started = time.monotonic()
        tasks, requests = self.tasks.get(), self.requests.get()
        self.tasks.set((*tasks, task))
        self.requests.set((*requests, request))
        try:
            try:
                if signals.task_prerun.receivers:
                    signals.task_prerun.send(sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs)
                self._before(uuid, args, kwargs, request)
                value = self.fun(*args, **kwargs)
                if value.__class__ is CoroutineType:
                    value = yield value
                self._keep(uuid, value, request)
            except Exception as exc:  # noqa: BLE001 - the task's own: it becomes its result
                traced = self._raised(exc, request)
            else:
                traced = self._succeeded(uuid, args, kwargs, request, value, started)
            if self.after_return is not None:
                self._after(traced, uuid, args, kwargs)
        except Exception as exc:
            if self.eager:
                raise
            traced = self._internal_error(exc, uuid, args, kwargs, request)
        finally:
            try:
                if signals.task_postrun.receivers:
                    self._tell_end(traced, uuid, args, kwargs)
            finally:
                self.tasks.set(tasks)
                self.requests.set(requests)
                if self.cleanups:
                    self._clean_up()
        if traced.info is not None:
            # The text is made before its frames let go of what the task had in its variables.
            traced.retval.keep_text()
            traceback_clear(traced.info.retval)
        return traced

    def _request(self, uuid: str, args: Any, kwargs: Any, request: Any) -> Context:
        if isinstance(request, Context):
            return request
        made = Context(request or {}, args=args, kwargs=kwargs, called_directly=False)
        if made.id is None:
            made.id = uuid
        if made.hostname is None:
            made.hostname = self.hostname
        return made

    def _before(self, uuid: str, args: Any, kwargs: Any, request: Context) -> None:
        if self.on_task_init is not None:
            self.on_task_init(uuid, self.task)
        if self.task.track_started and request.effects is None and self._publishes(request):
            meta = {"pid": os.getpid(), "hostname": request.hostname}
            self.backend.store_result(uuid, meta, STARTED, request=request)
        if self.before_start is not None:
            self.before_start(uuid, args, kwargs)

    def _publishes(self, request: Context) -> bool:
        """Whether the result is to be stored."""
        if self.is_disabled or (self.eager and not self.task.store_eager_result):
            return False
        return not is_result_ignored(self.task, request)

    def _keep(self, uuid: str, value: Any, request: Context) -> None:
        """Keep the result, and send what follows. What cannot be sent or stored fails the task."""
        if request.callbacks or request.chain or request.chord:
            self._keep_in_canvas(uuid, value, request)
            return
        if self._publishes(request):
            if self.is_ours and request.effects is not None:
                record = self.backend.record(uuid, value, SUCCESS, request=request, writer=request.writer)
                request.effects.append(record)
            else:
                with _collecting(self.task, request):
                    self.backend.mark_as_done(uuid, value, request)

    def _keep_in_canvas(self, uuid: str, value: Any, request: Context) -> None:
        """All of it or nothing. Callbacks first: they are children in the result."""
        kept = [(items, len(items)) for items in (request.outbox, request.effects, request._children) if items]
        try:
            with _collecting(self.task, request):
                if request.callbacks or request.chain:
                    send_callbacks(self.app, request, value)
                effects = request.effects if self.is_ours and not request.chord else None
                if (publishes := self._publishes(request)) and effects is not None:
                    effects.append(self.backend.record(uuid, value, SUCCESS, request=request, writer=request.writer))
                elif publishes or request.chord:
                    self.backend.mark_as_done(uuid, value, request, publishes)
        except BaseException:
            for items in (request.outbox, request.effects, request._children):
                if items:
                    del items[next((length for known, length in kept if known is items), 0) :]
            raise

    def _succeeded(self, uuid: str, args: Any, kwargs: Any, request: Context, value: Any, started: float) -> trace_ok_t:
        shown = saferepr(value, self.repr_size)
        runtime = time.monotonic() - started
        if self.on_success is not None:
            try:
                self.on_success(value, uuid, args, kwargs)
            except Exception as exc:  # noqa: BLE001 - the task has done its work: the handler alone has failed
                log_handler(self.task, request, "on_success", exc)
        if signals.task_success.receivers:
            signals.task_success.send(sender=self.task, result=value, runtime=runtime)
        if logger.isEnabledFor(logging.INFO):
            name = request.shadow or self.task.name
            context = {
                "id": uuid,
                "name": name,
                "return_value": shown,
                "runtime": runtime,
                "args": request.get("argsrepr") or saferepr(args),
                "kwargs": request.get("kwargsrepr") or saferepr(kwargs),
            }
            logger.info(LOG_SUCCESS, context, extra={"data": context})
        return _make_traced(trace_ok_t, (value, None, runtime, shown))

    def _raised(self, exc: Exception, request: Context) -> trace_ok_t:
        """What the task raised, by its kind."""
        task = self.task
        if isinstance(exc, Reject):
            ending = TraceInfo(REJECTED, exc)
            einfo = ending.handle_reject(task, request)
            if not (exc.requeue and task.acks_late):
                ending.give_up(task, request)
        elif isinstance(exc, Ignore):
            ending = TraceInfo(IGNORED, exc)
            einfo = ending.handle_ignore(task, request)
            ending.give_up(task, request)
        elif isinstance(exc, Retry):
            ending = TraceInfo(RETRY, exc)
            einfo = ending.handle_error_state(task, request, eager=self.eager, call_errbacks=False)
        else:
            if self.propagate:
                raise exc
            ending = TraceInfo(FAILURE, exc)
            einfo = ending.handle_error_state(task, request, eager=self.eager)
        return trace_ok_t(einfo, ending, None, None)

    def _after(self, traced: trace_ok_t, uuid: str, args: Any, kwargs: Any) -> None:
        state, value = _state_and_value(traced)
        if state not in IGNORE_STATES and self.after_return is not None:
            einfo = traced.retval if traced.info is not None else None
            try:
                self.after_return(state, value, uuid, args, kwargs, einfo)
            except Exception as exc:  # noqa: BLE001 - as above
                log_handler(self.task, self.task.request, "after_return", exc)

    def _internal_error(self, exc: Exception, uuid: str, args: Any, kwargs: Any, request: Context) -> trace_ok_t:
        """A handler or the result backend raised, not the task."""
        einfo = ExceptionInfo.of(exc, internal=True)
        if signals.task_internal_error.receivers:
            signals.task_internal_error.send(
                sender=self.task,
                task_id=uuid,
                args=args,
                kwargs=kwargs,
                request=request,
                exception=exc,
                traceback=exc.__traceback__,
                einfo=einfo,
            )
        ending = TraceInfo(FAILURE, exc)
        ending._log_error(self.task, request, einfo)
        return trace_ok_t(einfo, ending, None, None)

    def _tell_end(self, traced: trace_ok_t | None, uuid: str, args: Any, kwargs: Any) -> None:
        state, value = _state_and_value(traced)
        signals.task_postrun.send(
            sender=self.task, task_id=uuid, task=self.task, args=args, kwargs=kwargs, retval=value, state=state
        )

    def _clean_up(self) -> None:
        for cleanup in self.cleanups:
            try:
                cleanup()
            except Exception:
                logger.exception("Process cleanup failed.")


def _state_and_value(traced: trace_ok_t | None) -> tuple[str | None, Any]:
    if traced is None:
        return None, None
    if traced.info is None:
        return SUCCESS, traced.retval
    return traced.info.state, traced.info.retval


def _cleanups(backend: Any, loader: Any) -> list[Callable[[], Any]]:
    found: list[Callable[[], Any]] = []
    if type(backend).process_cleanup is not Backend.process_cleanup:
        found.append(backend.process_cleanup)
    if type(loader).on_process_cleanup is not BaseLoader.on_process_cleanup:
        found.append(loader.on_process_cleanup)
    return found


def build_tracer(
    name: str,
    task: Any,
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    Info: type[TraceInfo] = TraceInfo,  # noqa: N803 - the public name
    eager: bool = False,
    propagate: bool = False,
    app: Celery | None = None,
    **options: Any,
) -> Callable[..., trace_ok_t]:
    """A callable `f(uuid, args, kwargs, request=None)` that runs *task* and returns how that went.

    *request* is a `Context` or a mapping of its fields.  With *eager* nothing is stored unless
    `task_store_eager_result` says so; with *propagate* what the task raises is raised.  SystemExit and
    KeyboardInterrupt always are.

    Looked up on this module for every task: monitoring packages replace it here.
    """
    app = app or task.app
    return Tracer(name, task, app, loader or app.loader, hostname, eager=eager, propagate=propagate)


def trace_task(task: Any, uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any) -> trace_ok_t:
    """Run *task* with the tracer it was last given, or a new one."""
    if task.__trace__ is None:
        task.__trace__ = build_tracer(task.name, task, **opts)
    traced: trace_ok_t = task.__trace__(uuid, args, kwargs, request)
    return traced


def trace_task_ret(
    name: str,
    uuid: str,
    request: Any,
    body: bytes,
    content_type: str,
    content_encoding: str,
    loads: Callable[..., Any] = loads,
    app: Celery | None = None,
    **extra_request: Any,
) -> tuple[int, Any, float | None]:
    """Run the task of a message that somebody else received: (0, repr of its value, seconds) or (1, error, seconds)."""
    app = app_or_default(app)
    content = loads(body, content_type, content_encoding, accept_types(app.conf.accept_content))
    args, kwargs, embed = content
    fields = {**request, **(embed or {}), **extra_request}
    traced = trace_task(app.tasks[name], uuid, args, kwargs, fields, app=app)
    return (1, traced.retval, traced.runtime) if traced.info is not None else (0, traced.retstr, traced.runtime)


fast_trace_task = trace_task_ret


def report_internal_error(task: Any, exc: BaseException) -> ExceptionInfo:
    """The information about an error of the worker, not of the task."""
    return ExceptionInfo.of(exc, internal=True)


def setup_worker_optimizations(app: Celery, hostname: str | None = None) -> None:
    """Make *app* the app of this process and complete it, as a worker does before it runs tasks."""
    app.set_current()
    app.set_default()
    app.finalize()


def reset_worker_optimizations(app: Celery | None = None) -> None:
    """Kept for the API: there is nothing to undo."""


__all__ = [
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "IGNORE_STATES",
    "LOG_FAILURE",
    "LOG_IGNORED",
    "LOG_INTERNAL_ERROR",
    "LOG_RECEIVED",
    "LOG_REJECTED",
    "LOG_RETRY",
    "LOG_SUCCESS",
    "REJECTED",
    "RETRY",
    "STARTED",
    "SUCCESS",
    "TraceInfo",
    "TraceResult",
    "Tracer",
    "build_tracer",
    "fast_trace_task",
    "get_log_policy",
    "get_task_name",
    "info",
    "log_policy_expected",
    "log_policy_ignore",
    "log_policy_internal",
    "log_policy_reject",
    "log_policy_t",
    "log_policy_unexpected",
    "logger",
    "report_internal_error",
    "reset_worker_optimizations",
    "send_postrun",
    "send_prerun",
    "send_success",
    "setup_worker_optimizations",
    "task_has_custom",
    "trace_ok_t",
    "trace_task",
    "trace_task_ret",
    "traceback_clear",
]
