"""A configuration module, class or object, read as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

# What a configuration module imports or defines for its own use is no setting; classes are, where a path could stand.
NOT_SETTINGS = (BuiltinFunctionType, FunctionType, ModuleType, classmethod, staticmethod)


class ObjectSource(Mapping[str, Any]):
    """The public attributes of *obj*: names that begin with `_` and modules are left out.

    The object is read when asked, so a lazy one (Django's settings) is not loaded before it is needed.
    """

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return (name for name in dir(self.obj) if not name.startswith("_"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and hasattr(self.obj, key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["obj"], name)

    def __repr__(self) -> str:
        return f"<settings of {self.obj!r}>"


def is_setting_value(value: Any) -> bool:
    """Whether *value*, found in a module or object, can be the value of a setting, not a helper beside settings."""
    return not isinstance(value, NOT_SETTINGS)


def as_mapping(source: Any) -> Mapping[str, Any]:
    """*source* if it is a mapping, else a view of its attributes."""
    return source if isinstance(source, Mapping) else ObjectSource(source)
