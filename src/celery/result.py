"""Results: what a sender holds while its tasks run elsewhere.

`AsyncResult` is one task, `GroupResult` a group with an id, `ResultSet` any collection, `EagerResult` the outcome of a
task that ran here.  None of them does I/O when it is made or garbage-collected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery import states
from celery._state import app_or_default
from celery.app.asyncresult import (
    E_WOULDBLOCK,
    AsyncResult,
    ResultBase,
    ResultTree,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    importable_class,
    result_from_tuple,
)
from celery.app.resultset import ResultSet

if TYPE_CHECKING:
    from celery.app.base import Celery

R = TypeVar("R")
Meta = dict[str, Any]


class EagerResult(AsyncResult[R]):
    """The result of a task that has run here (`Task.apply`, `task_always_eager`)."""

    stored = False

    def __init__(
        self,
        id: str | None,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        self.id = cast("str", id)
        self.app = None
        self.parent = None
        self.ignored = False
        self._backend = None
        self._cache = {"status": state, "result": ret_value, "traceback": traceback, "task_id": id, "name": name}

    def _get_task_meta(self) -> Meta:
        return cast("Meta", self._cache)

    def __reduce_args__(self) -> tuple[Any, ...]:
        meta = self._get_task_meta()
        return self.id, meta["result"], meta["status"], meta["traceback"], meta["name"]

    def __copy__(self) -> EagerResult[R]:
        return type(self)(*self.__reduce_args__())

    def ready(self) -> bool:
        return True

    def get(  # type: ignore[override]  # the waiting options of the base have no meaning here
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True, **kwargs: Any
    ) -> R:
        """The value, or the exception raised. Does not block."""
        if disable_sync_subtasks:
            assert_will_not_block()
        meta = self._get_task_meta()
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            error = meta["result"]
            raise error if isinstance(error, BaseException) else RuntimeError(str(error))
        return cast("R", meta["result"])

    wait = get  # type: ignore[assignment]

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in `get`
        propagate: bool = True,
        interval: float = 0.5,
        follow_parents: bool = True,
    ) -> R:
        return self.get(propagate=propagate)

    def forget(self) -> None:
        """Nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Say that it was revoked, although it has run."""
        self._get_task_meta()["status"] = states.REVOKED

    @property
    def supports_native_join(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


class GroupResult(ResultSet, ResultTree):
    """The results of a group: a `ResultSet` with an id, which can be saved and restored by it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: ResultBase | None = None,
        **kwargs: Any,
    ) -> None:
        self.id = id
        self.parent = parent
        super().__init__(results or (), **kwargs)

    def save(self, backend: Any = None) -> Any:
        """Store which results the group has, so that `restore` finds them."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Forget what `save` stored."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> GroupResult | None:
        """The group that was saved under *id*, None if there is none."""
        bound = getattr(cls, "app", None)
        app = app_or_default(app or (None if isinstance(bound, property) else bound))
        return cast("GroupResult | None", (backend or app.backend).restore_group(id))

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def _as_tuple(self, parent: Any) -> tuple[Any, Any]:
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __reduce__(self) -> tuple[Any, ...]:
        return importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results, self.parent

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(other.id == self.id and other.results == self.results and other.parent == self.parent)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"


__all__ = [
    "E_WOULDBLOCK",
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
