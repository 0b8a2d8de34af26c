"""The errors of this package.

```
Exception
├── CeleryError
│   ├── ImproperlyConfigured          a setting, a URL or a name is wrong
│   ├── SecurityError                 a signature or certificate does not hold
│   ├── BrokerError                   the broker cannot be reached, or refuses (what a publish raises at the public
│   │                                 edge is kombu's OperationalError, with this one as its cause)
│   ├── PoolError                     the pool cannot start or keep its slots
│   ├── EncodeError / DecodeError     a value does not become bytes / bytes do not become a value
│   │   └── ContentDisallowed         the content type is not in `accept_content`
│   ├── TaskPredicate                 raised inside a task to steer the worker
│   │   ├── Ignore
│   │   ├── Reject
│   │   └── Retry
│   └── TaskError
│       ├── QueueNotFound (KeyError)
│       ├── IncompleteStream
│       ├── NotRegistered (KeyError)
│       ├── AlreadyRegistered
│       ├── TimeoutError
│       ├── MaxRetriesExceededError
│       ├── TaskRevokedError
│       ├── InvalidTaskError
│       └── ChordError
├── BackendError
│   ├── BackendGetMetaError
│   └── BackendStoreError
├── SoftTimeLimitExceeded             raised inside a task at its soft limit
├── TimeLimitExceeded                 the result of a task killed at its hard limit
├── WorkerLostError                   the result of a task whose process died
├── Terminated                        the result of a task killed on request
└── SystemExit
    ├── WorkerShutdown                warm
    └── WorkerTerminate               cold
```

`OperationalError` (kombu's) and `CeleryCommandException` (click's) are loaded when first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.exceptions import OperationalError as OperationalError

UNREGISTERED_FMT = "Task of kind {0} never registered, please make sure it's imported."


class CeleryWarning(UserWarning):
    """Base of all warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """`send_task` ignores `task_always_eager`: it may not know the task."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers have the same node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two tasks have the same name; the later one replaced the earlier."""


class FixupWarning(CeleryWarning):
    """A framework could not be prepared."""


class NotConfigured(CeleryWarning):
    """No configuration module was found: defaults are used."""


class SecurityWarning(CeleryWarning):
    """A setting may be unsafe."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Is deprecated."""


class CeleryError(Exception):
    """Base of all errors of this package."""


class ImproperlyConfigured(CeleryError):
    """The configuration is wrong."""


class SecurityError(CeleryError):
    """A signature or certificate does not hold."""


class BrokerError(CeleryError):
    """The broker cannot be reached, or refuses."""

    temporary = False
    """Known to be about the state of the broker (locked, full, out of reach), not about what it was asked to do."""


class PoolError(CeleryError):
    """The pool cannot start or keep its slots."""


class EncodeError(CeleryError, ValueError):
    """A value cannot be serialised."""


class DecodeError(CeleryError, ValueError):
    """Bytes are not what their content type says."""


class ContentDisallowed(DecodeError):
    """The content type is not accepted; see the setting `accept_content`."""


class TaskPredicate(CeleryError):
    """Base of what a task raises to steer the worker."""


class Retry(TaskPredicate):
    """The task is to be retried; raised by `Task.retry`.

    `exc` is the error that led to it, `when` seconds or the time of the next try, `sig` the message to be sent.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.exc: BaseException | None
        self.excs: str | None
        if isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = exc, repr(exc) if exc else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when, is_eager, sig)

    def humanize(self) -> str:
        if isinstance(self.when, Real):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.message, self.exc, self.when)


class Ignore(TaskPredicate):
    """The worker stores no state for this task."""


class Reject(TaskPredicate):
    """The worker rejects the message: to the dead set, or back to its queue with *requeue*."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class TaskError(CeleryError):
    """Base of errors about tasks."""


class QueueNotFound(KeyError, TaskError):
    """A task was routed to a queue that is not in `task_queues`, and `task_create_missing_queues` is off."""


class IncompleteStream(TaskError):
    """The data ended too early."""


class NotRegistered(KeyError, TaskError):
    """No task of that name is registered."""

    def __repr__(self) -> str:
        return UNREGISTERED_FMT.format(str(self))


class AlreadyRegistered(TaskError):
    """A task of that name is registered already."""


class TimeoutError(TaskError):
    """The operation timed out."""


class MaxRetriesExceededError(TaskError):
    """The task was retried as often as it may be."""

    def __init__(
        self,
        *args: Any,
        task_args: Sequence[Any] | None = None,
        task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.task_args = task_args or []
        self.task_kwargs = task_kwargs or {}
        super().__init__(*args)


class TaskRevokedError(TaskError):
    """The task was revoked: it has no result."""


class InvalidTaskError(TaskError):
    """The message is not a task this worker can understand."""


class ChordError(TaskError):
    """A task in the header of a chord failed, so its body cannot run."""


class BackendError(Exception):
    """The result backend cannot be reached, or refuses."""

    temporary = False
    """Known to be about the state of the store (locked, full, out of reach), not about what it was asked to do."""


class BackendGetMetaError(BackendError):
    """Reading a result failed."""

    def __init__(self, *args: Any, task_id: str = "") -> None:
        self.task_id = task_id
        super().__init__(*args)


class BackendStoreError(BackendError):
    """Storing a result failed."""

    def __init__(self, *args: Any, state: str = "", task_id: str = "") -> None:
        self.state = state
        self.task_id = task_id
        super().__init__(*args)


class SoftTimeLimitExceeded(Exception):
    """The soft time limit of the task has passed; raised inside the task."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class TimeLimitExceeded(Exception):
    """The hard time limit of the task has passed, and its process was killed."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The process that ran the task ended before the task did."""


class Terminated(Exception):
    """The task was killed on request."""


class WorkerTerminate(SystemExit):
    """The worker is to stop at once."""


class WorkerShutdown(SystemExit):
    """The worker is to stop when its tasks have ended."""


RetryTaskError = Retry
SystemTerminate = WorkerTerminate


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> None:
    """Raise *value* with the traceback *tb*."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


def __getattr__(name: str) -> Any:
    """Load the two names that need another package when they are first used: this module stays light."""
    value: Any
    if name == "OperationalError":
        value = import_module("kombu.exceptions").OperationalError
    elif name == "CeleryCommandException":
        value = _command_exception(import_module("click").ClickException)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _command_exception(base: type[Exception]) -> type[Exception]:
    def __init__(self: Any, message: str, exit_code: int) -> None:  # noqa: N807 - becomes a method below
        base.__init__(self, message)
        self.exit_code = exit_code

    doc = "An error of the command line that says its exit code."
    return type("CeleryCommandException", (base,), {"__init__": __init__, "__module__": __name__, "__doc__": doc})


__all__ = [  # noqa: F822 - two names are loaded when first used
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "BrokerError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "ContentDisallowed",
    "DecodeError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "PoolError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
]
