"""Chords: a group, its header, and a task, its body, that is given all its results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from celery.app.context import Context
from celery.app.followups import call_errbacks
from celery.canvas.composite import (
    PLACE,
    Composite,
    apply_part,
    as_signatures,
    failed_as,
    failed_part,
    hand_on,
    kind,
    leaf_results,
    link_all,
    root_of,
    shorten,
)
from celery.canvas.group import add_to_trail, distinct, group, leaves
from celery.canvas.ids import new_id
from celery.canvas.record import remembering
from celery.canvas.shelf import shelve_body, unfold_chain
from celery.canvas.signature import Signature, _Field, maybe_signature
from celery.canvas.stamping import StampingVisitor, add_stamps
from celery.canvas.underway import OPEN, mark_as_under_way
from celery.exceptions import ChordError
from celery.utils.functional import maybe_list

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.result import AsyncResult

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

POLLING = frozenset({"interval", "max_retries"})
"""Options of the original about how it polls, which nothing does here."""
TIMES = frozenset({"countdown", "eta"})
"""Options that say when the header starts; the body starts when that has ended."""


@Signature.register_type("chord")
class chord(Composite[R_co]):  # noqa: N801 - the public name
    """Tasks that run in parallel and one that is called with the list of their results.

    `chord(header, body)` is a signature, `chord(header)(body)` sends it.  The results are in the order of the header,
    those of a group in it one by one.  If a task of the header does not succeed, the body fails with `ChordError`.
    """

    if TYPE_CHECKING:
        tasks: Any
        header: Any
        body: Signature[R_co]

        @overload
        def __init__(
            self: chord[R],
            header: Signature[Any] | Iterable[Signature[Any] | Mapping[str, Any]],
            body: Signature[R],
            task: str = "celery.chord",
            args: Iterable[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            app: Celery | None = None,
            **options: Any,
        ) -> None: ...
        @overload
        def __init__(
            self: chord[Any],
            header: Signature[Any] | Iterable[Signature[Any] | Mapping[str, Any]],
            body: Mapping[str, Any] | None = None,
            task: str = "celery.chord",
            args: Iterable[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            app: Celery | None = None,
            **options: Any,
        ) -> None: ...
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None: ...
    else:
        header = tasks = _Field("header", "kwargs")
        body = _Field("body", "kwargs")

        def __init__(self, header, body=None, task="celery.chord", args=None, kwargs=None, app=None, **options) -> None:
            parts = {
                "kwargs": dict(kwargs or {}),
                "header": _as_header(header, app),
                "body": maybe_signature(body, app),
            }
            self._fill(parts, options, task=task, args=args, subtask_type="chord", app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chord[Any]:
        """The chord that a dictionary describes."""
        made = cls.__new__(cls)
        dict.update(made, d)
        parts = d["kwargs"]
        made["kwargs"] = {
            "kwargs": {},
            **parts,
            "header": _as_header(parts["header"], app),
            "body": maybe_signature(parts["body"], app),
        }
        made._app = app
        return made

    def _parts(self) -> Iterator[Any]:
        yield self.body
        yield from (self.header.tasks if isinstance(self.header, group) else self.header)

    # -- sending -----------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __call__(self, body: Signature[R], **options: Any) -> AsyncResult[R]: ...
        @overload
        def __call__(self, body: None = None, **options: Any) -> AsyncResult[R_co]: ...

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with *body* if it has none yet; the result of the body.

        `delay()` of that result gives it back: the chord is under way.
        """
        group_id = options.setdefault("header_id", new_id())
        result = self.apply_async((), {"body": body} if body else {}, stays_open=True, **options)
        return mark_as_under_way(result, group_id)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        publisher: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """Send the header; the result of the body, whose id *task_id* is.

        *args* and *kwargs* are partial arguments of all tasks of the header; `body` among *kwargs* is the body.  The
        options are for the header and the body, except for `countdown` and `eta`, which are for the header.
        """
        given = dict(kwargs or {})
        body = given.pop("body", None)
        if self.app.conf.task_always_eager:
            return cast("AsyncResult[R_co]", self.apply(args, given, body=body, task_id=task_id, **options))
        merged = self._merge((), {}, options)[2]
        partial = (*(args or ()), *self.args)
        own = merged.pop("task_id", None)
        if isinstance(self.header, group):  # it was frozen: else its id is one that somebody chose for the result
            merged["header_id"] = own
        else:
            task_id = task_id or own
        return self.run(
            self.header, body or self.body, partial, task_id=task_id, kwargs={**self.kwargs["kwargs"], **given},
            producer=producer or publisher or connection, **merged,
        )  # fmt: skip

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Iterable[Any] = (),
        app: Celery | None = None,
        interval: float | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        header_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        chain: Any = None,
        producer: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        add_to_parent: bool = True,
        stays_open: bool = False,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """Send *header*, with *body* to follow. See `apply_async`; *chain* has the steps that follow the body.

        With *stays_open*, steps can be put behind the body while the header is running.
        """
        app = app or self._own_app() or (body._own_app() if isinstance(body, Signature) else None) or self.app
        if body is None:
            raise TypeError("This chord has no body: give it one, chord(header, body) or chord(header)(body).")
        copy = type(self)(_as_header(header, app, clone=True), maybe_signature(body, app, clone=True), app=app)
        if chain:
            copy.body = self._continued(copy.body, chain)
        link_all(copy.body, link, None)
        copy._guard(link_error)
        own = copy.options["task_id"] = header_id or new_id()
        # A chord that ends in the header of another is a part of that one, and says so to its body only.
        place = group_id or (None if _is_placed(copy.body) else own)
        result = copy.freeze(task_id, place, chord, root_id, parent_id, group_index)
        after = {name: value for name, value in options.items() if name not in TIMES}
        copy.body.options.update(copy.body._merge((), {}, after, force=True)[2])
        if countdown is not None:
            options["countdown"] = countdown
        carried = copy._begin(app, own, stays_open=stays_open)
        with remembering(app, copy, result, root_id, args=partial_args, kwargs=kwargs, options=options):
            copy.header._send(
                partial_args, kwargs, options, group_id=own, chord=carried, root_id=root_id, parent_id=parent_id,
                producer=producer,
            )  # fmt: skip
        if add_to_parent:
            add_to_trail(copy._header_result)
        if carried is None:
            copy.body.apply_async(([],), producer=producer)
        return result

    def _begin(self, app: Celery, group_id: str, *, stays_open: bool) -> Any:
        """The body as the tasks of the header carry it, which is frozen; None where none of them would arrive."""
        size = leaves(self.header)
        if not size:
            return None
        self.body["chord_size"] = size
        if stays_open:
            self.body[OPEN] = True
        app.backend.apply_chord((group_id, self._header_result.results), self.body)
        return shelve_body(app, self.body)

    def _continued(self, body: Any, chain: Any) -> Any:
        """*body* with the steps of *chain* behind it, the next one of which is the last of the list."""
        chain = unfold_chain(self.app, chain)
        steps: Any = cast("Any", self.TYPES["chain"])([body, *as_signatures(reversed(chain), self.app)], app=self.app)
        first, *rest = steps.unroll()
        if rest:
            first.options["chain"] = [*reversed(rest)]
        return first

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run the header here, one task after the other, and then the body.

        Where a task of the header fails, the error callbacks of the body are called; then, with *propagate*, its error
        is raised, else the body is said to have failed with `ChordError`.
        """
        given = dict(kwargs or {})
        merged = self._merge((), {}, options)[2]
        copy = type(self)(_as_header(self.header, self.app, clone=True), body or self.body, app=self.app)
        copy.body = cast("Signature[R_co]", maybe_signature(given.pop("body", None) or copy.body, self.app, clone=True))
        if copy.body is None:
            raise TypeError("This chord has no body: give it one, chord(header, body) or chord(header)(body).")
        link_all(copy.body, merged.pop("link", None), merged.pop("link_error", None))
        result = copy.freeze(merged.pop("task_id", None))
        merged = {name: value for name, value in merged.items() if name not in PLACE and name not in _NOT_EAGER}
        partial = (*(args or ()), *self.args)
        done = copy.header.apply(partial, {**self.kwargs["kwargs"], **given}, **merged)
        failed = failed_part(done)
        if failed is not None:
            error = ChordError(f"Dependency {failed.id} raised {failed.result!r}")
            errbacks = maybe_list(copy.body.options.get("link_error"))
            request = Context(id=result.id, errbacks=errbacks, is_eager=True, root_id=result.id)
            call_errbacks(self.app, request, error, None)
            if propagate:
                failed.get(disable_sync_subtasks=False)
            return failed_as(result, error)
        values = [part.get(disable_sync_subtasks=False) for part in leaf_results(done)]
        return apply_part(copy.body, (values,), None, merged, propagate=propagate)

    # -- its parts ---------------------------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R_co]:
        """Give all its tasks their ids now; the result of the body, whose parent is that of the header.

        `_id` and the place are those of the body; its own id is that of the header.
        """
        head = self.header = _as_header(self.header, self.app)
        if not isinstance(head, group):
            head = self.header = group(list(distinct(head)), app=self._app)
        own = self.options.get("task_id")
        if own:
            head.options["task_id"] = own
        self._header_result = head.freeze(None, None, None, root_id, parent_id)
        self.options["task_id"] = self._header_result.id
        if self.body is None:
            return cast("AsyncResult[R_co]", self._header_result)
        result = self.body.freeze(_id, group_id, chord, root_id, None, group_index)
        root_of(result).parent = self._header_result
        return result

    _freeze = freeze
    _header_result: Any = None

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> chord[R_co]:
        given = dict(kwargs or {})
        body = given.pop("body", None) or self.body
        copy = cast("chord[R_co]", super().clone(args, None, **opts))
        copy.header = _as_header(self.header, self._app, clone=True)
        copy.body = maybe_signature(body, app=self._app, clone=True)  # type: ignore[assignment]
        copy["kwargs"]["kwargs"] = {**self.kwargs["kwargs"], **given}
        return copy

    def link(self, callback: Any) -> Any:
        """Call *callback* with the result of the body."""
        return self.body.link(callback)

    def link_error(self, errback: Any) -> Any:
        """Call *errback* when the chord has failed.

        With `task_allow_error_cb_on_chord_header` every task of the header that fails calls it too.
        """
        self._guard(errback)
        return errback

    def _guard(self, errbacks: Any) -> None:
        for errback in maybe_list(errbacks) or ():
            if self.app.conf.task_allow_error_cb_on_chord_header:
                for task in self.header.tasks if isinstance(self.header, group) else self.header:
                    task.link_error(maybe_signature(errback, self._app, clone=True).set(immutable=True))  # type: ignore[union-attr]
            if self.body is not None:
                self.body.link_error(errback)

    def set_immutable(self, immutable: bool) -> None:
        """Whether the arguments of the tasks in the header are final."""
        for task in self.header.tasks if isinstance(self.header, group) else self.header:
            task.set_immutable(immutable)

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the header and the body. See `Signature.stamp`."""
        self.stamp_links(visitor, append_stamps, **headers)
        if visitor is not None:
            if not isinstance(self.header, group):
                self.header = group(self.header, app=self._app)
            headers = add_stamps(headers, visitor.on_chord_header_start(self, **headers))
        for task in self.header.tasks if isinstance(self.header, group) else self.header:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chord_header_end(self, **headers)
            headers = add_stamps(headers, visitor.on_chord_body(self, **headers))
        if self.body is not None:
            self.body.stamp(visitor, append_stamps, **headers)

    # -- as a value --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        header = self.header
        body = self.body
        if body is None:
            return f"<chord without body: {header!r}>"
        if kind(body) == "chain" and body.tasks:  # type: ignore[attr-defined]
            first, *rest = body.tasks  # type: ignore[attr-defined]
            steps = " | ".join([first.reprcall(header), *map(repr, rest)])
            return f"%({shorten(steps, first)})"
        return "%" + shorten(body.reprcall(header), body)


_NOT_EAGER = frozenset({"add_to_parent", "producer", "interval", "max_retries", "countdown", "header_id", "stays_open"})


def _as_header(header: Any, app: Celery | None, *, clone: bool = False) -> Any:
    """The header of a chord: a group that has its id as it is, of anything else the list of its signatures."""
    if isinstance(header, Mapping):
        found: Any = maybe_signature(header, app=app if not isinstance(header, Signature) else None, clone=clone)
        if kind(found) != "group":
            return [found]
        if "task_id" in found.options or not (found.options or found.args):
            return found if "task_id" in found.options else found.tasks
        return [hand_on(found.options, task.clone(found.args)) for task in found.tasks]
    parts = as_signatures(header, app)
    return [part.clone() for part in parts] if clone else parts


def _is_placed(signature: Any) -> bool:
    """Whether what it ends with is in the header of a chord."""
    match kind(signature):
        case "group" | "chain":
            return bool(signature.tasks) and _is_placed(signature.tasks[-1])
        case "chord":
            return signature.body is not None and _is_placed(signature.body)
    return (signature.get("options") or {}).get("chord") is not None


_chord = chord

__all__ = ["chord"]
