"""The setting `task_annotations`: attributes that are set on tasks from outside.

It is a dict (`{"proj.add": {"rate_limit": "10/s"}, "*": {…}}`), an object with `annotate(task)` or `annotate_any()`,
the path to one, or a list of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from celery.utils.imports import instantiate


class MapAnnotation(dict[str, Any]):
    """Annotations by the name of the task; `*` is for all of them."""

    def annotate_any(self) -> dict[str, Any] | None:
        return self._copy("*")

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return self._copy(task.name)

    def _copy(self, name: str) -> dict[str, Any] | None:
        found = self.get(name)
        return None if found is None else dict(found)


def prepare(annotations: Any) -> list[Any]:
    """The annotations of the setting, each with `annotate` or `annotate_any`."""
    if annotations is None:
        return []
    return [_expand(one) for one in (annotations if isinstance(annotations, list | tuple) else [annotations])]


def resolve_all(anno: Iterable[Any], task: Any) -> Iterator[dict[str, Any]]:
    """The attributes for *task*: the first that are for it, then the first that are for all. Later ones win."""
    annotations = list(anno)
    for method, args in (("annotate", (task,)), ("annotate_any", ())):
        answers = (_ask(annotation, method, *args) for annotation in annotations)
        found = next((attributes for attributes in answers if attributes), None)
        if found:
            yield found


def _ask(annotation: Any, method: str, *args: Any) -> Any:
    answer = getattr(annotation, method, None)
    return answer(*args) if answer is not None else None


def _expand(annotation: Any) -> Any:
    if isinstance(annotation, str):
        annotation = instantiate(annotation)
    if isinstance(annotation, Mapping) and not isinstance(annotation, MapAnnotation):
        return MapAnnotation(annotation)
    return annotation


def wrapping(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    """A method that calls *around*, which finds *original* as `__wrapped__`."""

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, *args, **kwargs)

    wrapped.__wrapped__ = original  # type: ignore[attr-defined]
    return wrapped


__all__ = ["MapAnnotation", "prepare", "resolve_all", "wrapping"]
