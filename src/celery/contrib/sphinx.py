"""Tasks in Sphinx documentation: add `celery.contrib.sphinx` to the extensions of your `conf.py`.

`autodoc` then documents tasks by their functions, and `.. autotask:: name` documents one.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyFunction
from sphinx.ext.autodoc import FunctionDocumenter

from celery.app.task import Task
from celery.local import PromiseProxy


def _function(task: Any) -> Any:
    return getattr(task, "__wrapped__", None)


class TaskDocumenter(FunctionDocumenter):  # type: ignore[misc] # sphinx has no types for it here
    """Documents a task by its function."""

    objtype = "task"
    member_order = 11

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        return isinstance(member, Task) and _function(member) is not None

    def format_args(self, **kwargs: Any) -> str:
        wrapped = _function(self.object)
        return "" if wrapped is None else str(signature(wrapped))

    def document_members(self, all_members: bool = False) -> None:
        """A task has none that matter."""

    def check_module(self) -> bool:
        """Whether the task was defined in the module that is documented."""
        modname = self.get_attr(_function(self.object), "__module__", None)
        return bool(modname == self.modname) or bool(super().check_module())


class TaskDirective(PyFunction):  # type: ignore[misc]
    """`.. task::`"""

    def get_signature_prefix(self, sig: str) -> list[Any]:
        return [nodes.Text(self.env.config.celery_task_prefix)]


def autodoc_skip_member_handler(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Have tasks documented that are declared and not made yet."""
    if isinstance(obj, PromiseProxy | Task) and _function(obj) is not None and what == "module":
        return False
    return None


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(TaskDocumenter)
    app.add_directive_to_domain("py", "task", TaskDirective)
    app.add_config_value("celery_task_prefix", "(task)", True)
    app.connect("autodoc-skip-member", autodoc_skip_member_handler)
    return {"parallel_read_safe": True}


__all__ = ["TaskDirective", "TaskDocumenter", "autodoc_skip_member_handler", "setup"]
