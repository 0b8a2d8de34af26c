"""Tasks that every app has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery._state import connect_on_app_finalize
from celery.canvas import chord as make_chord
from celery.canvas import chunks
from celery.canvas.signature import maybe_signature
from celery.result import result_from_tuple
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.base import Celery

logger = get_logger(__name__)


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


@connect_on_app_finalize
def add_map_task(app: Celery) -> Any:
    """`celery.map` is `[task(item) for item in it]`, in this task."""

    @app.task(name="celery.map", shared=False, lazy=False)
    def xmap(task: Any, it: Any) -> list[Any]:
        run = _task_of(app, task)
        return [run(item) for item in it]

    return xmap


@connect_on_app_finalize
def add_starmap_task(app: Celery) -> Any:
    """`celery.starmap` is `[task(*item) for item in it]`, in this task."""

    @app.task(name="celery.starmap", shared=False, lazy=False)
    def xstarmap(task: Any, it: Any) -> list[Any]:
        run = _task_of(app, task)
        return [run(*item) for item in it]

    return xstarmap


def _task_of(app: Celery, task: Any) -> Any:
    """The task of a signature, with the signature's own arguments behind those of every call."""
    signature = maybe_signature(task, app=app)
    assert signature is not None
    return signature if signature.args or signature.kwargs else signature.type


@connect_on_app_finalize
def add_unlock_chord_task(app: Celery) -> Any:
    """`celery.chord_unlock` comes from clients of original Celery whose result backend cannot count parts of chords.

    There it looks again and again.  Here parts are counted as they end, whoever sent them, so it has nothing to do.
    """

    @app.task(name="celery.chord_unlock", shared=False, lazy=False, ignore_result=True)
    def unlock_chord(group_id: str, callback: Any, *args: Any, **kwargs: Any) -> None:
        logger.debug("The parts of chord %s are counted as they end: celery.chord_unlock does nothing.", group_id)

    return unlock_chord


@connect_on_app_finalize
def add_chunk_task(app: Celery) -> Any:
    """`celery.chunks` sends a group of `celery.starmap`: a message of that name comes from `chunks` in a workflow."""

    @app.task(name="celery.chunks", shared=False, lazy=False)
    def chunk(task: Any, it: Any, n: int) -> Any:
        return chunks.apply_chunks(maybe_signature(task, app=app), it, n, app=app)

    return chunk


@connect_on_app_finalize
def add_group_task(app: Celery) -> Any:
    """`celery.group` as a message, from releases that sent groups so: *tasks* are parts whose results *result* has."""

    @app.task(bind=True, name="celery.group", shared=False, lazy=False)
    def group(
        self: Any, tasks: Any, result: Any, group_id: str | None, partial_args: Any, add_to_parent: bool = True
    ) -> Any:
        found = result_from_tuple(result, app=app)
        with app.bulk():
            for task in tasks:
                part = maybe_signature(task, app=app)
                if part is not None:
                    part.apply_async(tuple(partial_args), group_id=group_id, add_to_parent=False)
        if add_to_parent:
            self.add_trail(found)
        return found

    return group


@connect_on_app_finalize
def add_chain_task(app: Celery) -> Any:
    """`celery.chain` stands for chains, which are sent as their first step."""

    @app.task(name="celery.chain", shared=False, lazy=False)
    def chain(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("A chain is no task: it is sent as its first step, with the others in its message.")

    return chain


@connect_on_app_finalize
def add_chord_task(app: Celery) -> Any:
    """`celery.chord` as a message sends the chord it describes."""

    @app.task(name="celery.chord", shared=False, lazy=False)
    def chord(
        header: Any, body: Any, partial_args: Any = (), interval: Any = None, countdown: Any = None,
        max_retries: Any = None, eager: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        return make_chord(header, body, app=app).run(header, body, partial_args, app=app, **kwargs)

    return chord
