"""Tasks that every app has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery._state import connect_on_app_finalize

if TYPE_CHECKING:
    from celery.app.base import Celery


@connect_on_app_finalize
def add_backend_cleanup_task(app: Celery) -> Any:
    """`celery.backend_cleanup` deletes expired results, where the store does not by itself; beat sends it daily."""

    @app.task(name="celery.backend_cleanup", shared=False, lazy=False)
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


@connect_on_app_finalize
def add_accumulate_task(app: Celery) -> Any:
    """`celery.accumulate` returns its arguments as a list, or the one of them that *index* names."""

    @app.task(bind=True, name="celery.accumulate", shared=False, lazy=False)
    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return args[index] if index is not None else args

    return accumulate
