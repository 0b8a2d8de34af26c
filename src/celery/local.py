"""Objects that stand in for others: looked up at each use (`Proxy`) or made at the first (`PromiseProxy`)."""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

MODULE_DEPRECATED = "\nThe module %s is deprecated and will be removed in a future version.\n"
DEFAULT_ATTRS = {"__file__", "__path__", "__doc__", "__all__"}


class Proxy:
    """Forwards everything to the object that *local* returns, which is asked for at each use."""

    __slots__ = (
        "COMPAT_MODULES",
        "DEPRECATED_ATTRS",
        "__args",
        "__dict__",
        "__kwargs",
        "__local",
        "__weakref__",
        "create_module",
        "get_compat_module",
        "recreate_module",
    )

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_Proxy__local", local)
        put(self, "_Proxy__args", args or ())
        put(self, "_Proxy__kwargs", dict(kwargs or {}))
        if name is not None:
            put(self, "__custom_name__", name)
        if __doc__ is not None:
            put(self, "__doc__", __doc__)

    def _get_current_object(self) -> Any:
        """The object behind this proxy."""
        local: Any = object.__getattribute__(self, "_Proxy__local")
        if not hasattr(local, "__release_local__"):
            return local(*self.__args, **self.__kwargs)
        try:
            return getattr(local, self.__name__)
        except AttributeError:
            raise RuntimeError(f"no object bound to {self.__name__}") from None

    @property
    def __name__(self) -> str:
        try:
            return str(object.__getattribute__(self, "__custom_name__"))
        except AttributeError:
            return str(self._get_current_object().__name__)

    @property
    def __class__(self) -> Any:
        return self._get_class()

    @__class__.setter
    def __class__(self, value: Any) -> None:
        self._get_current_object().__class__ = value

    def _get_class(self) -> type:
        kind: type = self._get_current_object().__class__
        return kind

    @property
    def __module__(self) -> Any:  # type: ignore[override]
        return self._get_current_object().__module__

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        try:
            return self._get_current_object().__dict__
        except RuntimeError:
            raise AttributeError("__dict__") from None

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *a: Any, **kw: Any) -> Any:
        return self._get_current_object()(*a, **kw)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self._get_current_object().__exit__(*exc_info)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    def forwarded(self: Proxy, *args: Any) -> Any:
        return function(self._get_current_object(), *args)

    return forwarded


def _reflect(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def reflected(self: Proxy, other: Any) -> Any:
        return function(other, self._get_current_object())

    return reflected


_UNARY: tuple[Callable[..., Any], ...] = (
    str, repr, hash, len, iter, next, reversed, int, float, complex, bytes, abs, round, format, operator.index,
    operator.neg, operator.pos, operator.invert,
)  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "contains", "getitem", "setitem", "delitem")
_ARITHMETIC = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or",
               "xor")  # fmt: skip

# The interpreter looks special methods up on the type: each needs a method here that forwards.
for _function in _UNARY:
    setattr(Proxy, f"__{_function.__name__}__", _forward(_function))
for _name in _COMPARISONS:
    setattr(Proxy, f"__{_name}__", _forward(getattr(operator, f"__{_name}__")))
for _name in _ARITHMETIC:
    _function = getattr(operator, f"__{_name}__")
    setattr(Proxy, f"__{_name}__", _forward(_function))
    setattr(Proxy, f"__r{_name}__", _reflect(_function))
    setattr(Proxy, f"__i{_name}__", _forward(getattr(operator, f"__i{_name}__")))
for _name, _function in {"divmod": _forward(divmod), "rdivmod": _reflect(divmod)}.items():
    setattr(Proxy, f"__{_name}__", _function)


