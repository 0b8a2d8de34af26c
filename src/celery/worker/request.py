"""`Request`: a task message as strategies of their own handle it, and as `Task.Request` classes watch it.

The worker's loop keeps what it claims as `celery.worker.claimed.Claimed`, and makes one of these only where somebody
looks: for a task whose `Strategy` or `Request` is its own, and for receivers of `task_received`.  A request that a
strategy made acts by itself: it acknowledges, runs its task in a pool, records failures.  One that *follows* a task
which runs as all do is told what becomes of it, and leaves the rest to the loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

from celery import signals
from celery._state import app_or_default
from celery.app import trace
from celery.app.context import Context
from celery.app.einfo import ExceptionInfo
from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    Retry,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.platforms import signals as signal_numbers
from celery.utils.functional import maybe_list, noop
from celery.utils.log import get_logger
from celery.utils.nodenames import gethostname
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from celery.wire.serialization import accept_types, loads
from celery.worker import state

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)

IS_PYPY = sys.implementation.name == "pypy"
tz_or_local = timezone.tz_or_local
send_revoked = signals.task_revoked.send
send_retry = signals.task_retry.send
task_accepted, task_ready = state.task_accepted, state.task_ready
revoked_tasks, revoked_stamps = state.revoked, state.revoked_stamps

EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
Payload = tuple[Any, Any, Mapping[str, Any]]


class Led:
    """What a request that follows a task may still decide: how its message ends."""

    def __init__(self) -> None:
        self.decision: str | None = None
        """`done`, `requeue` or `dead`, where one of its hooks acknowledged or rejected the message."""

    def tell(self, hook: Callable[..., Any], *said: Any) -> None:
        """Call a hook. What it raises is logged: the task has ended, whatever its request makes of that."""
        try:
            hook(*said)
        except Exception:
            logger.exception("A hook of a request raised: %r", hook)


class Request:
    """One message for a task. Subclasses may override `on_accepted`, `on_success`, `on_failure`, `on_retry` and
    `on_timeout`; those of this class record, acknowledge and tell monitors, where it is not the loop that does.

    Times are aware datetimes, limits are (hard, soft) in seconds.
    """

    acknowledged = False
    time_start: float | None = None
    worker_pid: int | None = None
    led: Led = cast("Led", None)
    """Set where it follows a task that the loop runs."""

    def __init__(
        self,
        message: Any,
        on_ack: Callable[..., Any] = noop,
        hostname: str | None = None,
        eventer: Any = None,
        app: Celery | None = None,
        connection_errors: tuple[type[BaseException], ...] | None = None,
        request_dict: Mapping[str, Any] | None = None,
        task: Any = None,
        on_reject: Callable[..., Any] = noop,
        body: Any = None,
        headers: Mapping[str, Any] | None = None,
        decoded: bool = False,
        utc: bool = True,
        maybe_make_aware: Callable[..., Any] = maybe_make_aware,
        maybe_iso8601: Callable[..., Any] = maybe_iso8601,
        **opts: Any,
    ) -> None:
        self.message = message
        self.request_dict: dict[str, Any] = dict(message.headers if headers is None else headers)
        self.body = message.body if body is None else body
        self.app = app_or_default(app)
        self.utc = utc
        self._decoded = decoded
        self.content_type = None if decoded else message.content_type
        self.content_encoding = None if decoded else message.content_encoding
        self.type: str = self.request_dict["task"]
        self.id: str = self.request_dict["id"]
        self.name: str = self.request_dict.get("shadow") or self.type
        self.on_ack = on_ack
        self.on_reject = on_reject
        self.hostname = hostname or gethostname()
        self.eventer = eventer
        self.connection_errors = connection_errors or ()
        self.task = task or self.app.tasks[self.type]
        self.eta = self._moment("eta", maybe_iso8601, maybe_make_aware)
        self.expires = self._moment("expires", maybe_iso8601, maybe_make_aware)
        self.tzlocal = None if utc else self.app.timezone
        self._revoked = False
        self._expired = False
        self._result: Any = None
        self._terminate_on_ack: tuple[Any, Any] | None = None
        self._complete(message)

    def _moment(self, name: str, parse: Callable[..., Any], aware: Callable[..., Any]) -> datetime | None:
        said = self.request_dict.get(name)
        try:
            found = parse(said)
        except (AttributeError, ValueError, TypeError) as error:
            raise InvalidTaskError(f"Its {name} is no ISO 8601 time: {said!r} ({error}).") from error
        return None if found is None else aware(found, None if self.utc else self.app.timezone, naive_as_utc=self.utc)

    def _complete(self, message: Any) -> None:
        """Add to the headers what else the task's `request` has."""
        properties = message.properties or {}
        route = message.delivery_info or {}
        self.delivery_info = {
            "exchange": route.get("exchange"),
            "routing_key": route.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": route.get("redelivered") or False,
        }
        self.request_dict.update(
            properties=properties,
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
            hostname=self.hostname,
            delivery_info=self.delivery_info,
        )
        self.reply_to: str | None = self.request_dict["reply_to"]
        self.correlation_id: str | None = self.request_dict["correlation_id"]

    def follow(self) -> Self:
        """Be told what becomes of the task, which the loop runs: this request then does nothing by itself."""
        self.led = led = Led()

        def acknowledge(*_: Any) -> None:
            led.decision = "done"

        def reject(log: Any = None, errors: Any = None, requeue: bool = False) -> None:
            led.decision = "requeue" if requeue else "dead"

        self.on_ack, self.on_reject = acknowledge, reject
        return self

    # -- what the message says -------------------------------------------------------------------------------------

    @property
    def _payload(self) -> Payload:
        """(args, kwargs, embed): decoded when they are first asked for."""
        if not self._decoded:
            accept = accept_types(self.app.conf.accept_content)
            self.body = loads(self.body, self.content_type or "", self.content_encoding or "utf-8", accept)
            self._decoded = True
        return cast("Payload", self.body)

    @property
    def args(self) -> Any:
        return self._payload[0]

    @property
    def kwargs(self) -> Any:
        return self._payload[1]

    @property
    def chord(self) -> Any:
        return self._payload[2].get("chord")

    @property
    def errbacks(self) -> Any:
        return self._payload[2].get("errbacks")

    @property
    def _context(self) -> Context:
        """The request as the task will have it."""
        args, kwargs, embed = self._payload
        known = {name: embed.get(name) for name in EMBEDDED}
        return Context({**self.request_dict, **known}, args=args, kwargs=kwargs, called_directly=False)

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def task_name(self) -> str:
        return self.type

    @property
    def argsrepr(self) -> str:
        return self.request_dict.get("argsrepr") or ""

    @property
    def kwargsrepr(self) -> str:
        return self.request_dict.get("kwargsrepr") or ""

    @property
    def root_id(self) -> str | None:
        return self.request_dict.get("root_id")

    @property
    def parent_id(self) -> str | None:
        return self.request_dict.get("parent_id")

    @property
    def group(self) -> str | None:
        return self.request_dict.get("group")

    @property
    def group_index(self) -> int | None:
        return self.request_dict.get("group_index")

    @property
    def groups(self) -> list[Any]:
        return self.request_dict.get("groups") or []

    @property
    def stamped_headers(self) -> list[str]:
        return self.request_dict.get("stamped_headers") or []

    @property
    def stamps(self) -> dict[str, Any]:
        stamps = self.request_dict.get("stamps") or {}
        return {name: maybe_list(stamps.get(name) or []) for name in self.stamped_headers}

    @property
    def replaced_task_nesting(self) -> int:
        return int(self.request_dict.get("replaced_task_nesting") or 0)

    @property
    def time_limits(self) -> Any:
        return self.request_dict.get("timelimit") or (None, None)

    @property
    def ignore_result(self) -> bool:
        said = self.request_dict.get("ignore_result")
        return bool(self.task.ignore_result if said is None else said)

    @property
    def store_errors(self) -> bool:
        return not self.ignore_result or bool(self.task.store_errors_even_if_ignored)

    # -- how the message ends --------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """The broker may forget the message. Happens once."""
        if not self.acknowledged:
            self.on_ack(logger, self.connection_errors)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """The message goes to the dead set, or with *requeue* back to its queue. Happens once."""
        if not self.acknowledged:
            self.on_reject(logger, self.connection_errors, requeue)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)

    def revoked(self) -> bool:
        """Whether nobody wants it any more, because it has expired or was revoked; then it ends as that."""
        if self._revoked:
            return True
        if self.expires is not None:
            self.maybe_expire()
        if self.id not in state.revoked:
            return False
        logger.info("Discarding revoked task: %s", self)
        self._announce_revoked("expired" if self._expired else "revoked", terminated=False, expired=self._expired)
        return True

    def maybe_expire(self) -> bool | None:
        """Revoke it if it has expired; then True."""
        if self.expires is None or datetime.now(UTC) < self.expires:
            return None
        self._expired = True
        state.revoked.add(self.id)
        return True

    def _announce_revoked(
        self, reason: str, *, terminated: bool, signum: int | None = None, expired: bool = False
    ) -> None:
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        context = self._context
        self.task.backend.mark_as_revoked(self.id, reason, request=context, store_result=self.store_errors)
        self.acknowledge()
        self._revoked = True
        signals.task_revoked.send(
            sender=self.task, request=context, terminated=terminated, signum=signum, expired=expired
        )

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill the process that runs it; where it has not started, it will not."""
        number = signal_numbers.signum(signal or "TERM")
        if self.time_start is not None:
            pool.terminate_job(self.worker_pid, number)
            self._announce_revoked("terminated", terminated=True, signum=number)
        else:
            self._terminate_on_ack = pool, signal

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Kill the process that runs it, so that its message returns to the queue."""
        number = signal_numbers.signum(signal or "TERM")
        if self.time_start is not None:
            pool.terminate_job(self.worker_pid, number)
        self.reject(requeue=True)
        if emit_retry:
            self.send_event("task-retried")

    # -- running it ------------------------------------------------------------------------------------------------

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Run the task in a slot of *pool*; the hooks are told of it. Raises `TaskRevokedError` if nobody wants it."""
        if self.revoked():
            raise TaskRevokedError(self.id)
        hard, soft = self.time_limits
        self._result = pool.apply_async(
            trace.trace_task_ret,
            (self.type, self.id, self.request_dict, self.body, self.content_type, self.content_encoding),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            soft_timeout=soft or self.task.soft_time_limit,
            timeout=hard or self.task.time_limit,
            correlation_id=self.id,
        )
        return self._result

    def execute(self, loglevel: int | None = None, logfile: str | None = None) -> Any:
        """Run the task here and now, and end the message; its value, None if it was revoked."""
        if self.revoked():
            return None
        if not self.task.acks_late:
            self.acknowledge()
        context = self._context
        context.update(loglevel=loglevel, logfile=logfile)
        tracer = trace.build_tracer(self.type, self.task, self.app.loader, self.hostname, app=self.app)
        traced = tracer(self.id, self.args, self.kwargs, context)
        if traced.info is not None:
            self.reject(requeue=False)
        else:
            self.acknowledge()
        return traced.retval

    # -- what it is told -------------------------------------------------------------------------------------------

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool has it: process *pid*, at *time_accepted*."""
        self.worker_pid = pid
        self.time_start = time_accepted
        if self.led is not None:
            return
        if not self.task.acks_late:
            self.acknowledge()
        self.send_event("task-started")
        if self._terminate_on_ack is not None:
            self.terminate(*self._terminate_on_ack)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Its time limit of *timeout* seconds has passed: the soft one, or the one at which it is killed."""
        if self.led is not None:
            return
        if soft:
            logger.warning("Soft time limit (%ss) exceeded for %s", timeout, self)
            return
        logger.error("Hard time limit (%ss) exceeded for %s", timeout, self)
        self._fail(ExceptionInfo.of(TimeLimitExceeded(timeout)))
        if self.task.acks_late and self._acks(self.task.acks_on_timeout):
            self.acknowledge()

    def on_success(self, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> Any:
        """It has ended: (0, its value as text, seconds), or (1, `ExceptionInfo`, seconds)."""
        failed, value, runtime = failed__retval__runtime
        if failed:
            if isinstance(value.exception, SystemExit | KeyboardInterrupt):
                raise value.exception
            return self.on_failure(value, return_ok=True)
        if self.led is None:
            if self.task.acks_late:
                self.acknowledge()
            self.send_event("task-succeeded", result=value, runtime=runtime)
        return None

    def on_retry(self, exc_info: Any) -> None:
        """It has asked to be run again."""
        if self.led is None:
            if self.task.acks_late:
                self.acknowledge()
            cause = getattr(exc_info.exception, "exc", None)
            self.send_event("task-retried", exception=saferepr(cause), traceback=str(exc_info.traceback))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """It has failed. *return_ok*: where it ran, that has been recorded and told."""
        exc = exc_info.exception
        if isinstance(exc, Retry):
            return self.on_retry(exc_info)
        if self.led is not None:
            return None
        if isinstance(exc, Reject):
            return self.reject(requeue=exc.requeue)
        if isinstance(exc, Ignore):
            return self.acknowledge()
        if isinstance(exc, Terminated):
            return self._announce_revoked("terminated", terminated=True)
        late = self.task.acks_late
        if late and self.task.reject_on_worker_lost and isinstance(exc, WorkerLostError) and not self.acknowledged:
            return self.reject(requeue=True)
        if late and self._acks(self.task.acks_on_failure):
            self.acknowledge()
        elif late:
            self.reject(requeue=False)
        if not return_ok:
            self._fail(exc_info)
            logger.error("Task handler raised error: %r", exc, exc_info=getattr(exc_info, "exc_info", None))
        if send_failed_event:
            self.send_event("task-failed", exception=saferepr(exc), traceback=str(exc_info.traceback))
        return None

    def _acks(self, said: bool | None) -> bool:
        either = self.task.acks_on_failure_or_timeout
        return bool(said if said is not None else either is None or either)

    def _fail(self, info: Any) -> None:
        """Record a failure that nobody has recorded where it happened, and tell of it."""
        exc, context = info.exception, self._context
        self.task.backend.mark_as_failure(self.id, exc, info.traceback, request=context, store_result=self.store_errors)
        signals.task_failure.send(
            sender=self.task, task_id=self.id, exception=exc, args=context.args, kwargs=context.kwargs,
            traceback=info.traceback, einfo=info,
        )  # fmt: skip

    def send_event(self, type: str, **fields: Any) -> None:
        """Tell monitors, where they are told of this task."""
        eventer = self.eventer
        if self.led is None and eventer is not None and eventer.enabled and self.task.send_events:
            eventer.send(type, uuid=self.id, **fields)

    # -- as people read it -----------------------------------------------------------------------------------------

    def info(self, safe: bool = False) -> dict[str, Any]:
        """The request as remote control shows it; with *safe*, arguments as they were sent, undecoded."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """Name and id, as log lines have them."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        eta = f" ETA:[{self.eta}] " if self.eta else ""
        expires = f" expires:[{self.expires}] " if self.expires else ""
        return " ".join(filter(None, (self.humaninfo(), eta, expires)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"


def create_request_cls(
    base: type[Request], task: Any, pool: Any, hostname: str, eventer: Any, app: Any = None, **_: Any
) -> type[Any]:
    """A subclass of *base* for the messages of one task: what is the same in all of them need not be given."""
    fixed = {"task": task, "hostname": hostname, "eventer": eventer, "app": app}

    class Made(base):  # type: ignore[misc, valid-type] # the class is what was asked for
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**fixed, **kwargs})

    Made.__name__ = Made.__qualname__ = base.__name__
    Made.__module__ = base.__module__
    return Made


__all__ = ["Request", "create_request_cls"]
