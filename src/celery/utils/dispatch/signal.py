"""A signal: receivers connect to it, `send` calls them in that order."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from celery.utils.functional import fun_accepts_kwargs
from celery.utils.log import get_logger
from celery.utils.time import humanize_seconds

logger = get_logger(__name__)

RECEIVER_RETRY_ERROR = "Could not process signal receiver %(receiver)s. Retrying %(when)s..."

Receiver = Callable[..., Any]
_RETRY_STEP, _RETRY_MAX = 2.0, 30.0


def _identity(target: Any) -> Any:
    """What makes two senders or receivers the same: texts by value, methods by object and function, others by id."""
    if isinstance(target, str | bytes):
        return target
    if hasattr(target, "__func__"):
        return id(target.__self__), id(target.__func__)
    return id(target)


NONE_ID = _identity(None)
NO_RECEIVERS = object()


class _Connection:
    __slots__ = ("key", "reference", "sender")

    def __init__(self, key: Any, sender: Any, reference: Callable[[], Receiver | None]) -> None:
        self.key = key
        self.sender = sender
        self.reference = reference


class Signal:
    """Something that happens, and whom to tell.

    `receivers` is a tuple, empty when nobody listens: `if signal.receivers: signal.send(...)` costs next to nothing.
    Connecting and disconnecting are thread-safe; `send` calls whoever was connected when it began.
    """

    def __init__(
        self, providing_args: Iterable[str] | None = None, use_caching: bool = False, name: str | None = None
    ) -> None:
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching
        self.name = name
        self.receivers: tuple[_Connection, ...] = ()
        self.lock = threading.RLock()

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect a receiver: `connect(fun, sender=None, weak=True, dispatch_uid=None, retry=False)`, or a decorator.

        *sender*: only what this sender sends. *weak*: a receiver that nobody else holds is let go. *dispatch_uid*: a
        second receiver with the same one is not connected. *retry*: call again, at growing intervals, while it raises.
        """

        def attach(
            fun: Receiver, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
        ) -> Receiver:
            # A task that its app has not made yet: its identity is not known before it is.
            later = getattr(type(sender), "__then__", None)
            if later is not None:
                later(sender, lambda task: self._attach(fun, task, weak, dispatch_uid, retry))
            else:
                self._attach(fun, sender, weak, dispatch_uid, retry)
            return fun

        if args and callable(args[0]):
            return attach(args[0], *args[1:], **kwargs)
        return lambda fun: attach(fun, *args, **kwargs)

    def _attach(self, fun: Receiver, sender: Any, weak: bool, dispatch_uid: Any, retry: bool) -> None:
        if not fun_accepts_kwargs(fun):
            raise ValueError(f"Signal receiver {fun!r} must accept keyword arguments: add **kwargs to its parameters.")
        key = (dispatch_uid if dispatch_uid is not None else _identity(fun), _identity(sender))
        reference: Callable[[], Receiver | None]
        if weak and not retry:
            bound = hasattr(fun, "__self__") and hasattr(fun, "__func__")
            kind: Any = weakref.WeakMethod if bound else weakref.ref
            reference = kind(fun, self._remove_receiver)
        else:
            kept = _insist(fun) if retry else fun
            reference = lambda: kept  # noqa: E731 - the counterpart of a weak reference
        with self.lock:
            if all(connection.key != key for connection in self.receivers):
                self.receivers = (*self.receivers, _Connection(key, key[1], reference))

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Undo `connect` with the same arguments; whether there was something to undo."""
        key = (dispatch_uid if dispatch_uid is not None else _identity(receiver), _identity(sender))
        with self.lock:
            kept = tuple(connection for connection in self.receivers if connection.key != key)
            found = len(kept) != len(self.receivers)
            self.receivers = kept
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would be told of what *sender* sends."""
        return bool(self._live_receivers(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver with `signal`, `sender` and the named values; (receiver, answer) of each.

        A receiver that raises is logged, its exception is its answer, and the next is called.
        """
        answers: list[tuple[Receiver, Any]] = []
        if not self.receivers:
            return answers
        for receiver in self._live_receivers(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as exc:  # one receiver's error must not keep the others from being told
                logger.exception("Signal handler %r raised; the others are called all the same.", receiver)
                answers.append((receiver, exc))
            else:
                answers.append((receiver, answer))
        return answers

    send_robust = send

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        wanted = {NONE_ID, _identity(sender)}
        found = (connection.reference() for connection in self.receivers if connection.sender in wanted)
        return [receiver for receiver in found if receiver is not None]

    def _remove_receiver(self, receiver: Any = None) -> None:
        """A receiver is gone: forget the connections that led to it."""
        with self.lock:
            self.receivers = tuple(c for c in self.receivers if c.reference() is not None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"

    def __str__(self) -> str:
        return repr(self)


def _insist(fun: Receiver) -> Receiver:
    """Call *fun* until it does not raise, waiting longer each time."""

    @wraps(fun)
    def insistent(*args: Any, **kwargs: Any) -> Any:
        wait = 0.0
        while True:
            try:
                return fun(*args, **kwargs)
            except Exception:  # that is what `retry=True` asks for
                wait = min(wait + _RETRY_STEP, _RETRY_MAX)
                when = humanize_seconds(wait, "in ")
                logger.exception(RECEIVER_RETRY_ERROR, {"receiver": fun, "when": when})
                time.sleep(wait)

    return insistent


__all__ = ["NONE_ID", "NO_RECEIVERS", "RECEIVER_RETRY_ERROR", "Signal"]
