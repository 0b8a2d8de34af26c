"""What a task and a signature can do, whatever class they are of: `isinstance` looks at the methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class CallableTask(ABC):
    """Can be called, here or by a worker. Every class with these methods is a subclass."""

    __required_attributes__: ClassVar[frozenset[str]] = frozenset({"delay", "apply_async", "apply", "__call__"})

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        if "__required_attributes__" not in cls.__dict__:
            return NotImplemented
        found = all(any(name in parent.__dict__ for parent in other.__mro__) for name in cls.__required_attributes__)
        return found or NotImplemented

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any: ...

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any: ...

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any: ...


class CallableSignature(CallableTask):
    """A task with its arguments and options, which can be changed, linked and frozen."""

    __required_attributes__ = frozenset({"clone", "freeze", "set", "link", "link_error", "__or__", "apply_async"})

    name: Any
    type: Any
    app: Any
    id: Any
    task: Any
    args: Any
    kwargs: Any
    options: Any
    subtask_type: Any
    chord_size: Any
    immutable: Any

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any: ...

    @abstractmethod
    def freeze(
        self, id: Any = None, group_id: Any = None, chord: Any = None, root_id: Any = None, group_index: Any = None
    ) -> Any: ...

    @abstractmethod
    def set(self, immutable: Any = None, **options: Any) -> Any: ...

    @abstractmethod
    def link(self, callback: Any) -> Any: ...

    @abstractmethod
    def link_error(self, errback: Any) -> Any: ...

    @abstractmethod
    def __or__(self, other: Any) -> Any: ...

    @abstractmethod
    def __invert__(self) -> Any: ...


__all__ = ["CallableSignature", "CallableTask"]
