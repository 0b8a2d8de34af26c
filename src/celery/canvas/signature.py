"""The signature of one task: a dictionary that knows how to send itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast

from celery._state import current_app
from celery.canvas.ids import new_id
from celery.canvas.shelf import shelve_chain
from celery.canvas.stamping import StampingVisitor, add_stamps, only_stamps, put_stamps
from celery.utils.functional import is_list, maybe_list
from celery.utils.text import truncate

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.result import AsyncResult, EagerResult

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
S = TypeVar("S", bound="Signature[Any]")

FOLLOW: list[Callable[[Any, Any], Any]] = []
"""What `|` does, given by `canvas.compose`, which knows all kinds of signatures."""


class _Field:
    """A key of the dictionary, read and written as an attribute; `path` is the key of the dictionary it is in."""

    def __init__(self, key: str, path: str | None = None) -> None:
        self.key = key
        self.path = path

    def __get__(self, signature: Any, owner: type) -> Any:
        if signature is None:
            return self
        place = signature[self.path] if self.path else signature
        return place.get(self.key)

    def __set__(self, signature: Any, value: Any) -> None:
        place = signature[self.path] if self.path else signature
        place[self.key] = value


class Signature(dict[str, Any], Generic[R_co]):
    """A task's name, arguments and options.

    Arguments can be partial: those given when it is called or linked go in front of its own, unless it is
    *immutable*.  Being a dictionary, it survives every serializer.
    """

    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}
    _app: Celery | None = None
    _type: Task[..., R_co] | None = None

    if TYPE_CHECKING:
        task: str
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        options: dict[str, Any]
        subtask_type: str | None
        immutable: bool
        id: str | None
        parent_id: str | None
        root_id: str | None
        chord_size: int | None
    else:
        task = _Field("task")
        args = _Field("args")
        kwargs = _Field("kwargs")
        options = _Field("options")
        subtask_type = _Field("subtask_type")
        immutable = _Field("immutable")
        id = _Field("task_id", "options")
        parent_id = _Field("parent_id", "options")
        root_id = _Field("root_id", "options")
        chord_size = _Field("chord_size")

    def __init__(
        self,
        task: Task[..., R_co] | Mapping[str, Any] | str | None = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Task[..., R_co] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **extra: Any,
    ) -> None:
        self._app = app
        if isinstance(task, Mapping):
            super().__init__(task)
            return
        name: str | None
        if task is None or isinstance(task, str):
            name, self._type = task, type
        else:
            name, self._type = task.name, task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **extra},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- sending -----------------------------------------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> R_co:
        """Run the task here and now, as a function."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R_co]:
        """Send it with these arguments in front of its own."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R_co]:
        """Run the task here, as a worker would."""
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        return self.type.apply(merged_args, merged_kwargs, **merged)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """Send it; *args* go in front of its own, *kwargs* and *options* over them.

        `route_name` among the options is the name by which it is routed, if not its own.
        """
        if args or kwargs or options:
            merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        else:
            merged_args, merged_kwargs, merged = self.args, self.kwargs, self.options
        if merged.get("chain"):
            merged = {**merged, "chain": shelve_chain(self.app, merged["chain"])}
        if not merged.get("task_id"):
            merged = {**merged, "task_id": new_id()}
        task = self._registered()
        if task is None:
            return cast(
                "AsyncResult[R_co]",
                self.app.send_task(self.task, merged_args, merged_kwargs, **merged),
            )
        return task.apply_async(merged_args, merged_kwargs, **merged)

    def _registered(self) -> Task[..., R_co] | None:
        """The task if this process knows it: a producer can send tasks that only workers know."""
        if self._type is not None:
            return self._type
        return cast("Task[..., R_co] | None", self.app.tasks.get(self.task))

    # -- making others of it -----------------------------------------------------------------------------------------

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> Signature[R_co]:
        """A copy, with these arguments and options merged in."""
        if args or kwargs or opts:
            new_args, new_kwargs, new_opts = self._merge(args, kwargs, opts)
        elif type(self) is Signature:
            return self._twin()
        else:
            new_args, new_kwargs, new_opts = self.args, self.kwargs, self.options
        copy = type(self).from_dict(
            {
                "task": self.task,
                "args": tuple(new_args),
                "kwargs": dict(new_kwargs),
                "options": _copy_options(new_opts),
                "subtask_type": self.subtask_type,
                "immutable": self.immutable,
            },
            app=self._app,
        )
        copy._type = self._type
        return cast("Signature[R_co]", copy)

    partial = clone

    def _twin(self) -> Signature[R_co]:
        """`clone` for what is a plain task, and is to have nothing else: there may be thousands."""
        twin: Signature[R_co] = Signature.__new__(Signature)
        twin.update(self)
        twin["args"], twin["kwargs"] = tuple(self["args"]), dict(self["kwargs"])
        options = self["options"]
        twin["options"] = _copy_options(options) if options else {}
        twin._app, twin._type = self._app, self._type
        return twin

    def _merge(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        mine, given = self.options, options or {}
        merged = {**mine, **given}
        if mine.get("stamped_headers") and given.get("stamped_headers"):
            merged["stamped_headers"] = sorted({*mine["stamped_headers"], *given["stamped_headers"]})
            merged.update({key: mine[key] for key in mine["stamped_headers"] if key in mine})
        if self.immutable and not force:
            if "group_id" in mine:
                merged["group_id"] = mine["group_id"]
            return tuple(self.args), self.kwargs, merged
        return (
            (*args, *self.args) if args else tuple(self.args),
            {**self.kwargs, **kwargs} if kwargs else self.kwargs,
            merged,
        )

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature[R_co]:
        """A copy in which the arguments or options given stand in place of its own."""
        copy = self.clone()
        if args is not None:
            copy.args = tuple(args)
        if kwargs is not None:
            copy.kwargs = dict(kwargs)
        if options is not None:
            copy.options = dict(options)
        return copy

    # -- changing it -------------------------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R_co]:
        """Give it its task id now; the result it will have."""
        options = self.options
        task_id = options.get("task_id") or _id or new_id()
        options["task_id"] = task_id
        if "reply_to" not in options:
            options["reply_to"] = self.app.thread_oid
        self._place(group_id, chord, root_id, parent_id, group_index)
        return self.AsyncResult(task_id)

    def _place(self, group_id: Any, chord: Any, root_id: Any, parent_id: Any, group_index: Any) -> None:
        """Note where in a canvas it is, as far as that is said."""
        options = self.options
        if group_id is not None:
            options["group_id"] = group_id
        if chord is not None:
            options["chord"] = chord
        if root_id is not None:
            options["root_id"] = root_id
        if parent_id is not None:
            options["parent_id"] = parent_id
        if group_index is not None:
            options["group_index"] = group_index

    _freeze = freeze

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options on this very signature, which is returned."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether its arguments are final."""
        self.immutable = immutable

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Append to an option that is a list, unless *value* is in it."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Append several."""
        self._list_option(key).extend(maybe_list(value) or [])

    def _list_option(self, key: str) -> list[Any]:
        items = self.options.get(key)
        if not isinstance(items, list):
            items = self.options[key] = [] if items is None else list(items) if is_list(items) else [items]
        return items

    def link(self, callback: Any) -> Any:
        """Call *callback* with the result when the task has succeeded; *callback*."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call *errback* when the task has failed; *errback*."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """`link_error`, returning the signature itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """This signature and every callback behind it."""
        found: list[Signature[Any]] = [self]
        for callback in maybe_list(self.options.get("link")) or []:
            linked = maybe_signature(callback, app=self._app)
            found.extend(linked.flatten_links() if linked is not None else [])
        return found

    def election(self) -> AsyncResult[R_co]:
        """Have the workers elect one of them to run it."""
        task_id = self.options.get("task_id") or new_id()
        self.app.control.election(task_id, "task", self.clone(task_id=task_id))
        return self.AsyncResult(task_id)

    # -- stamps ------------------------------------------------------------------------------------------------------

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Give the task headers that go with it, and with its callbacks, wherever it is sent.

        The last value of a stamp is the one that counts, unless *append_stamps*: then all are kept, as a list.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        found = visitor.on_signature(self, **headers) if visitor is not None else None
        put_stamps(self.options, only_stamps(add_stamps(headers, found)), append=append_stamps)

    def stamp_links(self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the callbacks and error callbacks."""
        hooks: list[tuple[str, Callable[..., dict[str, Any] | None] | None]] = [
            ("link", visitor.on_callback if visitor else None),
            ("link_error", visitor.on_errback if visitor else None),
        ]
        for option, hook in hooks:
            linked = [maybe_signature(item, app=self._app) for item in maybe_list(self.options.get(option)) or []]
            if not linked:
                continue
            for item in linked:
                if item is not None:
                    found = hook(item, **headers) if hook else None
                    item.stamp(visitor, append_stamps, **add_stamps(headers, found))
            self.options[option] = linked

    # -- as a value --------------------------------------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """What calling it would look like, shortened."""
        all_args, all_kwargs, _ = self._merge(args, kwargs, {}, force=True)
        parts = [repr(arg) for arg in all_args] + [f"{key}={value!r}" for key, value in all_kwargs.items()]
        return f"{self.task}({truncate(', '.join(parts), 1024)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R_co]:
        memo[id(self)] = self
        copy = type(self).from_dict(deepcopy(dict(self), memo), app=self._app)
        copy._type = self._type
        return cast("Signature[R_co]", copy)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Signature[T]) -> Signature[T]:  # type: ignore[override]  # not that of a dictionary
        """`self | other`: *other* follows *self*, with its result as first argument."""
        if not isinstance(other, Signature):
            raise TypeError(f"A signature can be followed by a signature only, not by {other!r}.")
        return cast("Signature[T]", FOLLOW[0](self, other))

    def __ror__(self, other: Any) -> NoReturn:
        raise TypeError(f"A signature can follow a signature only, not {other!r}.")

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # that of a dictionary would merge the keys
        return self | other

    def __invert__(self) -> R_co:
        """`~sig`: send it and wait for the result."""
        return self.apply_async().get()

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """Decorator: *name* as `subtask_type` leads to this class."""

        def register(subclass: type[S]) -> type[S]:
            Signature.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The signature that a dictionary describes, of the class its `subtask_type` says."""
        kind = d.get("subtask_type")
        if kind:
            target = cls.TYPES.get(kind)
            if target is not None and target is not cls:
                return target.from_dict(d, app=app)
        return Signature(d, app=app)

    # -- what it belongs to ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.task

    @property
    def app(self) -> Celery:
        """The app it was made for, that of its task, or the current one."""
        return self._own_app() or current_app

    def _own_app(self) -> Celery | None:
        """The app it belongs to, None where that is left to whoever uses it."""
        if self._app is not None:
            return self._app
        return self._type.app if self._type is not None else None

    @property
    def type(self) -> Task[..., R_co]:
        """The task; raises `NotRegistered` when this process does not know it."""
        return self._type if self._type is not None else cast("Task[..., R_co]", self.app.tasks[self.task])

    @property
    def AsyncResult(self) -> Callable[..., AsyncResult[R_co]]:  # noqa: N802 - the public name
        task = self._registered()
        return cast("Callable[..., AsyncResult[R_co]]", self.app.AsyncResult if task is None else task.AsyncResult)


def _copy_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Their own lists and callbacks for a copy of a signature; what it is joined to stays the same object."""
    return {
        name: deepcopy(value) if isinstance(value, list | dict) and name not in {"chord", "chain"} else value
        for name, value in options.items()
    }


def _restore(data: dict[str, Any]) -> Signature[Any]:
    return Signature.from_dict(data)


def task_name_from(task: Any) -> str:
    """The name of a task, or the name itself."""
    return cast("str", getattr(task, "name", task))


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature[Any]:
    """A signature from a task, a task's name, or a dictionary; a signature is copied."""
    app = kwargs.get("app")
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Celery | None = None, clone: bool = False) -> Signature[Any] | None:
    """*d* as a signature where it is one or describes one; None stays None."""
    if d is None:
        return None
    found: Signature[Any]
    if isinstance(d, Signature):
        found = d.clone() if clone else d
    elif isinstance(d, Mapping):
        found = signature(d)
    elif hasattr(d, "apply_async") and hasattr(d, "clone"):
        found = d.clone() if clone else d
    else:
        return cast("Signature[Any]", d)
    if app is not None:
        found._app = app
    return found


subtask = signature
maybe_subtask = maybe_signature
