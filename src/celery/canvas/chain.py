"""Chains: tasks of which each is given the result of the one before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from celery.canvas.chord import chord as make_chord
from celery.canvas.composite import (
    PLACE,
    Composite,
    apply_part,
    as_signatures,
    failed_as,
    failed_part,
    gather,
    hand_on,
    kind,
    link_all,
    root_of,
    shorten,
)
from celery.canvas.group import distinct, unroll_group
from celery.canvas.record import remembering
from celery.canvas.signature import FOLLOW, Signature, _Field, maybe_signature
from celery.canvas.stamping import StampingVisitor, add_stamps
from celery.canvas.underway import follow_under_way

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.result import AsyncResult

    AnyStep = Signature[Any] | Mapping[str, Any] | AsyncResult[Any]

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


@Signature.register_type("chain")
class chain(Composite[R_co]):  # noqa: N801 - the public name
    """Steps, each of which is called with the result of the one before it: `chain(add.s(1, 1), add.s(2))`.

    Chains in a chain are part of it; a group that another step follows becomes the header of a chord.  Options of a
    chain are for its first step, `link` is for the last and `link_error` for all.
    """

    if TYPE_CHECKING:
        tasks: list[Signature[Any]]

        @overload
        def __init__(self: chain[T], last: Signature[T], /, *, app: Celery | None = None, **options: Any) -> None: ...
        @overload
        def __init__(
            self: chain[T], a: AnyStep, last: Signature[T], /, *, app: Celery | None = None, **options: Any
        ) -> None: ...
        @overload
        def __init__(
            self: chain[T], a: AnyStep, b: AnyStep, last: Signature[T], /, *, app: Celery | None = None, **options: Any
        ) -> None: ...
        @overload
        def __init__(
            self: chain[T],
            a: AnyStep,
            b: AnyStep,
            c: AnyStep,
            last: Signature[T],
            /,
            *,
            app: Celery | None = None,
            **options: Any,
        ) -> None: ...
        @overload
        def __init__(
            self: chain[Any], /, *tasks: AnyStep | Iterable[AnyStep], app: Celery | None = None, **options: Any
        ) -> None: ...
        def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None: ...
    else:
        tasks = _Field("tasks", "kwargs")

        def __new__(cls, *tasks: Any, **options: Any) -> Any:
            parts = as_signatures(gather(tasks), options.get("app"))
            if len(parts) <= 1:
                return cls._of(parts, **options)
            joined = _join(parts)
            for name, value in options.items():
                if name == "app":
                    joined._app = value
                else:
                    joined.set(**{name: value})
            return joined

        def __init__(self, *tasks: Any, **options: Any) -> None:
            """Everything is done by `__new__`, which may make a chord."""

    @classmethod
    def _of(cls, tasks: Sequence[Any], **options: Any) -> chain[Any]:
        """The chain of exactly these tasks."""
        made: chain[Any] = dict.__new__(cls)
        made._fill({"tasks": list(tasks)}, options, task="celery.chain", subtask_type="chain")
        return made

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chain[Any]:
        """The chain that a dictionary describes."""
        made: chain[Any] = dict.__new__(cls)
        dict.update(made, d)
        made["kwargs"] = {**d["kwargs"], "tasks": as_signatures(d["kwargs"]["tasks"], app)}
        made._app = app
        return made

    # -- sending -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments in front of those of the first step."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R_co]:
        """Send the first step, which takes the others with it; the result of the last, whose `parent`s are the others.

        *args* and *kwargs* are partial arguments of the first step, `task_id` is the id of the last one.  A chain of
        nothing has no result: None.
        """
        merged = {**self.options, **options}
        if self.app.conf.task_always_eager:
            return cast("AsyncResult[R_co]", self.apply(args, kwargs, **merged))
        return cast("AsyncResult[R_co]", self.run(args, kwargs, **merged))

    def run(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,
        producer: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Celery | None = None,
        group_index: int | None = None,
        chain: Any = None,
        **options: Any,
    ) -> AsyncResult[R_co] | None:
        """Send it. See `apply_async`; *chain* has steps that follow the last one, the next one last."""
        copy = self.clone()
        copy.options = {}
        result = copy.freeze(task_id, group_id, chord, root_id, parent_id, group_index)
        steps = copy.tasks
        if not steps:
            return None
        link_all(steps[-1], link, None)
        for step in steps:
            link_all(step, None, link_error)
        if chain:
            steps = unroll([*steps, *as_signatures(reversed(chain), self.app)], self._app)
        first, *rest = steps
        if kind(first) == "under_way":
            if rest:
                follow_under_way(self.app, first, rest)
            return result
        if rest:
            options["chain"] = [*reversed(rest)]
        if root_id is not None:
            options["root_id"] = root_id
        if parent_id is not None:
            options["parent_id"] = parent_id
        partial, keywords = self._partial(args, kwargs)
        producer = producer or publisher
        if producer is not None:
            options["producer"] = producer
        with remembering(self.app, copy, result, root_id, args=partial, kwargs=keywords, options=options):
            first.apply_async(partial, keywords, **options)
        return result

    def _partial(
        self, args: Iterable[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], Mapping[str, Any] | None]:
        if self.immutable:
            return tuple(self.args), None
        return (*(args or ()), *self.args), kwargs

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        **options: Any,
    ) -> Any:
        """Run the steps here; the result of the last one.

        What a step before it raises is raised with *propagate*, else it is what the last one is said to have raised.
        """
        merged = {**self.options, **options}
        copy = self.clone()
        copy.options = {}
        promised = copy.freeze(merged.get("task_id"))
        steps = copy.tasks
        if not steps:
            return None
        link_all(steps[-1], merged.pop("link", None), None)
        for step in steps:
            link_all(step, None, merged.get("link_error"))
        merged = {name: value for name, value in merged.items() if name not in PLACE and name not in _NOT_EAGER}
        partial, keywords = self._partial(args, kwargs)
        result = apply_part(steps[0], partial, keywords, merged, propagate=propagate)
        for step in steps[1:]:
            failed = None if propagate else failed_part(result)
            if failed is not None:
                return failed_as(promised, failed.result, failed.traceback)
            value, before = result.get(disable_sync_subtasks=False), result
            result = apply_part(step, (value,), None, merged, propagate=propagate)
            root_of(result).parent = before
        return result

    # -- its steps ---------------------------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R_co]:
        """Give all steps their ids now; the result of the last one, whose `parent` is that of the step before it.

        `_id` and the place in a group or chord are those of the last step.  A chain of nothing gives None.
        """
        steps = self.tasks = [*distinct(self.unroll())]
        result: Any = None
        for number, step in enumerate(steps, 1):
            before = result
            if before is not None and kind(step) == "under_way":
                step.apply_async()  # says that it cannot be here
            if number == len(steps):
                own = _id or self.options.get("task_id")
                result = step.freeze(own, group_id, chord, root_id, parent_id if number == 1 else None, group_index)
                self.options["task_id"] = result.id
            else:
                result = step.freeze(None, None, None, root_id, parent_id if number == 1 else None)
            if before is not None:
                root_of(result).parent = before
        return cast("AsyncResult[R_co]", result)

    _freeze = freeze

    def unroll(self) -> list[Signature[Any]]:
        """Its steps as they run: chains flattened, groups with a step behind them joined to it as chords."""
        return unroll(self.tasks, self._app)

    def unchain_tasks(self) -> list[Signature[Any]]:
        """Copies of its steps that have taken over its options."""
        return unchain(self)

    def prepare_steps(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Celery | None = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Any = None,
        group_index: int | None = None,
    ) -> tuple[list[Signature[Any]], list[Any]]:
        """The steps with their ids, and their results; the last step comes first in both."""
        parts = as_signatures(tasks, app or self._app)
        copy = type(self)._of([part.clone() for part in parts] if clone else parts, app=app or self._app)
        result: Any = copy.freeze(last_task_id, group_id, chord_body, root_id, parent_id, group_index)
        steps = copy.tasks
        if steps and (args or kwargs):
            steps[0].args, steps[0].kwargs, _ = steps[0]._merge(args, kwargs)
        for step in steps:
            link_all(step, None, link_error)
        results = []
        while result is not None:
            results.append(result)
            result = result.parent
        return steps[::-1], results

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> chain[R_co]:
        copy = cast("chain[R_co]", super().clone((), None, **opts))
        copy.tasks = [maybe_signature(task, app=self._app, clone=True) for task in self.tasks]  # type: ignore[misc]
        if copy.tasks and (args or kwargs):
            copy.tasks[0] = copy.tasks[0].clone(args, kwargs)
        return copy

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp all steps. See `Signature.stamp`."""
        if visitor is not None:
            headers = add_stamps(headers, visitor.on_chain_start(self, **headers))
        self.stamp_links(visitor, append_stamps, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

    # -- as a value --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<chain@{id(self):#x}: empty>"
        return shorten(" | ".join(map(repr, self.tasks)), self.tasks[0])


_NOT_EAGER = frozenset({"add_to_parent", "producer", "link", "link_error", "countdown", "eta"})


def unchain(steps: Any) -> list[Signature[Any]]:
    """Copies of the steps of a chain: the first with its options and arguments, the last with its `link`."""
    tasks = [task.clone() for task in steps.tasks]
    if tasks and (steps.options or steps.args):
        options = steps.options
        tasks[0] = hand_on(options, tasks[0].clone(steps.args))
        link_all(tasks[-1], options.get("link"), None)
        for task in tasks:
            link_all(task, None, options.get("link_error"))
    return tasks


def unroll(tasks: Iterable[Any], app: Celery | None) -> list[Signature[Any]]:
    """The steps that *tasks* are when they run one after the other.

    Chains are flattened, a group of one task is that task, a group with a step behind it is a chord with that as its
    body, and what follows the first step of a chord's body follows the chord.
    """
    waiting = [*tasks]
    done: list[Any] = []  # the last step comes first
    while waiting:
        task: Any = waiting.pop()
        if type(task) is dict:
            task = maybe_signature(task, app=app)
        task = unroll_group(task)
        what = kind(task)
        if what == "chain":
            waiting.extend(unchain(task) if task.options or task.args else task.tasks)
            continue
        if what == "group" and not task.tasks:
            if not done and not waiting:
                done.append(task)
            continue  # nothing runs, so nothing is in the way of what comes next
        if what == "group" and done:
            task = make_chord(task, done.pop(), app=app)
        if kind(task) == "chord" and task.body is not None:
            first, *rest = _split(task, done, app)
            done.extend(reversed(rest))
            task = first
        done.append(task)
    return done[::-1]


def _split(task: Any, done: list[Any], app: Celery | None) -> list[Any]:
    """A chord whose body is one step, and the other steps of its body; takes the next step where it ends in a group."""
    steps = unroll([task.body], app)
    if done and _ends_in_group(steps[-1]):
        steps[-1:] = unroll([steps[-1], done.pop()], app)
    if len(steps) == 1 and steps[0] is task.body:
        return [task]
    copy = make_chord.from_dict(dict(task), app=task._app)
    copy.body = steps[0]
    return [copy, *steps[1:]]


def _ends_in_group(step: Any) -> bool:
    while kind(step) == "chord" and step.body is not None:
        step = step.body
    return kind(step) == "group"


def follow(left: Any, right: Any) -> Any:
    """`left | right`."""
    right = unroll_group(right)
    if _is_nothing(right):
        return left
    app = left._app
    match kind(left):
        case "group":
            return make_chord(left, right, app=app)
        case "chord" if kind(right) not in {"group", "chain"}:
            return _with_body(left, right)
        case "chain":
            tasks = unchain(left)
            if len(tasks) == 1 and kind(tasks[0]) == "group":
                return make_chord(tasks[0], right, app=app)
            _grow(tasks, right, set())
            return chain._of(tasks, app=app)
    return chain._of([left, *_steps(right)], app=app)


def _join(parts: Sequence[Any]) -> Any:
    """All *parts* one after the other: as `|` does it, but in linear time."""
    tasks: list[Any] | None = []
    joined: Any = None
    ours: set[int] = set()
    for part in map(unroll_group, parts):
        if _is_nothing(part):
            continue
        if tasks is None:
            joined = follow(joined, part)
        elif len(tasks) == 1 and kind(tasks[0]) == "group":
            joined, tasks = follow(unroll_group(tasks[0]), part), None
        else:
            _grow(tasks, part, ours)
        if tasks is None and kind(joined) == "chain":
            tasks = list(joined.tasks)
    return chain._of(tasks) if tasks is not None else joined


def _grow(tasks: list[Any], right: Any, ours: set[int]) -> None:
    """Put *right* behind the *tasks* of a chain, in place; *ours* has the `id()`s of chords only it has."""
    last: Any = unroll_group(tasks[-1]) if tasks else None
    ends = kind(last) if last is not None else None
    if ends == "group" and kind(right) != "group":
        tasks.pop()
        right = make_chord(last, right, app=last._app)
        if not tasks or kind(tasks[-1]) != "chord":
            tasks.append(right)
            return
        last = tasks[-1]
    elif ends != "chord" or kind(right) == "chord":
        tasks[-1:] = [last, *_steps(right)] if tasks else _steps(right)
        return
    if id(last) in ours and kind(last.body) == "chain":
        _grow(last.body.tasks, right, ours)
    else:
        tasks[-1] = _with_body(last, right)
        ours.add(id(tasks[-1]))


def _is_nothing(right: Any) -> bool:
    """Whether it is a group or chain without tasks, which changes nothing where it follows."""
    return kind(right) in {"group", "chain"} and not right.tasks


def _steps(right: Any) -> list[Any]:
    return unchain(right) if kind(right) == "chain" else [right]


def _with_body(left: Any, right: Any) -> Any:
    """A copy of the chord with *right* behind its body."""
    copy = left.clone()
    if copy.body is None:
        raise TypeError("This chord has no body, so nothing can follow it: chord(header, body) | task.")
    copy.body = follow(unroll_group(copy.body), right)
    return copy


FOLLOW.append(follow)
_chain = chain

__all__ = ["chain", "follow", "unchain", "unroll"]
