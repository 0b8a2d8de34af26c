"""Questions about type annotations."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin


def is_none_type(value: Any) -> bool:
    """Whether *value* is the type of None."""
    return value is type(None)


def get_optional_arg(annotation: Any) -> Any:
    """X of `Optional[X]` or `X | None`; None for anything else."""
    if get_origin(annotation) not in {Union, types.UnionType}:
        return None
    members = get_args(annotation)
    others = [member for member in members if not is_none_type(member)]
    return others[0] if len(members) == 2 and len(others) == 1 else None


def annotation_is_class(annotation: Any) -> bool:
    """Whether *annotation* is a plain class, not `list[int]` or text."""
    return isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)


def annotation_issubclass(annotation: Any, cls: type) -> bool:
    """Whether *annotation* is a plain class below *cls*; False for everything else."""
    return annotation_is_class(annotation) and issubclass(annotation, cls)


__all__ = ["annotation_is_class", "annotation_issubclass", "get_optional_arg", "is_none_type"]
