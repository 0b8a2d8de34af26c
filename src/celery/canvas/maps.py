"""Maps: one task over many items, in one message (`xmap`, `xstarmap`) or in several (`chunks`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from celery.canvas.group import group
from celery.canvas.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.result import GroupResult

R_co = TypeVar("R_co", covariant=True)


class _Map(Signature[R_co]):
    """The signature of a built-in task that calls another one for every item."""

    _task_name: ClassVar[str]
    _form: ClassVar[str]

    def __init__(self, task: Task[..., R_co] | Signature[R_co], it: Iterable[Any], **options: Any) -> None:
        super().__init__(self._task_name, (), {"task": _signature_of(task), "it": list(it)}, immutable=True, **options)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The map that a dictionary describes."""
        made = cls.__new__(cls)
        dict.update(made, d)
        made["kwargs"] = {**d["kwargs"], "task": maybe_signature(d["kwargs"]["task"], app=app)}
        made._app = app
        return made

    def _own_app(self) -> Celery | None:
        inner = self.kwargs["task"]
        return self._app or (inner._own_app() if isinstance(inner, Signature) else None)

    def __repr__(self) -> str:
        return self._form.format(task=self.kwargs["task"]["task"], it=self.kwargs["it"])

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send it; it is routed as the task that it calls."""
        options.setdefault("route_name", self.kwargs["task"]["task"])
        return super().apply_async(args, kwargs, **options)


@Signature.register_type()
class xmap(_Map[R_co]):  # noqa: N801 - the public name
    """`[task(item) for item in it]` in one task: `xmap(add.s(), [1, 2])`; the result is the list."""

    _task_name = "celery.map"
    _form = "[{task}(x) for x in {it}]"


@Signature.register_type()
class xstarmap(_Map[R_co]):  # noqa: N801 - the public name
    """`[task(*item) for item in it]` in one task: `xstarmap(add.s(), [(1, 1), (2, 2)])`; the result is the list."""

    _task_name = "celery.starmap"
    _form = "[{task}(*x) for x in {it}]"


@Signature.register_type()
class chunks(Signature[R_co]):  # noqa: N801 - the public name
    """`[task(*item) for item in it]` in parts of *n* items: `chunks(add.s(), zip(range(9), range(9)), 3)`.

    Sending it gives a `GroupResult` with a list for every part.  `chunks(task, n, it)` is understood too; items that
    are no tuples or lists are then single arguments.
    """

    def __init__(self, task: Task[..., R_co] | Signature[R_co], it: Any, n: Any, **options: Any) -> None:
        if isinstance(it, int) and not isinstance(n, int):
            it, n = [item if isinstance(item, tuple | list) else (item,) for item in n], it
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"chunks needs the number of items in a part, at least 1, not {n!r}.")
        super().__init__(
            "celery.chunks", (), {"task": _signature_of(task), "it": list(it), "n": n}, immutable=True, **options
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The chunks that a dictionary describes."""
        made = cls.__new__(cls)
        dict.update(made, d)
        made["kwargs"] = {**d["kwargs"], "task": maybe_signature(d["kwargs"]["task"], app=app)}
        made._app = app
        return made

    def _own_app(self) -> Celery | None:
        inner = self.kwargs["task"]
        return self._app or (inner._own_app() if isinstance(inner, Signature) else None)

    def __call__(self, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(**options)

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult: ...  # type: ignore[override]

    def apply_async(  # type: ignore[override]  # it has several results
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Send a task for every part; the results of all parts."""
        options.setdefault("route_name", self.kwargs["task"]["task"])
        return self.group().apply_async(args, kwargs, **{**self.options, **options})

    def apply(  # type: ignore[override]
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Run the parts here."""
        return self.group().apply(args, kwargs, **{**self.options, **options})

    def group(self) -> group[list[R_co]]:
        """The group of its parts."""
        task, items, size = self.kwargs["task"], iter(self.kwargs["it"]), self.kwargs["n"]
        parts = iter(lambda: list(islice(items, size)), [])
        return group([xstarmap(task, part, app=self._app) for part in parts], app=self._own_app())

    @classmethod
    def apply_chunks(cls, task: Any, it: Any, n: int, app: Celery | None = None) -> GroupResult:
        """Send a task for every part of *n* items; the results of all parts."""
        return cls(task, it, n, app=app).apply_async()


def _signature_of(task: Task[..., Any] | Signature[Any] | Mapping[str, Any]) -> Signature[Any]:
    """A signature of a task, which may be one already."""
    return cast("Signature[Any]", maybe_signature(task) if isinstance(task, Mapping) else cast("Any", task).s())


__all__ = ["chunks", "xmap", "xstarmap"]
