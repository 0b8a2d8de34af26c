"""Values that can be carried: exceptions that can be pickled, values JSON has words for, base64, booleans as text."""

from __future__ import annotations

import datetime as dt
import pickle
import sys
from base64 import b64decode as _b64decode
from base64 import b64encode as _b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from numbers import Real
from typing import Any, NoReturn

from celery.utils.saferepr import saferepr

STRTOBOOL_DEFAULT_TABLE: dict[str, bool] = {
    "false": False,
    "no": False,
    "0": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "off": False,
}
unwanted_base_classes: tuple[type, ...] = (Exception, BaseException, object)


def subclass_exception(name: str, parent: type, module: str) -> type:
    """A new exception class that says it was defined in *module*."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type | None = None) -> type:
    """A new exception class, of `Exception` unless *parent* is given."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The ancestry of *cls* up to a class of *stop*."""
    stops = tuple(stop)
    return takewhile(lambda parent: parent not in stops, cls.__mro__)


def find_pickleable_exception(
    exc: BaseException, loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> BaseException | None:
    """*exc* as the nearest of its own classes that survives pickling with the same arguments; None if none does."""
    arguments = getattr(exc, "args", ())
    for kind in itermro(type(exc), unwanted_base_classes):
        try:
            made: BaseException = kind(*arguments)
            loads(dumps(made))
        except Exception:  # noqa: BLE001, S112 - whatever __init__ or pickle raises, the next class is tried
            continue
        return made
    return None


def get_pickleable_etype(
    cls: type, loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> type:
    """*cls*, or the nearest class above it that can be pickled."""
    for kind in cls.__mro__:
        try:
            loads(dumps(kind))
        except Exception:  # noqa: BLE001, S112 - see above
            continue
        return kind
    return Exception


class UnpickleableExceptionWrapper(Exception):
    """Carries the class name and the arguments of an exception that cannot be pickled; `restore` makes a likeness."""

    exc_module: str
    exc_cls_name: str
    exc_args: tuple[Any, ...]

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None) -> None:
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = tuple(exc_args)
        self.text = text
        super().__init__(exc_module, exc_cls_name, self.exc_args, text)

    def restore(self) -> BaseException:
        made: BaseException = create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)
        return made

    def __str__(self) -> str:
        return self.text or f"{self.exc_cls_name}{self.exc_args}"

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        kind = type(exc)
        return cls(kind.__module__, kind.__name__, ensure_serializable(exc.args, pickle.dumps), saferepr(exc))


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """*exc* if it can be pickled, otherwise what comes nearest to it."""
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:  # noqa: BLE001 - see above
        return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)
    return exc


def get_pickled_exception(exc: BaseException) -> BaseException:
    """The exception that `get_pickleable_exception` was given, or its likeness."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The items, each that *encoder* refuses replaced by its repr."""

    def carried(item: Any) -> Any:
        try:
            encoder(item)
        except Exception:  # noqa: BLE001 - encoders are of others
            return saferepr(item)
        return item

    return tuple(map(carried, items))


def b64encode(s: bytes | str) -> str:
    """Base64 text of bytes, or of text as UTF-8."""
    return _b64encode(s.encode() if isinstance(s, str) else s).decode("ascii")


def b64decode(s: bytes | str) -> bytes:
    """The bytes of base64."""
    return _b64decode(s)


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """True or False of `yes`, `off`, `1` and so on; what is not text as it is. Raises TypeError for other text."""
    if not isinstance(term, str):
        return term
    try:
        return (table or STRTOBOOL_DEFAULT_TABLE)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def _iso(value: dt.datetime | dt.time) -> str:
    text = value.isoformat(timespec="milliseconds" if value.microsecond else "auto")
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (Real, str),
    key: str | None = None,
    keyfilter: Callable[[str], bool] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """*obj* made of what JSON has: times as ISO 8601, timedeltas as text, tuples as lists, None values as they are.

    *keyfilter* says which keys of dictionaries stay; *unknown_type_filter* converts what is not known here, which
    otherwise raises ValueError.
    """
    if hasattr(obj, "__json__"):
        return obj.__json__()
    if obj is None or isinstance(obj, builtin_types):
        return obj

    def convert(value: Any, key: str | None = None) -> Any:
        return jsonify(value, builtin_types, key, keyfilter, unknown_type_filter)

    if isinstance(obj, list | tuple):
        return [convert(value) for value in obj]
    if isinstance(obj, dict):
        return {k: convert(v, k) for k, v in obj.items() if keyfilter is None or keyfilter(k)}
    if isinstance(obj, dt.datetime | dt.time):
        return _iso(obj)
    if isinstance(obj, dt.date):
        return obj.isoformat()
    if isinstance(obj, dt.timedelta):
        return str(obj)
    if unknown_type_filter is not None:
        return unknown_type_filter(obj)
    raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r:.200} (parent: {key})")


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise *exc* from the exception that is being handled; without one, or if it is the same, just raise it."""
    handled = sys.exc_info()[1]
    if handled is None or handled is exc:
        raise exc
    raise exc from handled


__all__ = [
    "STRTOBOOL_DEFAULT_TABLE",
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "ensure_serializable",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "itermro",
    "jsonify",
    "raise_with_context",
    "strtobool",
    "subclass_exception",
]
