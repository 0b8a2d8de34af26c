"""From what users write to the type a setting has: `"yes"` is true, `"4"` is four, `"a,b"` is a tuple."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any

TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})
FALSE = frozenset({"0", "false", "no", "off", "n", "f"})
WORDS = {
    "any": "anything",
    "bool": "true or false",
    "bytes": "bytes or text",
    "dict": "a dict",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "string": "text",
    "tuple": "a list",
}


def coerce(value: Any, kind: str, also: Collection[str] = ()) -> Any:
    """*value* as *kind*, or as one of the kinds in *also*.

    `None` stays what it is, and so does an object of a class this module does not know (a lazy string of a framework, a
    class where a path to it is expected): it was put there on purpose. Raises `ValueError` with the reason.
    """
    if value is None or not _is_plain(value):
        return value
    for candidate in (kind, *sorted(also)):
        try:
            return CONVERTERS[candidate](value)
        except ValueError:
            continue
    words = " or ".join(WORDS[candidate] for candidate in (kind, *sorted(also)))
    raise ValueError(f"it has to be {words}, and {value!r} is {_describe(value)}")


def _is_plain(value: Any) -> bool:
    return type(value).__module__ in {"builtins", "datetime", "collections"} and not isinstance(value, type)


def _describe(value: Any) -> str:
    name = type(value).__name__
    return "text" if name == "str" else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in TRUE | FALSE:
        return value.strip().lower() in TRUE
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    raise ValueError(value)


def _to_int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(value)


def _to_float(value: Any) -> float | timedelta:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, int | float | timedelta):
        return value
    raise ValueError(value)


def _to_text(value: Any) -> Any:
    # A class, a function or a level may stand where a path to it is text; what cannot be meant is a container.
    if isinstance(value, bool | Mapping | list | tuple | set | frozenset | timedelta):
        raise ValueError(value)  # noqa: TRY004 - one type of error for every value that does not fit
    return value


def _to_bytes(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value
    raise ValueError(value)


def _to_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return _to_list(value)


def _to_list(value: Any) -> Any:
    if isinstance(value, str):
        return _to_tuple(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return value
    raise ValueError(value)


def _to_dict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value
    raise ValueError(value)


def _to_any(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "any": _to_any,
    "bool": _to_bool,
    "bytes": _to_bytes,
    "dict": _to_dict,
    "float": _to_float,
    "int": _to_int,
    "list": _to_list,
    "string": _to_text,
    "tuple": _to_tuple,
}
