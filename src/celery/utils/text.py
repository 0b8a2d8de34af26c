"""Functions about text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import pprint
    import textwrap
else:
    pprint = deferred("pprint")
    textwrap = deferred("textwrap")

UNKNOWN_SIMPLE_FORMAT_KEY = (
    "Unknown format %{0} in string {1!r}. To write a percent sign double it (%%); if it was doubled, the text was"
    " expanded twice."
)
RE_FORMAT = re.compile(r"%(\w|%)")


def str_to_list(s: str | Sequence[str]) -> list[str]:
    """The parts of comma-separated text; a list stays as it is."""
    return s.split(",") if isinstance(s, str) else list(s)


def dedent_initial(s: str, n: int = 4) -> str:
    """*s* without *n* leading spaces, if it has them."""
    return s[n:] if s[:n] == " " * n else s


def dedent(s: str, sep: str = "\n") -> str:
    """Every line without its four leading spaces, if it has them."""
    return sep.join(dedent_initial(line) for line in s.splitlines())


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Every paragraph wrapped at *width*."""
    return sep.join(textwrap.fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Sequence[str], sep: str = "\n") -> str:  # noqa: E741 - the public name
    """The parts that are not empty, joined."""
    return sep.join(part for part in l if part)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """*s* with at least *n* times *sep* at its end."""
    return s + sep * (n - s.count(sep))


def ensure_newlines(s: str, n: int = 2) -> str:
    """*s* with at least *n* newlines."""
    return ensure_sep("\n", s, n)


def abbr(S: str | None, max: int, ellipsis: str | bool | None = "...") -> str:  # noqa: N803 - the public name
    """*S* in at most *max* characters, cut text marked by the ellipsis."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    mark = "..." if ellipsis is True else ellipsis or ""
    return S[: max - len(mark)] + mark


def abbrtask(S: str | None, max: int) -> str:  # noqa: N803 - the public name
    """A task name in *max* characters, if its last part leaves room: its module part is cut."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, cls = S.rpartition(".")
    return f"{abbr(module, max - len(cls) - 3, False)}[.]{cls}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Every line moved right by *indent* spaces."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """The first *maxlen* characters, whole words; cut text is marked by *suffix*."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """*text* for one, with *suffix* otherwise."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """`pprint` for nested output: a dictionary begins on a line of its own."""
    if isinstance(value, dict):
        return f"{sep} {pprint.pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pprint.pformat(value, width=nl_width, **kw)}"
    return pprint.pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """*s* in the case of *other*."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(
    s: str,
    keys: Mapping[str, str | Callable[[], str]],
    pattern: re.Pattern[str] = RE_FORMAT,
    expand: str = r"\1",
) -> str:
    """Replace `%x` by the value of `x` (called, if it can be). Raises ValueError for an unknown letter."""
    if not s:
        return s
    known = {**keys, "%": "%"}

    def resolve(match: re.Match[str]) -> str:
        key = match.expand(expand)
        try:
            value = known[key]
        except KeyError:
            raise ValueError(UNKNOWN_SIMPLE_FORMAT_KEY.format(key, s)) from None
        return value() if callable(value) else str(value)

    return pattern.sub(resolve, s)


def remove_repeating(substr: str, s: str) -> str:
    """*s* without its repetitions of *substr*, the first kept."""
    index = s.find(substr)
    if index < 0:
        return s
    end = index + len(substr)
    return s[:end] + s[end:].replace(substr, "")


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """Text about a task in which its module is named once."""
    return remove_repeating(str(task_name).rpartition(".")[0] + ".", s)


StringIO = io.StringIO


class WhateverIO(io.StringIO):
    """A text buffer that takes bytes too."""

    def __init__(self, v: bytes | str | None = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *a, **kw)

    def write(self, data: bytes | str) -> int:
        return super().write(data.decode() if isinstance(data, bytes) else data)


__all__ = [
    "StringIO",
    "WhateverIO",
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "match_case",
    "pluralize",
    "pretty",
    "remove_repeating",
    "remove_repeating_from_task",
    "simple_format",
    "str_to_list",
    "truncate",
]
