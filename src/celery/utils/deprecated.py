"""Say that something will go away."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable as _Callable
from typing import Any, ParamSpec, TypeVar

from celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from celery.utils.imports import qualname

P = ParamSpec("P")
R = TypeVar("R")

PENDING_DEPRECATION_FMT = (
    "{description} is scheduled for deprecation in version {deprecation} and removal in version v{removal}."
    " {alternative}"
)
DEPRECATION_FMT = "{description} is deprecated and scheduled for removal in version {removal}. {alternative}"


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that something is deprecated, or, with *deprecation*, will be in that version."""
    pending = deprecation is not None
    text = (PENDING_DEPRECATION_FMT if pending else DEPRECATION_FMT).format(
        description=description, deprecation=deprecation, removal=removal, alternative=alternative or ""
    )
    warnings.warn(
        text.strip(), CPendingDeprecationWarning if pending else CDeprecationWarning, stacklevel=stacklevel + 1
    )


def Callable(  # noqa: N802 - the public name
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[_Callable[P, R]], _Callable[P, R]]:
    """Decorator: a function that warns when it is called."""

    def decorate(fun: _Callable[P, R]) -> _Callable[P, R]:
        @functools.wraps(fun)
        def deprecated(*args: P.args, **kwargs: P.kwargs) -> R:
            warn(description or qualname(fun), deprecation, removal, alternative, stacklevel=2)
            return fun(*args, **kwargs)

        return deprecated

    return decorate


class _DeprecatedProperty:
    def __init__(
        self, fget: _Callable[[Any], Any], fset: _Callable[..., Any] | None, fdel: Any, info: dict[str, Any]
    ) -> None:
        self.fget = fget
        self.fset = fset
        self.fdel = fdel
        self.info = {**info, "description": info.get("description") or fget.__name__}
        self.__doc__ = fget.__doc__

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        if obj is None:
            return self
        warn(**self.info)
        return self.fget(obj)

    def __set__(self, obj: Any, value: Any) -> None:
        if self.fset is None:
            raise AttributeError(f"{self.fget.__name__} cannot be set")
        warn(**self.info)
        self.fset(obj, value)

    def __delete__(self, obj: Any) -> None:
        if self.fdel is None:
            raise AttributeError(f"{self.fget.__name__} cannot be deleted")
        warn(**self.info)
        self.fdel(obj)

    def setter(self, fset: _Callable[..., Any]) -> _DeprecatedProperty:
        return type(self)(self.fget, fset, self.fdel, self.info)

    def deleter(self, fdel: _Callable[..., Any]) -> _DeprecatedProperty:
        return type(self)(self.fget, self.fset, fdel, self.info)


def Property(  # noqa: N802 - the public name
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[_Callable[[Any], Any]], _DeprecatedProperty]:
    """Decorator: a property that warns when it is read, set or deleted."""
    info = {"deprecation": deprecation, "removal": removal, "alternative": alternative, "description": description}
    return lambda fun: _DeprecatedProperty(fun, None, None, info)


__all__ = ["Callable", "Property", "warn"]
