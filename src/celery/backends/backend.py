"""`Backend`: what a result backend does, whatever it stores results in.

Other packages subclass it (`BaseBackend`, `BaseDictBackend`) and fill in `_store_result`, `_get_task_meta_for` and, for
groups, `_save_group`, `_restore_group`, `_delete_group`, `_forget`.  Our own stores stand behind `ResultBackend`.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery import states
from celery._state import get_current_task
from celery.app.context import Context, request_field
from celery.app.einfo import ExceptionInfo
from celery.app.followups import call_errbacks, propagate_to_chain
from celery.backends.compression import compress_payload, decompress_payload, prepare_compression
from celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    TaskRevokedError,
    TimeoutError,  # noqa: A004 - the public name
)
from celery.result import GroupResult, ResultBase, result_from_tuple
from celery.utils.deferred import deferred
from celery.utils.log import get_logger
from celery.wire.errors import exception_from_data, exception_to_data
from celery.wire.serialization import accept_types, dumps, loads

if TYPE_CHECKING:
    import random

    from celery.app.base import Celery
else:
    random = deferred("random")

logger = get_logger("celery.backends.base")

EXCEPTION_ABLE_CODECS = frozenset({"pickle"})
E_CHORD_NO_BACKEND = (
    "A chord (also a group that is followed by a task) waits for its parts in a result backend, and this app has none:"
    " set `result_backend`."
)
E_CHORD_NOT_COUNTED = (
    "A chord (also a group that is followed by a task) needs a result backend that counts its parts, and {} does not:"
    " set `result_backend` to a store of Celeriac's, or override `on_chord_part_return`."
)

Meta = dict[str, Any]
T = TypeVar("T")


class Backend:
    """Stores and reads the state and result of tasks. Thread-safe where the subclass's storage is.

    A task's *meta* is a mapping with `status`, `result`, `traceback`, `children`, `date_done`, `task_id` and, with
    `result_extended`, `name`, `args`, `kwargs`, `worker`, `retries`, `queue`.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError

    subpolling_interval: float | None = None
    """Seconds between two looks while waiting; None leaves it to the caller's `interval`."""
    supports_native_join = False
    """Can read many results in one step (`get_many`)."""
    supports_autoexpire = False
    """Results end by themselves; otherwise `cleanup` is called once a day."""
    supports_failure_expires = False
    supports_result_compression = False
    persistent = True
    retry_policy: Mapping[str, Any] = {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}

    def __init__(
        self,
        app: Celery,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: Any = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        conf = app.conf
        self.url = url
        self.serializer: str = serializer or conf.result_serializer
        self.accept = accept_types(accept or conf.result_accept_content or conf.accept_content)
        self.expires = self.prepare_expires(expires, expires_type)
        self.always_retry = bool(conf.result_backend_always_retry)
        self.max_retries = conf.result_backend_max_retries
        self.base_sleep_between_retries_ms = conf.result_backend_base_sleep_between_retries_ms
        self.max_sleep_between_retries_ms = conf.result_backend_max_sleep_between_retries_ms
        self.compression = prepare_compression(conf.result_compression)
        limit = conf.result_cache_max if max_cached_results is None else max_cached_results
        self._cache_limit = limit if limit and limit > 0 else 0
        self._cache: dict[str, Meta] = {}
        self.options = kwargs

    def as_uri(self, include_password: bool = False) -> str:
        """The URL of this backend, its password masked unless it is asked for."""
        url = self.url or ""
        before, at, host = url.rpartition("@")
        if include_password or not at:
            return url
        scheme, _, credentials = before.partition("://")
        user, colon, _ = credentials.partition(":")
        return f"{scheme}://{user}{':**' if colon else ''}@{host}"

    # -- what became of a task ------------------------------------------------------------------------------------

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store that the task runs."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Store that the task has succeeded."""
        if store_result and not (request is not None and request_field(request, "ignore_result")):
            self.store_result(task_id, result, state, request=request)
        if request is not None and request_field(request, "chord"):
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store that the task has failed, and with it the rest of its chain; call its `link_error`."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if request is None:
            return
        if request_field(request, "chord"):
            self.on_chord_part_return(request, state, exc)
        self._mark_as_never_run(propagate_to_chain(self.app, request), exc, traceback, state)
        if call_errbacks and request_field(request, "errbacks"):
            self._call_task_errbacks(request, exc, traceback)

    def _mark_as_never_run(self, requests: Iterable[Context], exc: BaseException, traceback: Any, state: str) -> None:
        for later in requests:
            task_id = later.id
            if task_id is not None and not (later.ignore_result or later.is_eager) and state in states.PROPAGATE_STATES:
                self.store_result(task_id, exc, state, traceback=traceback, request=later)
            if later.chord:
                self.on_chord_part_return(later, state, exc)

    def _call_task_errbacks(self, request: Any, exc: BaseException, traceback: Any) -> None:
        call_errbacks(self.app, request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that the task was revoked: it has no result."""
        exc = TaskRevokedError(reason)
        self.mark_as_failure(task_id, exc, request=request, store_result=store_result, call_errbacks=False, state=state)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that the task failed with *exc* and will be tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> Any:
        """Fail the body of a chord: store *exc* as its result and call its `link_error`."""
        error = exc or sys.exc_info()[1] or ChordError("The chord failed.")
        options = callback.options
        task_id = callback.id if getattr(callback, "id", None) else options.get("task_id")
        call_errbacks(self.app, {**options, "id": task_id, "errbacks": options.get("link_error")}, error, None)
        return self.fail_from_current_stack(task_id, error)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
        """Store the exception that is being handled (or *exc*) as the failure of *task_id*."""
        error = exc or sys.exc_info()[1]
        if error is None:
            raise ValueError("fail_from_current_stack() needs an exception: call it inside `except`, or hand it one.")
        info = ExceptionInfo.of(error)
        self.mark_as_failure(task_id, error, info.traceback)
        return info

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """A part of a chord has ended. A backend that counts parts overrides this."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """A task is about to be sent. A backend that must listen beforehand overrides this."""

    def apply_chord(self, header_result_args: tuple[str, Sequence[Any]], body: Any, **kwargs: Any) -> None:
        """The header of a chord is about to be sent: *header_result_args* (its id, the results) make its `GroupResult`.

        Its parts are *body*'s `chord_size`.  A backend that has to know that before the first of them ends overrides
        this.  Raises `NotImplementedError` where chords cannot work.
        """
        self.ensure_chords_allowed()

    def ensure_chords_allowed(self) -> None:
        """Raise `NotImplementedError` where chords cannot work: nobody would count their parts."""
        if type(self).on_chord_part_return is Backend.on_chord_part_return:
            raise NotImplementedError(E_CHORD_NOT_COUNTED.format(type(self).__name__))

    # -- values to data and back ----------------------------------------------------------------------------------

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """*exc* as something the serializer can take."""
        if (serializer or self.serializer) in EXCEPTION_ABLE_CODECS:
            try:
                pickle.loads(pickle.dumps(exc))
            except Exception:  # noqa: BLE001 - whatever its reduce or its constructor raises: it does not pickle
                return exception_to_data(exc)
            return exc
        return exception_to_data(exc)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """The exception that was stored as data, of its own type where that can be imported."""
        if exc is None or isinstance(exc, BaseException):
            return exc
        return exception_from_data(exc)

    def prepare_value(self, result: Any) -> Any:
        """*result* as data: a result of another task becomes its tuple."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            return result.as_tuple()
        return result

    def encode_result(self, result: Any, state: str) -> Any:
        """What is stored for *result*: an exception as data, anything else as `prepare_value` has it."""
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def encode(self, data: Any) -> str | bytes:
        """*data* in this backend's serializer (and compression)."""
        payload = self._encode(data)[2]
        if self.compression is None or not self.supports_result_compression:
            return payload
        return compress_payload(payload.encode() if isinstance(payload, str) else payload, self.compression)

    def _encode(self, data: Any) -> tuple[str, str, str | bytes]:
        content_type, content_encoding, payload = dumps(data, self.serializer)
        return content_type, content_encoding, payload.decode() if content_encoding == "utf-8" else payload

    def decode(self, payload: str | bytes | None) -> Any:
        """The inverse of `encode`; None stays None."""
        if payload is None:
            return None
        raw = payload.encode() if isinstance(payload, str) else bytes(payload)
        return loads(decompress_payload(raw), self.content_type, self.content_encoding, self.accept)

    @property
    def content_type(self) -> str:
        """The content type of this backend's serializer."""
        return dumps(None, self.serializer)[0]

    @property
    def content_encoding(self) -> str:
        """The content encoding of this backend's serializer."""
        return dumps(None, self.serializer)[1]

    def decode_result(self, payload: str | bytes | None) -> Meta:
        """The meta that was stored as *payload*."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: Meta) -> Meta:
        """Turn the exception in *meta* into an exception again."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def prepare_expires(self, value: Any, type: Callable[[Any], Any] | None = None) -> Any:
        """Seconds (or None: never) for a number, a timedelta or None, which stands for `result_expires`."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if value is not None and type is not None:
            return type(value)
        return value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Whether results survive the store; None stands for `result_persistent`."""
        if enabled is not None:
            return enabled
        configured = self.app.conf.result_persistent
        return self.persistent if configured is None else bool(configured)

    prepare_compression = staticmethod(prepare_compression)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """The tuples of the results of the tasks that the current one has sent; None outside of a task."""
        if request is None:
            request = getattr(get_current_task(), "request", None)
        if request is None:
            return None
        return [child.as_tuple() for child in request_field(request, "children") or ()]

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, format_date: bool = True, encode: bool = False
    ) -> Meta:
        """The meta to store; with *encode*, arguments are encoded one by one (for tables with a column for each)."""
        done: Any = None
        if state in self.READY_STATES:
            done = datetime.now(UTC).isoformat() if format_date else datetime.now(UTC)
        meta: Meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": done,
        }
        if request is None:
            return meta
        if group := request_field(request, "group"):
            meta["group_id"] = group
        if parent := request_field(request, "parent_id"):
            meta["parent_id"] = parent
        if self.app.conf.result_extended:
            meta.update(self._extended_meta(request, encode))
        return meta

    def _extended_meta(self, request: Any, encode: bool) -> Meta:
        args, kwargs = request_field(request, "args"), request_field(request, "kwargs")
        route = request_field(request, "delivery_info") or {}
        extra: Meta = {
            "name": request_field(request, "task"),
            "args": self.encode(args) if encode else args,
            "kwargs": self.encode(kwargs) if encode else kwargs,
            "worker": request_field(request, "hostname"),
            "retries": request_field(request, "retries"),
            "queue": route.get("routing_key"),
        }
        stamped = request_field(request, "stamped_headers")
        if stamped:
            stamps = request_field(request, "stamps") or {}
            extra["stamped_headers"] = stamped
            extra.update({name: stamps.get(name, request_field(request, name)) for name in stamped})
        return extra

    # -- storing --------------------------------------------------------------------------------------------------

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store the state and result of a task; what was stored for the result.

        With `result_backend_always_retry` it tries again while `exception_safe_to_retry` says so.
        """
        data = self.encode_result(result, state)
        self._ensure_retryable(
            lambda: self._store_result(task_id, data, state, traceback, request=request, **kwargs),
            lambda: BackendStoreError("The result could not be stored.", state=state, task_id=task_id),
        )
        return data

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        raise self._not_filled_in("_store_result")

    def _not_filled_in(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} does not implement {method}(): a result backend has to.")

    def _ensure_retryable(self, step: Callable[[], T], failure: Callable[[], Exception]) -> T:
        attempt = 0
        while True:
            try:
                return step()
            except Exception as exc:
                if not self.always_retry or not self.exception_safe_to_retry(exc):
                    raise
                if attempt >= self.max_retries:
                    raise failure() from exc
                self.on_backend_retryable_error(exc)
                pause = min(self.max_sleep_between_retries_ms, self.base_sleep_between_retries_ms * 2**attempt)
                self._sleep(random.uniform(0, pause) / 1000)
                attempt += 1

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether the storage failed in a way that may pass. A backend overrides this."""
        return False

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """The storage failed and will be tried again. A backend may reconnect here."""

    def _sleep(self, amount: float) -> None:
        time.sleep(amount)

    # -- reading --------------------------------------------------------------------------------------------------

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        """The meta of a task; PENDING where nothing is known of it."""
        if cache and (known := self._cache.get(task_id)) is not None:
            return known
        meta = self._ensure_retryable(
            lambda: self._get_task_meta_for(task_id),
            lambda: BackendGetMetaError("The result could not be read.", task_id=task_id),
        )
        if cache and self._cache_limit and meta.get("status") == states.SUCCESS:
            self._remember(task_id, meta)
        return meta

    def _remember(self, task_id: str, meta: Meta) -> None:
        if self._cache_limit:
            while len(self._cache) >= self._cache_limit:
                self._cache.pop(next(iter(self._cache)))
            self._cache[task_id] = meta

    def _get_task_meta_for(self, task_id: str) -> Meta:
        raise self._not_filled_in("_get_task_meta_for")

    def get_state(self, task_id: str) -> str:
        """The state of a task."""
        return cast("str", self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_traceback(self, task_id: str) -> str | None:
        """The traceback of a failed task."""
        return self.get_task_meta(task_id).get("traceback")

    def get_result(self, task_id: str) -> Any:
        """The result of a task, or the exception it failed with."""
        return self.get_task_meta(task_id).get("result")

    def get_children(self, task_id: str) -> Any:
        """The tuples of the results of the tasks that this one has sent."""
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is known of the task."""
        return bool(self.get_task_meta(task_id, cache=False)["status"] != states.PENDING)

    def is_cached(self, task_id: str) -> bool:
        """Whether the result is remembered in this process (see `result_cache_max`)."""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Read the result again into the cache."""
        self._remember(task_id, self.get_task_meta(task_id, cache=False))

    def forget(self, task_id: str) -> None:
        """Delete the result."""
        self._cache.pop(task_id, None)
        self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        raise self._not_filled_in("_forget")

    # -- groups ---------------------------------------------------------------------------------------------------

    def save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        """Store which results a group has."""
        self._save_group(group_id, result)
        return result

    def _save_group(self, group_id: str, result: GroupResult) -> Any:
        raise self._not_filled_in("_save_group")

    def get_group_meta(self, group_id: str, cache: bool = True) -> Meta | None:
        """What was saved of a group, None if nothing was."""
        return self._restore_group(group_id)

    def reload_group_result(self, group_id: str) -> None:
        """Kept for the API: groups are not cached, so there is nothing to reload."""

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """The group that was saved under *group_id*, None if there is none."""
        meta = self.get_group_meta(group_id, cache=cache)
        return cast("GroupResult", meta["result"]) if meta else None

    def _restore_group(self, group_id: str) -> Meta | None:
        raise self._not_filled_in("_restore_group")

    def delete_group(self, group_id: str) -> None:
        """Forget what was saved of a group."""
        self._delete_group(group_id)

    def _delete_group(self, group_id: str) -> None:
        raise self._not_filled_in("_delete_group")

    def _group_from_data(self, data: Any) -> ResultBase:
        return cast("ResultBase", result_from_tuple(data, self.app))

    # -- upkeep ---------------------------------------------------------------------------------------------------

    def cleanup(self) -> None:
        """Delete what has expired; where results expire by themselves there is nothing to do."""

    def process_cleanup(self) -> None:
        """A task has ended in this process. A backend may close what it opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_backend, (type(self), (self.app,), {"expires": self.expires, "url": self.url})


def unpickle_backend(cls: type[Backend], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Backend:
    """Make the backend that was pickled."""
    return cls(*args, **kwargs)


__all__ = ["Backend", "Meta", "unpickle_backend"]
