"""`pydantic=True`: arguments are validated into models where they are annotated with one, results are dumped."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery.exceptions import ImproperlyConfigured
from celery.utils.deferred import deferred

if TYPE_CHECKING:
    import inspect

    from celery.app.base import Celery
else:
    inspect = deferred("inspect")

Dump = Callable[[Any, Any], tuple[Any, Any]]


def wrap_with_pydantic(
    app: Celery,
    fun: Callable[..., Any],
    name: str,
    *,
    strict: bool = True,
    context: dict[str, Any] | None = None,
    dump_kwargs: dict[str, Any] | None = None,
    bound: bool = False,
) -> tuple[Callable[..., Any], Dump]:
    """(*fun* taking plain data and returning it, a function that makes plain data of models among arguments)."""
    try:
        base: Any = import_module("pydantic").BaseModel
    except ImportError:
        raise ImproperlyConfigured(
            f"The task {name!r} has pydantic=True, but pydantic is not installed: pip install 'celery[pydantic]'."
        ) from None
    context = {"celery_app": app, "celery_task_name": name} if context is None else context
    dump_options = {"mode": "json"} if dump_kwargs is None else dump_kwargs
    hints = typing.get_type_hints(fun)
    signature = inspect.signature(fun)

    def validate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        given = signature.bind(*args, **kwargs)
        for parameter, value in given.arguments.items():
            hint = _not_none(hints[parameter]) if parameter in hints else None
            if hint is None or (value is None and hint is not hints[parameter]):
                continue
            if _is_subclass(hint, base):
                given.arguments[parameter] = hint.model_validate(value, strict=strict, context=context)
        return given

    def dump_result(value: Any) -> Any:
        expected = hints.get("return")
        if isinstance(value, base) and (expected is None or _is_subclass(_not_none(expected), base)):
            return value.model_dump(**dump_options)
        return value

    def dump_arguments(args: Any, kwargs: Any) -> tuple[Any, Any]:
        def plain(value: Any) -> Any:
            return value.model_dump(**dump_options) if isinstance(value, base) else value

        return (
            args if args is None else [plain(value) for value in args],
            kwargs if kwargs is None else {key: plain(value) for key, value in kwargs.items()},
        )

    return _around(fun, validate, dump_result), dump_arguments


def pydantic_wrapper(
    app: Celery,
    task_fun: Callable[..., Any],
    task_name: str,
    strict: bool = True,
    context: dict[str, Any] | None = None,
    dump_kwargs: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """*task_fun* taking plain data where it wants models, and returning it: what `pydantic=True` makes of it."""
    return wrap_with_pydantic(app, task_fun, task_name, strict=strict, context=context, dump_kwargs=dump_kwargs)[0]


def _not_none(hint: Any) -> Any:
    """`X` of `X | None`, anything else as it is."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(rest) == 1 and len(typing.get_args(hint)) == 2:
            return rest[0]
    return hint


def _is_subclass(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None and issubclass(hint, base)


def _around(fun: Callable[..., Any], validate: Callable[..., Any], dump: Callable[[Any], Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(fun):

        @wraps(fun)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            given = validate(args, kwargs)
            return dump(await fun(*given.args, **given.kwargs))

        return arun

    @wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = validate(args, kwargs)
        return dump(fun(*given.args, **given.kwargs))

    return run
