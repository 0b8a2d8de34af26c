"""Chords that were sent by `chord(header)(body)`, and chains that begin with one.

Its result can be the first step of a chain, which then goes on from the body.  Where the header is still running, the
other steps are put behind the body in the result store, and whoever sends the body sends them with it.  Where the body
has been sent already, sending the chain waits until it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, cast

from celery.app.context import Context
from celery.app.followups import propagate_to_chain
from celery.canvas.shelf import KEPT, pack, unpack
from celery.canvas.signature import Signature
from celery.result import result_from_tuple
from celery.states import FAILURE

if TYPE_CHECKING:
    from celery.app.base import Celery

R_co = TypeVar("R_co", covariant=True)

OPEN = "continues"
"""The key of a body, beside its task and arguments, that says that steps may be put behind it while it waits."""
CLOSED = b"-"


class UnderWay:
    """What `chord(header)(body)` gives is also one of these: sending it again gives it back."""

    _group_id: str

    def delay(self, *args: Any, **kwargs: Any) -> Self:
        """The result itself: the chord is under way."""
        return self

    apply_async = delay

    def as_step(self) -> Signature[Any]:
        """The first step of a chain that goes on from it."""
        return under_way(self, self._group_id)


_classes: dict[type, type] = {}


def mark_as_under_way(result: Any, group_id: str) -> Any:
    """*result*, of the chord whose header is the group *group_id*, as one of `UnderWay` too."""
    cls = type(result)
    made = _classes.get(cls)
    if made is None:
        names = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        made = _classes[cls] = type(cls.__name__, (UnderWay, cls), names)
    result.__class__ = made
    result._group_id = group_id
    return result


@Signature.register_type()
class under_way(Signature[R_co]):  # noqa: N801 - it is the name of its kind on the wire
    """A chord that is under way, as the first step of a chain."""

    result: Any

    def __init__(self, result: Any, group_id: str) -> None:
        super().__init__(
            "celery.under_way", (), {"result": result.as_tuple(), "group_id": group_id}, subtask_type="under_way",
            app=result.app or None,
        )  # fmt: skip
        self.result = result

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The step that a dictionary describes."""
        made = cls.__new__(cls)
        dict.update(made, d)
        made._app = app
        made.result = result_from_tuple(d["kwargs"]["result"], app=app)
        return made

    def clone(self, *args: Any, **kwargs: Any) -> Signature[R_co]:
        """Itself: there is one of it only."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R_co]:
        return self

    def freeze(self, *args: Any, **kwargs: Any) -> Any:
        """Its result, which has its id."""
        return self.result

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Its result: where tasks run at once, it has ended."""
        return self.result

    def apply_async(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"The chord of the result {self.result.id} is under way: it can be the first step of a chain, and no other"
            " part of a workflow."
        )

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        return repr(self.result)


def follow_under_way(app: Celery, first: Any, rest: Iterable[Signature[Any]]) -> None:
    """Let *rest*, the steps of a chain with their ids, follow the chord that is under way as *first*."""
    result = first.result
    chain = [*rest][::-1]
    store = app.store
    if store is not None and not result.ready():
        key, value = _key(app, first.kwargs["group_id"]), pack(app, chain)
        if store.add(key, value) or store.get([key]) == [value]:
            return
    try:
        value_of_body = result.get(disable_sync_subtasks=False)
    except Exception as error:  # noqa: BLE001 - whatever it is: what would have followed it has failed too
        request = Context(id=result.id, chain=chain, root_id=result.id)
        app.backend._mark_as_never_run(propagate_to_chain(app, request), error, None, FAILURE)
        return
    chain.pop().apply_async((value_of_body,), chain=chain, parent_id=result.id)


def steps_behind(app: Celery, group_id: str, body: Mapping[str, Any]) -> list[Any]:
    """The steps that were put behind the *body* of a chord, the next one last; from now on none can be.

    For whoever sends the body.  Repeated, it gives the same again.
    """
    store = app.store
    if store is None or not body.get(OPEN):
        return []
    key = _key(app, group_id)
    if store.add(key, CLOSED, max(KEPT, float(app.backend.expires or 0))):
        return []
    value = store.get([key])[0]
    return [] if value is None or value == CLOSED else cast("list[Any]", unpack(app, value))


def _key(app: Celery, group_id: str) -> str:
    key: str = app.backend.join_key(group_id)
    return f"{key}then"


__all__ = ["OPEN", "UnderWay", "follow_under_way", "mark_as_under_way", "steps_behind", "under_way"]
