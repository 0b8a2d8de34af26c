"""Functions about objects and classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")
_MISSING: Any = object()


class Bunch:
    """Names and values as attributes."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


class cached_property(Generic[T]):  # noqa: N801 - the public name
    """A property computed once an object and kept in its `__dict__`; it can be set and deleted.

    `@name.setter` is called with the value and returns what is to be kept, `@name.deleter` with the value that goes.
    Two threads that read it first at once may both compute it; all get the value that was kept first.
    """

    def __init__(
        self,
        fget: Callable[[Any], T] | None = None,
        fset: Callable[[Any, T], T] | None = None,
        fdel: Callable[[Any, T], object] | None = None,
    ) -> None:
        self.fget = fget
        self.fset = fset
        self.fdel = fdel
        self.__doc__ = fget.__doc__ if fget else None
        self.__name__ = getattr(fget, "__name__", "")
        self.__module__ = getattr(fget, "__module__", __name__)

    def __set_name__(self, owner: type, name: str) -> None:
        self.__name__ = name

    @overload
    def __get__(self, obj: None, type: type | None = None) -> Self: ...
    @overload
    def __get__(self, obj: object, type: type | None = None) -> T: ...
    def __get__(self, obj: object | None, type: type | None = None) -> Any:
        if obj is None:
            return self
        values = obj.__dict__
        value = values.get(self.__name__, _MISSING)
        if value is not _MISSING:
            return value
        if self.fget is None:
            raise AttributeError(f"{self.__name__} has no getter")
        return values.setdefault(self.__name__, self.fget(obj))

    def __set__(self, obj: object, value: T) -> None:
        obj.__dict__[self.__name__] = self.fset(obj, value) if self.fset else value

    def __delete__(self, obj: object) -> None:
        value = obj.__dict__.pop(self.__name__, _MISSING)
        if self.fdel is not None and value is not _MISSING:
            self.fdel(obj, value)

    def setter(self, fset: Callable[[Any, T], T]) -> cached_property[T]:
        return type(self)(self.fget, fset, self.fdel)

    def deleter(self, fdel: Callable[[Any, T], object]) -> cached_property[T]:
        return type(self)(self.fget, self.fset, fdel)


def mro_lookup(
    cls: type,
    attr: str,
    stop: Iterable[type] | None = None,
    monkey_patched: Iterable[str] | None = None,
) -> type | None:
    """The class in the ancestry of *cls* that defines *attr*; None from the first class of *stop* on.

    *monkey_patched*: modules; an attribute of a stop class that was defined in another module counts as found there.
    """
    stops, patches = set(stop or ()), set(monkey_patched or ())
    for node in cls.mro():
        if node in stops:
            value = node.__dict__.get(attr)
            patched = value is not None and patches and getattr(value, "__module__", None) not in patches
            return node if patched else None
        if attr in node.__dict__:
            return node
    return None


class FallbackContext:
    """A context that gives *provided* as it is, or makes one with *fallback* and closes it in the end."""

    def __init__(self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        self._context = self.fallback(*self.fb_args, **self.fb_kwargs)
        return self._context.__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        if self._context is not None:
            return self._context.__exit__(*exc_info)
        return None


class getitem_property:  # noqa: N801 - the public name
    """An attribute kept as an item of the object, or deeper: `getitem_property("options.queue")`."""

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path = path.split(".") if path else []
        self.__doc__ = doc

    def _holder(self, obj: Any) -> Any:
        return reduce(lambda holder, key: holder[key], self.path, obj)

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        return self if obj is None else self._holder(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self.key] = value


__all__ = ["Bunch", "FallbackContext", "cached_property", "getitem_property", "mro_lookup"]
