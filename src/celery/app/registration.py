"""Making tasks from functions and classes, and registering them with an app."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery._state import _offer_to_other_apps, _withdraw_offer
from celery.app.autoretry import add_autoretry_behaviour
from celery.app.limits import KEYS
from celery.app.pydantic import wrap_with_pydantic
from celery.app.registry import TaskRegistry
from celery.exceptions import DuplicateTaskNameWarning
from celery.local import PromiseProxy, maybe_evaluate
from celery.utils.deferred import deferred
from celery.utils.functional import head_from_fun
from celery.utils.imports import symbol_by_name

if TYPE_CHECKING:
    import inspect

    from celery.app.base import Celery
    from celery.app.task import Task
else:
    inspect = deferred("inspect")

W_DUPTASK = """\
The task name {name!r} is already registered to a different callable.

Existing: {existing}
New:      {new}

{consequence}

Every task needs a name of its own: give the decorator name=..., or rename one of the callables.
"""
FIRST_STAYS = "The new callable was not registered; calls under this name reach the callable registered first."
LAST_WINS = "The new task takes the place of the one registered first."


TAKES_ANYTHING = 0x04 | 0x08
"""Flags of code: `*args` and `**kwargs`."""


class TaskPromise(PromiseProxy):
    """What `@app.task` gives: a promise of the task, which finds the methods that send it without a detour."""

    __slots__ = ()

    # An AttributeError, for there is no task yet, leads to `Proxy.__getattr__`, which makes it.
    apply_async = property(attrgetter("_PromiseProxy__thing.apply_async"))
    delay = property(attrgetter("_PromiseProxy__thing.delay"))


class _Declared:
    """A task that other apps get too, where they have none of its name, while the app that declared it lives."""

    def __init__(self, fun: Callable[..., Any], options: dict[str, Any]) -> None:
        self.fun = fun
        self.options = options
        reference = weakref.ref(self)

        def make_for(app: Celery) -> None:
            declared = reference()
            if declared is not None:
                app.registration.adopt(declared.fun, declared.options)

        _offer_to_other_apps(make_for)
        weakref.finalize(self, _withdraw_offer, make_for).atexit = False


class Registration:
    """The tasks of one app: those made, and those still to be made when the app is finalised."""

    def __init__(self, app: Celery, tasks: Any) -> None:
        self.app = app
        kind = symbol_by_name(app.registry_cls)
        self.tasks: TaskRegistry = tasks if isinstance(tasks, TaskRegistry) else kind(tasks or {})
        self.pending: deque[Any] = deque()
        self.declared: list[_Declared] = []

    def declare(self, fun: Callable[..., Any], *, shared: bool, lazy: bool, **options: Any) -> Any:
        """The task of *fun*, or, until the app is finalised, a promise of it; *shared* ones all other apps get too."""
        if shared:
            self.declared.append(_Declared(fun, options))
        if not lazy or self.app.finalized:
            return self.make(fun, **options)
        promise = TaskPromise(self.make, (fun,), options, __doc__=fun.__doc__)
        self.pending.append(promise)
        return promise

    def adopt(self, fun: Callable[..., Any], options: dict[str, Any]) -> None:
        """Make the task of another app this one's too, unless it has one of that name."""
        if (options.get("name") or self.app.gen_task_name(fun.__name__, fun.__module__)) not in self.tasks:
            self.make(fun, **options)

    def make_pending(self) -> None:
        """Make every task that was promised, in the order of the program."""
        while self.pending:
            maybe_evaluate(self.pending.popleft())

    def make(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: type[Task[..., Any]] | None = None,
        bind: bool = False,
        pydantic: bool = False,
        pydantic_strict: bool = False,
        pydantic_context: dict[str, Any] | None = None,
        pydantic_dump_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """The task of *fun*; the one that is registered under its name if there is one."""
        app = self.app
        if not app.finalized and not app.autofinalize:
            raise RuntimeError(
                f"The app {app.main!r} was made with autofinalize=False: call app.finalize() before its tasks are used."
            )
        name = name or app.gen_task_name(fun.__name__, fun.__module__)
        known = self.tasks.get(name)
        if known is not None:
            self._warn_of_namesake(name, known, fun, FIRST_STAYS)
            return known
        run, dump = fun, None
        if pydantic:
            run, dump = wrap_with_pydantic(
                app, fun, name, strict=pydantic_strict, context=pydantic_context, dump_kwargs=pydantic_dump_kwargs,
                bound=bind,
            )  # fmt: skip
        body: Any = run if bind else staticmethod(run)
        attributes = {
            "_app": app,
            "name": name,
            "run": body,
            "_decorated": True,
            "__doc__": fun.__doc__,
            "__module__": fun.__module__,
            "__annotations__": getattr(fun, "__annotations__", {}),
            "__header__": app.type_checker(fun, bound=bind),
            "__wrapped__": body,
            **options,
            **{key: staticmethod(options[key]) for key in KEYS if callable(options.get(key))},
        }
        if dump is not None:
            attributes["_dump_pydantic_arguments"] = staticmethod(dump)
        cls = type(fun.__name__, (base or app.Task,), attributes)
        cls.__qualname__ = getattr(fun, "__qualname__", fun.__name__)
        task: Any = cls()
        return self._add(task, options)

    def register(self, task: Any, **options: Any) -> Any:
        """Register a task that is a class or an object; the object."""
        task = task() if isinstance(task, type) else task
        if not task.name:
            kind = type(task)
            task.name = self.app.gen_task_name(kind.__name__, kind.__module__)
        known = self.tasks.get(task.name)
        if known is not None and known is not task:
            self._warn_of_namesake(task.name, known, task, LAST_WINS)
        if type(task).__header__ is None and _is_described(task.run):
            type(task).__header__ = Header(task.run).of(type(task))
        return self._add(task, options)

    def _add(self, task: Any, options: dict[str, Any]) -> Any:
        self.tasks[task.name] = task
        task._app = self.app
        task.bind(self.app)
        add_autoretry_behaviour(task, **options)
        return task

    def _warn_of_namesake(self, name: str, existing: Any, new: Any, consequence: str) -> None:
        was, is_now = describe_callable(existing), describe_callable(new)
        if was == is_now:
            return  # the same one again: its module was imported twice, or reloaded
        warnings.warn(
            W_DUPTASK.format(name=name, existing=was, new=is_now, consequence=consequence),
            DuplicateTaskNameWarning,
            stacklevel=caller_stacklevel(),
        )


def describe_callable(task: Any) -> str:
    """`module.qualname` of a function, or of what a task is made of."""
    task = maybe_evaluate(task)
    wrapped = getattr(type(task), "__wrapped__", None)
    if isinstance(wrapped, staticmethod):
        wrapped = wrapped.__func__
    target = wrapped or task
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return f"{target.__module__}.{target.__qualname__}"


class Header:
    """What a task's class has as `__header__` until that is needed, which is where tasks are sent: `head_from_fun`.

    A worker never needs it, and to compile one for each of its tasks takes time and memory in every process.
    """

    def __init__(self, fun: Callable[..., Any], bound: bool = False) -> None:
        self._fun = fun
        self._bound = bound

    def __set_name__(self, kind: Any, name: str) -> None:
        self.of(kind)

    def of(self, kind: Any) -> Header:
        """This header, for the class *kind*."""
        self._kind = kind
        return self

    def __get__(self, task: Any, kind: type | None = None) -> Callable[..., Any]:
        head = head_from_fun(self._fun, bound=self._bound)
        self._kind.__header__ = staticmethod(head)
        return head

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return head_from_fun(self._fun, bound=self._bound)(*args, **kwargs)


def _is_described(run: Any) -> bool:
    """Whether the parameters of *run* say which arguments it takes."""
    plain = getattr(run, "__func__", run)
    if type(plain) is FunctionType and not vars(plain):
        return plain.__code__.co_flags & TAKES_ANYTHING != TAKES_ANYTHING
    parameters = inspect.signature(run).parameters.values()
    return not {parameter.kind for parameter in parameters} >= {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }


def frame_is_ours(frame: Any) -> bool:
    """Whether a frame belongs to this package."""
    name: str = frame.f_globals.get("__name__", "")
    return name == "celery" or name.startswith("celery.") or name == "functools"


def caller_stacklevel() -> int:
    """The `stacklevel` with which a warning of the calling function points at the user's code."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame_is_ours(frame):
        if frame.f_back is None:
            return level
        frame, level = frame.f_back, level + 1
    return level


def task_callable_qualname(task: Any) -> str:
    """See `describe_callable`."""
    return describe_callable(task)


def type_checker(fun: Callable[..., Any], bound: bool = False) -> Any:
    """A static method that takes the arguments *fun* takes, and raises `TypeError` for others."""
    return Header(fun, bound) if type(fun) is FunctionType else staticmethod(head_from_fun(fun, bound=bound))
