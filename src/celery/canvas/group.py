"""Groups: several tasks that run beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from celery._state import get_current_worker_task
from celery.canvas.composite import (
    PLACE,
    Composite,
    apply_part,
    as_signatures,
    gather,
    hand_on,
    kind,
    link_all,
    shorten,
)
from celery.canvas.ids import new_id
from celery.canvas.record import remembering
from celery.canvas.shelf import unfold_chain
from celery.canvas.signature import Signature, _Field, maybe_signature
from celery.canvas.stamping import StampingVisitor, add_stamps

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.result import GroupResult

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


@Signature.register_type("group")
class group(Composite[R_co]):  # noqa: N801 - the public name
    """Tasks that run in parallel: `group(add.s(1, 1), add.s(2, 2))`, or of one list or iterator.

    Sending it gives a `GroupResult` with the results in the order of the tasks.  Groups in a group are part of it.
    What follows a group (`group | task`) makes a chord.
    """

    if TYPE_CHECKING:
        tasks: list[Signature[R_co]]

        @overload
        def __init__(self: group[Any], /, *, app: Celery | None = None, **options: Any) -> None: ...
        @overload
        def __init__(
            self: group[T], first: Signature[T], /, *tasks: Signature[T], app: Celery | None = None, **options: Any
        ) -> None: ...
        @overload
        def __init__(
            self: group[T], tasks: Iterable[Signature[T]], /, *, app: Celery | None = None, **options: Any
        ) -> None: ...
        @overload
        def __init__(
            self: group[Any],
            tasks: Iterable[Mapping[str, Any]] | Mapping[str, Any],
            /,
            *more: Mapping[str, Any],
            app: Celery | None = None,
            **options: Any,
        ) -> None: ...
        def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None: ...
    else:
        tasks = _Field("tasks", "kwargs")

        def __init__(self, *tasks: Any, **options: Any) -> None:
            parts = gather(tasks)
            if len(tasks) == 1 and isinstance(tasks[0], group):
                parts = [hand_on(tasks[0].options, task.clone(tasks[0].args)) for task in tasks[0].tasks]
            elif not all(isinstance(part, Signature) for part in parts):
                parts = as_signatures(parts, options.get("app"))
            self._fill({"tasks": parts}, options, task="celery.group", subtask_type="group")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> group[Any]:
        """The group that a dictionary describes."""
        made = cls.__new__(cls)
        dict.update(made, d)
        made["kwargs"] = {**d["kwargs"], "tasks": as_signatures(d["kwargs"]["tasks"], app)}
        made._app = app
        return made

    # -- sending -----------------------------------------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Send it, with these arguments in front of those of every task."""
        return self.apply_async(partial_args, **options)

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult: ...  # type: ignore[override]

    def apply_async(  # type: ignore[override]  # it has several results
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> GroupResult:
        """Send all tasks, in batches; *args* and *kwargs* are partial arguments of every one.

        `task_id` among the options is the id of the group.  Raises as `Task.apply_async` does.
        """
        if link is not None or link_error is not None:
            raise TypeError("A group takes no callbacks: link its tasks, or let a task follow it, which makes a chord.")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        partial = (*(args or ()), *self.args)
        merged = self._merge((), {}, options)[2]
        rest = merged.pop("chain", None)
        if rest:
            return cast("GroupResult", self._send_followed(rest, partial, kwargs, merged))
        group_id, chord, root_id, parent_id, first = (merged.pop(name, None) for name in _PLACES)
        copy = self.clone()
        result = copy.freeze(merged.pop("task_id", None), group_id, chord, root_id, parent_id, first)
        with remembering(app, copy, result, root_id, args=partial, kwargs=kwargs, options=merged):
            copy._send(
                partial, kwargs, merged, group_id=group_id if chord is not None else result.id, chord=chord,
                root_id=root_id, parent_id=parent_id, first=first or 0, producer=producer,
            )  # fmt: skip
        if add_to_parent:
            add_to_trail(result)
        return result

    def _send(
        self,
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
        *,
        group_id: str | None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        first: int = 0,
        producer: Any = None,
    ) -> None:
        """Send its tasks, which are frozen, with these *options* for all of them."""
        place = {"group_id": group_id, "root_id": root_id, "parent_id": parent_id}
        options.update((name, value) for name, value in place.items() if value is not None)
        app = self.app
        couriers = Couriers(app, options, chord) if producer is None else None
        if chord is not None:
            options["chord"] = chord
        partial = tuple(args)
        with app.bulk():
            for task, index in zip(self.tasks, self._places(first), strict=True):
                if couriers is None or not couriers.send(task, partial, kwargs, index):
                    task.apply_async(
                        partial, kwargs, add_to_parent=False, producer=producer, group_index=index, **options
                    )

    def _send_followed(self, rest: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """Send it as the first step of a chain, of which *rest* are the others, the next one last."""
        first = self.clone()
        first.options.pop("chain", None)
        rest = unfold_chain(self.app, rest)
        steps: Any = cast("Any", self.TYPES["chain"])([first, *as_signatures(reversed(rest), self.app)], app=self.app)
        return steps.apply_async(args, kwargs, **options)

    def apply(  # type: ignore[override]
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run all tasks here, one after the other; none is left out because another failed."""
        partial = (*(args or ()), *self.args)
        merged = self._merge((), {}, options)[2]
        copy = self.clone()
        group_id = copy.freeze(merged.get("task_id")).id
        merged = {name: value for name, value in merged.items() if name not in PLACE and name not in _NOT_EAGER}
        results = [apply_part(task, partial, kwargs, merged, propagate=False) for task in copy.tasks]
        return self.app.GroupResult(group_id, results)

    # -- its tasks ---------------------------------------------------------------------------------------------------

    def freeze(  # type: ignore[override]
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> GroupResult:
        """Give it and all its tasks their ids now; the result it will have.

        With *chord*, the body of a chord that it is in the header of, its tasks are parts of it, from *group_index* on.
        """
        options = self.options
        own = options["task_id"] = options.get("task_id") or _id or new_id()
        self._place(group_id, chord, root_id, parent_id, group_index)
        outer = group_id if chord is not None else None
        results: list[Any] = []
        tasks: list[Signature[R_co]] = []
        place = group_index or 0
        for task in distinct(self._members()):
            result = task.freeze(None, outer, chord, root_id, parent_id, place)
            if result is not None:  # a chain of nothing has none
                tasks.append(task)
                results.append(result)
                place += leaves(task)
        self.tasks = tasks
        return self.app.GroupResult(own, results)

    _freeze = freeze  # type: ignore[assignment]

    def _members(self) -> Iterator[Signature[R_co]]:
        """Its tasks, and in the place of a group in it the tasks of that."""
        for part in self.tasks:
            task: Any = maybe_signature(part, app=self._app) if type(part) is dict else part
            if kind(task) != "group":
                yield task
                continue
            for member in task._members():
                if task.args:
                    member.args = (*task.args, *member.args)
                link_all(member, task.options.get("link"), task.options.get("link_error"))
                yield hand_on(task.options, member)

    def _places(self, first: int) -> Iterator[int]:
        """The `group_index` of every task: how many tasks in front of it end the group."""
        for task in self.tasks:
            yield first
            first += leaves(task)

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> group[R_co]:
        copy = cast("group[R_co]", super().clone(args, kwargs, **opts))
        copy.tasks = [maybe_signature(task, app=self._app, clone=True) for task in self.tasks]  # type: ignore[misc]
        return copy

    def add(self, *tasks: Signature[R_co]) -> Self:
        """Add tasks at its end."""
        self.tasks = [*self.tasks, *tasks]
        return self

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Let the tasks start one after the other: the first after *start* seconds, the next *step* seconds later.

        From *stop* on it begins again at *start*.
        """
        countdown = start
        for task in self.tasks:
            task.set(countdown=countdown)
            countdown += step
            if stop is not None and countdown >= stop:
                countdown = start
        return self

    def link(self, sig: Any) -> Any:
        """Call *sig* when the first task has succeeded, without its result."""
        return self.tasks[0].link(sig.clone().set(immutable=True)) if self.tasks else sig

    def link_error(self, sig: Any) -> Any:
        """Call *sig* for every task that has failed."""
        for task in self.tasks:
            task.link_error(sig)
        return sig

    def set_immutable(self, immutable: bool) -> None:
        """Whether the arguments of its tasks are final."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp all tasks. See `Signature.stamp`."""
        if visitor is not None:
            headers = add_stamps(headers, visitor.on_group_start(self, **headers))
        self.stamp_links(visitor, append_stamps, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    # -- as a value --------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return self.tasks[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return shorten(f"group({self.tasks!r})", self.tasks[0])


_PLACES = ("group_id", "chord", "root_id", "parent_id", "group_index")
_NOT_EAGER = frozenset({"add_to_parent", "producer"})


class Couriers:
    """Sends the plain tasks of one group the short way: what their messages have in common is made once a task."""

    _FROZEN = frozenset({"task_id", "reply_to", "group_id", "group_index", "chord", "root_id", "parent_id"})

    def __init__(self, app: Celery, options: Mapping[str, Any], chord: Any) -> None:
        self.app = app
        self.options = dict(options)
        self.chord = chord
        self.replies = app.thread_oid
        self.known: Any = app.tasks
        self.couriers: dict[str, Any] = {}

    def send(self, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, index: int) -> bool:
        """Whether *task*, which is frozen, could be sent so. Raises as `Task.apply_async` does."""
        if type(task) is not Signature:
            return False
        own = task["options"]
        if not own.keys() <= self._FROZEN or own["reply_to"] != self.replies:
            return False
        if own.get("root_id") != self.options.get("root_id") or own.get("parent_id") != self.options.get("parent_id"):
            return False
        name = task["task"]
        target = task._type or self.known.get(name)
        if name not in self.couriers:
            self.couriers[name] = None if target is None else target._courier(self.options, self.chord)
        courier = self.couriers[name]
        if courier is None or courier.task is not target:
            return False
        all_args, all_kwargs = task["args"], task["kwargs"]
        if not task["immutable"]:
            all_args = (*args, *all_args) if args else all_args
            all_kwargs = {**all_kwargs, **kwargs} if kwargs else all_kwargs
        message = courier.message(all_args, all_kwargs, own["task_id"], index)
        if message is None:
            return False
        self.app.publisher.publish((message,))
        return True


def add_to_trail(result: Any) -> None:
    """Note *result* as a child of the task that is running here, if a worker runs one."""
    parent = get_current_worker_task()
    if parent is not None:
        parent.add_trail(result)


def distinct(tasks: Iterable[Signature[R_co]]) -> Iterator[Signature[R_co]]:
    """*tasks*, with a copy where one of them comes again: every task has an id of its own."""
    seen: set[int] = set()
    for task in tasks:
        yield _without_ids(task.clone()) if id(task) in seen else task
        seen.add(id(task))


def _without_ids(signature: Any) -> Any:
    signature.options.pop("task_id", None)
    if isinstance(signature, Composite):
        for part in signature._parts():
            if isinstance(part, Signature):
                _without_ids(part)
    return signature


def leaves(signature: Any) -> int:
    """How many tasks it ends with: how often it arrives at a chord that it is in the header of.

    Of a chain it is those of its last step, of a group those of all its tasks, of a chord those of its body.
    """
    if type(signature) is Signature and "chain" not in signature["options"]:
        return 1
    parts = signature["kwargs"]
    match kind(signature):
        case "group":
            return sum(leaves(task) for task in parts["tasks"])
        case "chain":
            return leaves(parts["tasks"][-1]) if parts["tasks"] else 0
        case "chord":
            return leaves(parts["body"]) if parts["body"] else 0
    followed = (signature.get("options") or {}).get("chain")
    return leaves(followed[0]) if followed else 1


def unroll_group(signature: Any) -> Any:
    """Of a group of one task that task, of anything else itself."""
    if kind(signature) != "group" or len(signature.tasks) != 1:
        return signature
    task: Any = maybe_signature(signature.tasks[0], app=signature._app)
    if signature.options or signature.args:
        task = hand_on(signature.options, task.clone(signature.args))
        link_all(task, signature.options.get("link"), signature.options.get("link_error"))
    return unroll_group(task)


maybe_unroll_group = unroll_group

__all__ = ["distinct", "group", "leaves", "maybe_unroll_group", "unroll_group"]
