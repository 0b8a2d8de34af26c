"""Modules that are imported when something of them is first needed.

For those that cost much and are seldom needed: a worker's children count, and what each imports is held by each.

```python
if TYPE_CHECKING:
    import inspect
else:
    inspect = deferred("inspect")
```
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class deferred:  # noqa: N801 - it stands where `import` would
    """Stands for the module *name*, also for one that cannot be imported: that is said at its first use."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<deferred module {self._name!r}>"


class deferred_attribute:  # noqa: N801 - the same for an attribute of a class
    """An attribute of a class that is loaded from another module when it is first read."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(import_module(self.module), self.name)


__all__ = ["deferred", "deferred_attribute"]
