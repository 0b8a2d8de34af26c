"""What a message says of limits: decided when it is sent, so that workers need no code of the user to keep to them.

`concurrency_limit` and `concurrency_key` say how many tasks of one key may run at the same time in the whole fleet;
`unique` and `idempotency_key` that a task is sent only if no other one holds its key.  All four are attributes of a
task and options of `apply_async`.  As an attribute a key is a template over the arguments of the task (`"{customer}"`,
`"{0}"`) or a function of them; as an option it is the key itself.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.utils.deferred import deferred
from celery.utils.digests import sha1
from celery.wire.message import Unique
from celery.wire.protocol import LIMIT, UNIQUE
from celery.wire.serialization import encode_json

if TYPE_CHECKING:
    import inspect

    from celery.app.base import Celery
else:
    inspect = deferred("inspect")

OPTIONS = frozenset({"concurrency_limit", "concurrency_key", "unique", "idempotency_key"})
KEYS = frozenset({"concurrency_key", "idempotency_key"})
"""Attributes that may be functions of the arguments, which are no methods of the task."""
LONGEST = 200
"""Characters of a key; of a longer one its digest is used."""
PARTS = ("group_id", "chord", "chain", "link", "link_error")
"""Options of messages that are parts of a workflow, which must not be left out of it."""

_formatter = string.Formatter()
_parameters: WeakKeyDictionary[type, inspect.Signature] = WeakKeyDictionary()
_compiled: WeakKeyDictionary[type, dict[Any, Template]] = WeakKeyDictionary()
_MISSING: Any = object()


def has_limits(task: Any) -> bool:
    """Whether messages of *task* say something of limits."""
    return task.concurrency_limit is not None or task.unique is not None or task.idempotency_key is not None


def asks_first(task: Any, options: Mapping[str, Any]) -> bool:
    """Whether the broker has to be asked before it is known what comes of sending *task*."""
    return (
        task.unique is not None
        or task.idempotency_key is not None
        or options.get("unique") is not None
        or options.get("idempotency_key") is not None
    )


def apply_limits(app: Celery, task: Any, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Unique | None:
    """Take the options that are about limits out of *options*, and put what the message says of them into its headers.

    The key that the task has to hold to be sent, if any.  *task* is None for one that is not known here.  Raises
    `ValueError` for what makes no sense.
    """
    given = {key: options.pop(key) for key in OPTIONS if key in options}
    headers: Mapping[str, Any] = options.get("headers") or {}
    if not given and (LIMIT in headers or UNIQUE in headers):
        return None  # a retry: it was decided when the task was first sent
    said: dict[str, Any] = {}
    limit = given.get("concurrency_limit", getattr(task, "concurrency_limit", None))
    if limit:
        said[LIMIT] = [concurrency_key(task, name, args, kwargs, given), check_limit(name, limit)]
    elif given.get("concurrency_key") is not None:
        raise ValueError(
            f"{name}: concurrency_key says what is counted; concurrency_limit has to say how many may run."
        )
    unique = None
    if not any(options.get(part) is not None for part in PARTS):
        unique, until_done = _unique(app, task, name, args, kwargs, given)
        if unique is not None and until_done:
            said[UNIQUE] = unique.key
            unique = Unique(unique.key, unique.until + _due(app, options))
    if said:
        options["headers"] = {**headers, **said}
    return unique


def check_limit(name: str, limit: Any) -> int:
    """A `concurrency_limit`; raises `ValueError` for what is none."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"{name}: concurrency_limit has to be a whole number of 1 or more, or None, not {limit!r}.")
    return limit


def concurrency_key(task: Any, name: str, args: Any, kwargs: Any, given: Mapping[str, Any] = {}) -> str:
    """What the tasks that are counted together have in common; empty for one that is not counted."""
    if given.get("concurrency_key") is not None:
        return tidy(str(given["concurrency_key"]))
    rule = getattr(task, "concurrency_key", None)
    if rule is None:
        return name
    return derive(task, rule, "concurrency_key", args, kwargs)


def derive(task: Any, rule: Any, what: str, args: Any, kwargs: Any) -> str:
    """The key that a template or a function has for these arguments; empty if the function returns None."""
    if callable(rule):
        found = rule(*(args or ()), **(kwargs or {}))
        return "" if found is None else tidy(str(found))
    known = _compiled.setdefault(task.__class__, {})
    if (template := known.get(rule)) is None:
        template = known[rule] = Template(task, str(rule))
    found = template.fill(args or (), kwargs or {})
    if found is not None:
        return tidy(found)
    positional, named = arguments(task, args, kwargs)
    try:
        return tidy(_formatter.vformat(str(rule), positional, named))
    except (LookupError, AttributeError, ValueError) as error:
        raise ValueError(f"{task.name}: the {what} {rule!r} does not fit its arguments: {error}.") from error


