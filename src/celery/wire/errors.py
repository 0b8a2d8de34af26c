"""Exceptions as data: what a failed task leaves in the result store, and the exception a client raises from it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from celery.exceptions import EncodeError, SecurityError
from celery.utils.saferepr import saferepr
from celery.wire.serialization import dumps

MAX_REPR = 4096
UNKNOWN_MODULE = "celery.backends.base"
"""The module of classes made up for exceptions that say none: the original's, which clients may look at."""


def exception_to_data(exc: BaseException, serializer: str = "json") -> dict[str, Any]:
    """Name, module and arguments of *exc*; an argument that *serializer* cannot carry becomes its repr."""
    kind = type(exc)
    return {
        "exc_type": getattr(kind, "__qualname__", kind.__name__),
        "exc_message": [_carried(argument, serializer) for argument in exc.args],
        "exc_module": kind.__module__,
    }


def _carried(argument: Any, serializer: str) -> Any:
    if argument is None or type(argument) in {str, int, bool}:
        return argument
    try:
        dumps(argument, serializer)
    except EncodeError:
        return saferepr(argument, maxlen=MAX_REPR)
    return argument


def exception_from_data(data: Any) -> BaseException | None:
    """The exception that *data* tells of.

    Its class is the original one if its module is imported here already: nothing is imported, and nothing but a
    subclass of BaseException is ever called, because of what a store says (`SecurityError`). A class that is not here
    is made up under its name, as a subclass of Exception. An exception that does not take its own arguments back
    keeps its class and its arguments, without its `__init__` being run. None and exceptions are returned as they are.
    """
    if isinstance(data, BaseException):
        return data
    if not data:
        return None
    if not isinstance(data, Mapping):
        return made_up("Exception", UNKNOWN_MODULE)(data)
    name = data.get("exc_type")
    if not isinstance(name, str) or not name:
        raise ValueError("Exception information must include the exception type")
    arguments = data.get("exc_message", ())
    arguments = tuple(arguments) if isinstance(arguments, list | tuple) else (arguments,)
    kind = _find_class(name, data.get("exc_module"), arguments)
    try:
        return kind(*arguments)
    except Exception:  # noqa: BLE001 - an __init__ of others: whatever it raises, the class is still the answer
        return _without_init(kind, arguments)


def _without_init(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    try:
        exc = kind.__new__(kind, *arguments)
    except Exception:  # noqa: BLE001 - as above
        return Exception(f"{kind}({arguments})")
    exc.args = arguments
    return exc


def _find_class(name: str, module: Any, arguments: tuple[Any, ...]) -> type[BaseException]:
    if not isinstance(module, str) or not module:
        return made_up(name, UNKNOWN_MODULE)
    found: Any = sys.modules.get(module)
    if found is not None:
        for part in name.split("."):
            found = getattr(found, part, None)
    if found is None:
        return made_up(name, module)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise SecurityError(f"Expected an exception class, got {module}.{name} with payload {arguments!r}")
    return found


def made_up(name: str, module: str, parent: type[BaseException] = Exception) -> type[BaseException]:
    """A class for an exception that is not defined here."""
    return type(name.rpartition(".")[2], (parent,), {"__module__": module, "__qualname__": name})


class RemoteTraceback(Exception):
    """The traceback of another process, as the cause of the exception it sent."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)


def with_remote_traceback(exc: BaseException, text: str | None) -> BaseException:
    """*exc* with the remote traceback shown above its own; nothing is done without a text, or if it has a cause."""
    if text and exc.__cause__ is None:
        exc.__cause__ = RemoteTraceback(text)
    return exc
