"""What chains, groups and chords have in common: they are made of other signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery.canvas.signature import Signature, maybe_signature
from celery.canvas.underway import UnderWay
from celery.result import EagerResult
from celery.states import FAILURE
from celery.utils.functional import maybe_list

if TYPE_CHECKING:
    from celery.app.base import Celery

R_co = TypeVar("R_co", covariant=True)

PLACE = frozenset({"task_id", "group_id", "group_index", "chord", "chain", "root_id", "parent_id", "reply_to"})
"""Options that say which one of all tasks it is and where: they are never handed on to others."""


class Composite(Signature[R_co]):
    """A signature made of others, which are in its `kwargs`."""

    def _fill(self, kwargs: dict[str, Any], options: Mapping[str, Any], **fields: Any) -> None:
        """Be the signature of a built-in task with these *kwargs*; *options* may have what `Signature` takes."""
        own = dict(options)
        fields = {name: own.pop(name) for name in ("args", "immutable", "app") if name in own} | fields
        Signature.__init__(self, fields.pop("task"), kwargs=kwargs, options=own, **fields)

    def _own_app(self) -> Celery | None:
        """The app it was made for, else that of the first signature in it that has one."""
        if self._app is not None:
            return self._app
        found = (part._own_app() for part in self._parts() if isinstance(part, Signature))
        return next((app for app in found if app is not None), None)

    def _parts(self) -> Iterator[Any]:
        """The signatures it is made of."""
        return iter(self.kwargs.get("tasks") or ())


def kind(signature: Any) -> str | None:
    """`chain`, `group`, `chord` and so on; None for a plain task."""
    return cast("str | None", signature.get("subtask_type"))


def as_signatures(items: Iterable[Any], app: Celery | None) -> list[Signature[Any]]:
    """Signatures of what may be dictionaries, as they are read from JSON, or chords under way; None is left out."""
    return [item if isinstance(item, Signature) else _as_signature(item, app) for item in items if item is not None]


def _as_signature(item: Any, app: Celery | None) -> Signature[Any]:
    if isinstance(item, Mapping):
        return cast("Signature[Any]", maybe_signature(item, app=app))
    if isinstance(item, UnderWay):
        return item.as_step()
    raise TypeError(f"A workflow is made of signatures, such as task.s(...): {item!r} is none.")


def gather(items: tuple[Any, ...]) -> Any:
    """The parts of a composite as its constructor was given them: several, or one list or iterator of them."""
    if len(items) != 1 or isinstance(items[0], Mapping | UnderWay) or not isinstance(items[0], Iterable):
        return items
    return items[0] if isinstance(items[0], list | tuple) else list(items[0])


def hand_on(options: Mapping[str, Any], part: Signature[Any]) -> Signature[Any]:
    """Have *part* take over the *options* of a composite that it was taken out of, callbacks aside."""
    more = {name: value for name, value in options.items() if name not in PLACE and name not in {"link", "link_error"}}
    if more:
        part.options.update(part._merge((), {}, more, force=True)[2])
    return part


def link_all(part: Signature[Any], link: Any, link_error: Any) -> None:
    """Link what is a callback or a list of them."""
    for callback in maybe_list(link) or ():
        part.link(callback)
    for errback in maybe_list(link_error) or ():
        part.link_error(errback)


def apply_part(
    part: Signature[Any], args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: Any, *, propagate: bool
) -> Any:
    """Run a part of a workflow here; without *propagate* nothing is raised where it fails: its result says so."""
    if kind(part) in {"chain", "chord"}:
        options = {**options, "propagate": propagate}
    return part.apply(args, kwargs, **options)


def leaf_results(result: Any) -> Iterator[Any]:
    """The results of single tasks in a result."""
    for part in getattr(result, "results", None) or ():
        yield from leaf_results(part)
    if not hasattr(result, "results"):
        yield result


def failed_part(result: Any) -> Any:
    """The first part of a result that has failed, if one has."""
    return next((part for part in leaf_results(result) if part.failed()), None)


def failed_as(promised: Any, error: BaseException, traceback: str | None = None) -> Any:
    """What was *promised* as a result, all of it failed with *error*."""
    parts = getattr(promised, "results", None)
    if parts is None:
        return EagerResult(promised.id, error, FAILURE, traceback)
    return promised.app.GroupResult(promised.id, [failed_as(part, error, traceback) for part in parts])


def root_of(result: Any) -> Any:
    """The first of the results that *result* follows."""
    while result.parent is not None:
        result = result.parent
    return result


def shorten(text: str, first: Any) -> str:
    """*text* without the module of the first task wherever it is repeated."""
    name = first.get("task") or "" if isinstance(first, Mapping) else ""
    module = name.rpartition(".")[0]
    if not module:
        return text
    at = text.find(name)
    head, tail = text[: at + len(name)], text[at + len(name) :]
    return head + tail.replace(f"{module}.", "")