class Template:
    """A template over the arguments of a task, read once: what nearly every call needs is looked up, not bound."""

    def __init__(self, task: Any, text: str) -> None:
        self._parts: list[tuple[str, str, int, Any]] | None = []
        """What stands before an argument; its name, place and default. None: it asks for more than such arguments."""
        parameters = list(signature_of(task).parameters.values())
        plain = {
            parameter.name: (parameter, place)
            for place, parameter in enumerate(parameters)
            if parameter.kind in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        }
        by_place = [parameter.name for parameter in parameters] if len(plain) == len(parameters) else []
        try:
            fields = list(_formatter.parse(text))
        except ValueError:
            self._parts = None
            return
        for literal, field, spec, conversion in fields:
            if field is not None and field.isdecimal() and int(field) < len(by_place):
                field = by_place[int(field)]  # noqa: PLW2901 - what it stands for
            if spec or conversion or (field is not None and field not in plain):
                self._parts = None
                return
            parameter, place = plain[field] if field is not None else (None, -1)
            if parameter is None:
                self._parts.append((literal, "", -1, ""))
                continue
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                place = sys.maxsize
            default = _MISSING if parameter.default is inspect.Parameter.empty else parameter.default
            self._parts.append((literal, parameter.name, place, default))

    def fill(self, args: Any, kwargs: Any) -> str | None:
        """The text for these arguments; None where it takes more to say."""
        if self._parts is None:
            return None
        text = ""
        for literal, name, place, default in self._parts:
            if not name:
                value = ""
            elif place < len(args):
                value = args[place]
            else:
                value = kwargs.get(name, default)
            if value is _MISSING:
                return None
            text += f"{literal}{value}"
        return text


def signature_of(task: Any) -> inspect.Signature:
    found = _parameters.get(task.__class__)
    if found is None:
        found = _parameters[task.__class__] = inspect.signature(task.run)
    return found


def arguments(task: Any, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call in their order and by their names, defaults included."""
    parameters = signature_of(task)
    try:
        bound = parameters.bind(*(args or ()), **(kwargs or {}))
    except TypeError:  # a partial call, whose arguments come later
        return list(args or ()), dict(kwargs or {})
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for parameter, value in bound.arguments.items():
        if parameters.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[parameter] = value
    return [*bound.args, *bound.kwargs.values()], named


def tidy(key: str) -> str:
    """*key*, or its digest if it is long or is not one line."""
    return key if len(key) <= LONGEST and key.isprintable() else sha1(key.encode(errors="backslashreplace"))


def _unique(
    app: Celery, task: Any, name: str, args: Any, kwargs: Any, given: Mapping[str, Any]
) -> tuple[Unique | None, bool]:
    """The key that the task has to hold, and whether its end frees it."""
    wanted = given.get("unique", getattr(task, "unique", None))
    key = given.get("idempotency_key")
    rule = getattr(task, "idempotency_key", None) if key is None else None
    if wanted is None and (key is not None or rule is not None):
        wanted = app.conf.task_idempotency_expires
    if wanted is None or wanted is False:
        return None, False
    if key is None:
        key = (
            derive(task, rule, "idempotency_key", args, kwargs) if rule is not None else fingerprint(task, args, kwargs)
        )
    if not key:
        return None, False
    kept = _seconds(name, app.conf.task_unique_expires if wanted is True else wanted)
    return Unique(tidy(f"{name} {key}"), app.clock_time() + kept), wanted is True


def _seconds(name: str, value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        raise ValueError(f"{name}: unique has to be True, or a number of seconds above 0, not {value!r}.")
    return float(seconds)


def fingerprint(task: Any, args: Any, kwargs: Any) -> str:
    """What tells a call from others with other arguments, however they were given."""
    if task is not None:
        _, named = arguments(task, args, kwargs)
        said: Any = sorted(named.items())
    else:
        said = [list(args or ()), sorted((kwargs or {}).items())]
    try:
        return sha1(encode_json(said))
    except (TypeError, ValueError):
        return sha1(repr(said).encode(errors="backslashreplace"))


def _due(app: Celery, options: Mapping[str, Any]) -> float:
    """Seconds until the task may run."""
    eta, countdown = options.get("eta"), options.get("countdown")
    if countdown is not None and isinstance(countdown, int | float):
        return max(0.0, float(countdown))
    if eta is not None and hasattr(eta, "timestamp"):
        return max(0.0, float(eta.timestamp()) - app.clock_time())
    return 0.0


Key = Callable[[Any, dict[str, Any]], str]


def key_of_plan(task: Any) -> Key | None:
    """What finds the key of each message of *task*; None where they all have the same, or none."""
    if not task.concurrency_limit or task.concurrency_key is None:
        return None
    return lambda args, kwargs: concurrency_key(task, task.name, args, kwargs)


__all__ = ["OPTIONS", "apply_limits", "concurrency_key", "has_limits"]
