"""Messages for tests that call what handles them: mocks with the headers and the body of real ones."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

from celery.utils import uuid
from celery.utils.saferepr import saferepr
from celery.wire.serialization import dumps


def _message(kind: str, id: str, headers: dict[str, Any], body: Any) -> Any:
    message = Mock(name=f"{kind}-{id}")
    message.headers = headers
    message.content_type, message.content_encoding, data = dumps(body, "json")
    message.body = data.decode()
    message.payload = body
    return message


def TaskMessage(  # noqa: N802 - the public name
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 2."""
    id = id or uuid()
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain}
    headers = {"id": id, "task": name, "shadow": shadow, **options}
    return _message("TaskMessage", id, headers, (tuple(args), dict(kwargs or {}), embed))


def TaskMessage1(  # noqa: N802 - the public name
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    **options: Any,
) -> Any:
    """A message of protocol 1."""
    id = id or uuid()
    body = {"task": name, "id": id, "args": tuple(args), "kwargs": dict(kwargs or {}), "callbacks": callbacks}
    return _message("TaskMessage1", id, {}, {**body, "errbacks": errbacks, **options})


def task_message_from_sig(app: Any, sig: Any, utc: bool = True, TaskMessage: Any = TaskMessage) -> Any:  # noqa: N803
    """The message that sending *sig* would make."""
    options = dict(sig.options)
    now = datetime.now(UTC if utc else app.timezone)
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    if countdown:
        eta = now + timedelta(seconds=countdown)
    expires = options.pop("expires", None)
    if isinstance(expires, numbers.Real):
        expires = now + timedelta(seconds=float(expires))
    sent = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in
            {"eta": eta, "expires": expires}.items()}  # fmt: skip
    return TaskMessage(
        sig.task, id=options.pop("task_id", None) or sig.id, args=sig.args, kwargs=sig.kwargs,
        callbacks=[dict(item) for item in options.pop("link", None) or ()],
        errbacks=[dict(item) for item in options.pop("link_error", None) or ()],
        argsrepr=saferepr(sig.args), kwargsrepr=saferepr(sig.kwargs), **sent, **options,
    )  # fmt: skip


class _ContextMock(Mock):
    """A mock that is a context manager too."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def ContextMock(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the public name
    """A mock for `with` blocks."""
    return _ContextMock(*args, **kwargs)


__all__ = ["ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig"]
