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


__all__ = ["deferred"]
