"""`DisabledBackend`: stores nothing, and says so when a result is asked for."""

from __future__ import annotations

from typing import Any, NoReturn

from celery.backends.backend import E_CHORD_NO_BACKEND
from celery.backends.polling import BaseBackend

E_NO_BACKEND = (
    "No result backend is configured: set `result_backend` (for example to 'redis://localhost' or 'sqlite:///results.db')"
    " to keep the results of tasks."
)


class DisabledBackend(BaseBackend):
    """The backend of an app without `result_backend`."""

    _cache: dict[str, Any] = {}

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Store nothing."""

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(E_NO_BACKEND)

    def ensure_chords_allowed(self) -> None:
        raise NotImplementedError(E_CHORD_NO_BACKEND)

    def as_uri(self, include_password: bool = False) -> str:
        return "disabled://"

    get_state = get_status = get_result = get_traceback = get_task_meta = get_children = _is_disabled
    get_task_meta_for = get_group_meta = restore_group = save_group = delete_group = _is_disabled
    get_many = iter_native = wait_for = wait_for_pending = forget = task_result_exists = _is_disabled


__all__ = ["DisabledBackend"]