class PromiseProxy(Proxy):
    """A proxy whose object is made once, at the first use; `__then__` calls back when it is."""

    __slots__ = ("__pending__", "__thing")

    def _get_current_object(self) -> Any:
        try:
            return object.__getattribute__(self, "_PromiseProxy__thing")
        except AttributeError:
            return self.__evaluate__()

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fun(object, *args, **kwargs)` as soon as the object is made: now, if it is."""
        if self.__evaluated__():
            return fun(self._get_current_object(), *args, **kwargs)
        try:
            pending = object.__getattribute__(self, "__pending__")
        except AttributeError:
            pending = []
            object.__setattr__(self, "__pending__", pending)
        pending.append((fun, args, kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Whether the object has been made."""
        try:
            object.__getattribute__(self, "_PromiseProxy__thing")
        except AttributeError:
            return False
        return True

    def __maybe_evaluate__(self) -> Any:
        """The object, made if need be."""
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        """Make the object and call back who waited for it."""
        put = object.__setattr__
        thing = Proxy._get_current_object(self)
        put(self, "_PromiseProxy__thing", thing)
        # What made it is not needed any more, and may hold on to much.
        put(self, "_Proxy__args", ())
        put(self, "_Proxy__kwargs", {})
        try:
            pending = object.__getattribute__(self, "__pending__")
        except AttributeError:
            pending = []
        while pending:
            fun, args, kwargs = pending.pop(0)
            fun(thing, *args, **kwargs)
        return thing


def maybe_evaluate(obj: Any) -> Any:
    """The object behind a `PromiseProxy`; anything else as it is."""
    evaluate = getattr(type(obj), "__maybe_evaluate__", None)
    return obj if evaluate is None else evaluate(obj)


def try_import(module: str, default: Any = None) -> Any:
    """The module, or *default* when it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return default


class class_property:  # noqa: N801 - the public name
    """A property of the class as well as of its objects."""

    def __init__(self, getter: Any = None, setter: Any = None) -> None:
        self.__get = getter if getter is None or isinstance(getter, classmethod) else classmethod(getter)
        self.__set = setter if setter is None or isinstance(setter, classmethod) else classmethod(setter)
        self.__doc__ = getattr(getter, "__doc__", None)

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        if self.__get is None:
            return self
        return self.__get.__get__(obj, type or obj.__class__)()

    def __set__(self, obj: Any, value: Any) -> Any:
        if self.__set is None:
            raise AttributeError("this class property cannot be set")
        return self.__set.__get__(obj, obj.__class__)(value)

    def setter(self, setter: Any) -> class_property:
        return type(self)(self.__get, setter)


def fun_of_method(method: Any) -> Any:
    """The function of a method."""
    return getattr(method, "__func__", method)


def reclassmethod(method: Any) -> Any:
    """A class method made of one that was bound to another class."""
    return classmethod(fun_of_method(method))


def getappattr(path: tuple[str, ...] | list[str]) -> Any:
    """An attribute of the current app, by its path."""
    app = importlib.import_module("celery").current_app
    return operator.attrgetter(".".join(path))(app)


class LazyModule(ModuleType):
    """A module whose names are imported when they are first used.

    `_object_origins` maps a name to its module, `_direct` a name to the module that *is* the attribute.
    """

    _compat_modules: tuple[str, ...] = ()
    _all_by_module: Mapping[str, Any] = {}
    _direct: Mapping[str, str] = {}
    _object_origins: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._object_origins:
            value = getattr(importlib.import_module(self._object_origins[name]), name)
        elif name in self._direct:
            value = importlib.import_module(self._direct[name])
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._object_origins, *self._direct, *DEFAULT_ATTRS})

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


DEPRECATED_ATTRS = frozenset({"execute", "log", "messaging", "registry", "subtask"})
"""Names of the package `celery` that old programs use."""
COMPAT_MODULES: dict[str, dict[str, dict[str, str]]] = {
    "celery": {
        "execute": {"send_task": "send_task"},
        "log": {
            "get_default_logger": "log.get_default_logger",
            "setup_logging_subsystem": "log.setup_logging_subsystem",
            "redirect_stdouts_to_logger": "log.redirect_stdouts_to_logger",
        },
        "messaging": {"TaskConsumer": "amqp.TaskConsumer", "establish_connection": "connection"},
        "registry": {"tasks": "tasks"},
    }
}
"""Package -> its old modules -> their names -> where the current app has that."""


def create_module(
    name: str,
    attrs: Mapping[str, Any],
    cls_attrs: Mapping[str, Any] | None = None,
    pkg: ModuleType | None = None,
    base: type[ModuleType] = LazyModule,
    prepare_attr: Any = None,
) -> ModuleType:
    """A new module, of a class of its own made from *base*, that can be imported from now on; below *pkg* if given."""
    path = f"{pkg.__name__}.{name}" if pkg is not None else name
    short = path.rpartition(".")[2]
    module: ModuleType = type(short, (base,), {"__module__": path.rpartition(".")[0] or path, **(cls_attrs or {})})(
        path
    )
    module.__dict__.update({key: prepare_attr(value) if prepare_attr else value for key, value in attrs.items()})
    sys.modules[path] = module
    return module


def recreate_module(
    name: str,
    compat_modules: tuple[str, ...] = (),
    by_module: Mapping[str, Any] | None = None,
    direct: Mapping[str, str] | None = None,
    base: type[ModuleType] = LazyModule,
    **attrs: Any,
) -> tuple[ModuleType, ModuleType]:
    """Put a lazy module in the place of the imported module *name*: (the old one, the new one).

    *by_module* says which names are of which module, *direct* which names are modules.
    """
    old = sys.modules[name]
    origins, modules = get_origins(by_module or {}), direct or {}
    lazy = {
        "_compat_modules": compat_modules, "_all_by_module": by_module or {}, "_direct": modules,
        "_object_origins": origins, "__all__": tuple(sorted({*compat_modules, *origins, *modules, *attrs})),
    }  # fmt: skip
    new: Any = create_module(name, attrs, cls_attrs=lazy, base=base)
    for module in compat_modules:
        setattr(new, module, get_compat_module(new, module))
    return old, new


def get_compat_module(pkg: ModuleType, name: str) -> ModuleType:
    """An old module of *pkg*, made anew: its names lead to the current app."""
    paths = COMPAT_MODULES[pkg.__name__][name]
    leads = {attr: Proxy(getappattr, (path.split("."),)) for attr, path in paths.items()}
    return create_module(name, {**leads, "__all__": list(paths)}, pkg=pkg)


def get_origins(defs: Mapping[str, Any]) -> dict[str, str]:
    """{name: module} of {module: names}."""
    return {name: module for module, names in defs.items() for name in names}


__all__ = [
    "DEFAULT_ATTRS",
    "MODULE_DEPRECATED",
    "LazyModule",
    "PromiseProxy",
    "Proxy",
    "class_property",
    "fun_of_method",
    "get_origins",
    "getappattr",
    "maybe_evaluate",
    "reclassmethod",
    "try_import",
]
