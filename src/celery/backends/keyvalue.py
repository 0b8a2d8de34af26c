"""`KeyValueStoreBackend`: for storage that has get, set and delete of bytes under keys.

A subclass fills in `get`, `set`, `delete`, and `mget` where it can read many at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.backend import Backend, Meta
from celery.backends.polling import SyncBackendMixin
from celery.exceptions import TimeoutError  # noqa: A004 - the public name
from celery.result import GroupResult

if TYPE_CHECKING:
    from celery.app.base import Celery

PENDING_META: Meta = {"status": states.PENDING, "result": None}


def _to_bytes(key: str | bytes) -> Any:
    return key.encode() if isinstance(key, str) else key


class BaseKeyValueStoreBackend(Backend):
    """Results under keys; how to wait for them is up to the class beside it."""

    key_t: Callable[[Any], Any] = staticmethod(_to_bytes)
    """Makes a key what the storage takes: bytes, unless a subclass says `str`."""
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        options = app.conf.result_backend_transport_options or {}
        prefix = options.get("global_keyprefix", "")
        if prefix:
            self._add_global_keyprefix(prefix)
        self.task_keyprefix = self.key_t(self.task_keyprefix)
        self.group_keyprefix = self.key_t(self.group_keyprefix)
        self.chord_keyprefix = self.key_t(self.chord_keyprefix)

    def _add_global_keyprefix(self, prefix: str) -> None:
        if prefix[-1] not in ":_-.":
            prefix += "_"
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, f"{prefix}{getattr(self, name)}")

    def get(self, key: Any) -> Any:
        """The value under *key*, None if there is none."""
        raise self._not_filled_in("get")

    def mget(self, keys: Sequence[Any]) -> Any:
        """The values under *keys*, in their order, None where there is none."""
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> Any:
        """Store *value* under *key* for `self.expires` seconds."""
        raise self._not_filled_in("set")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Delete what is under *key*."""
        raise self._not_filled_in("delete")

    def incr(self, key: Any) -> int:
        """Add 1 to the number under *key*; what it is then."""
        raise self._not_filled_in("incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Let *key* end in *value* seconds."""
        raise self._not_filled_in("expire")

    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any:
        """The key of a task's meta."""
        return self._get_key_for(self.task_keyprefix, task_id, key)

    def get_key_for_group(self, group_id: Any, key: Any = "") -> Any:
        """The key of a saved group."""
        return self._get_key_for(self.group_keyprefix, group_id, key)

    def get_key_for_chord(self, group_id: Any, key: Any = "") -> Any:
        """The key of the counter of a chord."""
        return self._get_key_for(self.chord_keyprefix, group_id, key)

    def _get_key_for(self, prefix: Any, id: Any, key: Any = "") -> Any:
        if not id:
            raise ValueError("A result is stored under the id of its task, and this one has none.")
        return prefix + self.key_t(id) + self.key_t(key)

    def _strip_prefix(self, key: Any) -> str:
        text = key.decode() if isinstance(key, bytes) else str(key)
        for prefix in (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix):
            before = prefix.decode() if isinstance(prefix, bytes) else prefix
            if text.startswith(before):
                return text[len(before) :]
        return text

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        # A success is never replaced: a message that is delivered twice must not turn it into a failure.
        if self._get_task_meta_for(task_id)["status"] == states.SUCCESS:
            return result
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _get_task_meta_for(self, task_id: str) -> Meta:
        value = self.get(self.get_key_for_task(task_id))
        return self.decode_result(value) if value else dict(PENDING_META)

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        value = self.encode({"result": result.as_tuple()})
        self._set_with_state(self.get_key_for_group(group_id), value, states.SUCCESS)
        return result

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    def _restore_group(self, group_id: str) -> Meta | None:
        value = self.get(self.get_key_for_group(group_id))
        if not value:
            return None
        meta: Meta = self.decode(value)
        meta["result"] = self._group_from_data(meta["result"])
        return meta

    def _mget_to_results(
        self,
        values: Any,
        keys: Sequence[Any],
        READY_STATES: Iterable[str] = states.READY_STATES,  # noqa: N803 - the public name
    ) -> dict[str, Meta]:
        pairs: Iterable[tuple[Any, Any]] = (
            ((self._strip_prefix(key), value) for key, value in values.items())
            if hasattr(values, "items")
            else zip(keys, values, strict=True)
        )
        found = {}
        for task_id, value in pairs:
            meta = self.decode_result(value) if value else None
            if meta is not None and meta["status"] in READY_STATES:
                found[task_id] = meta
        return found

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Iterable[str] = states.READY_STATES,  # noqa: N803 - the public name
    ) -> Iterator[tuple[str, Meta]]:
        """Yield `(task id, meta)` as the tasks end, looking every *interval* seconds, for up to *timeout* seconds."""
        missing = dict.fromkeys(task_ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        rounds = 0
        while missing:
            ids = list(missing)
            found = self._mget_to_results(self.mget([self.get_key_for_task(id) for id in ids]), ids, READY_STATES)
            for task_id, meta in found.items():
                del missing[task_id]
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            rounds += 1
            if not missing or (max_iterations is not None and rounds >= max_iterations):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{len(missing)} of the results were not there after {timeout} s.")
            if on_interval is not None:
                on_interval()
            self._sleep(interval)


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """Results under keys, waited for by looking at intervals."""


__all__ = ["BaseKeyValueStoreBackend", "KeyValueStoreBackend"]
