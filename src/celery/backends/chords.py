"""The parts of chords: what a task in the header of one reports when it has ended.

A part is an *arrival* at the join of its chord (see `celery.wire.message.Arrival`): every terminal state is one, once
for each part.  Whoever completes the join sends the task `celery.chord_join`, which sends the body, or fails it.  On
Redis the keys and values are those of original Celery, so that tasks of one chord may run on workers of both kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery._state import get_current_worker_task
from celery.app.context import Context, request_field
from celery.backends.compression import compress_payload
from celery.backends.keyvalue import BaseKeyValueStoreBackend
from celery.wire.message import Arrival, Outgoing, Record
from celery.wire.protocol import encode_envelope, task_message
from celery.wire.serialization import dumps

if TYPE_CHECKING:
    from celery.backends.store import Store
    from celery.brokers.answers import Joins

JOIN = "celery.chord_join"
"""The task that is sent when all parts of a chord have ended."""
NEVER_SET = "CHORD"
"""The state of records that are no results."""
MOST_MESSAGES = 64
"""Chords whose join messages are remembered: the parts of one chord often come one after the other."""

_NAMESPACE = UUID("5d0d8b9e-3c0f-5f0c-9d5e-6a1f6c0b7a11")


class ChordParts(BaseKeyValueStoreBackend):
    """The joins of a result backend over `store`, or over what its `joins` are where it has none."""

    store: Store | None

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        self._join_messages: dict[tuple[Any, ...], Outgoing] = {}

    @property
    def joins(self) -> Store | Joins:
        """What counts the parts."""
        assert self.store is not None
        return self.store

    def join_key(self, group_id: str) -> str:
        """The key of the join of the chord whose header is the group *group_id*."""
        key: str = self.get_key_for_group(group_id, ".")
        return key

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Report that the part of a chord which *request* is has ended as *state* with *result*.

        In a worker it is an effect of the execution, committed when that is settled; elsewhere it is done at once.
        """
        task_id, group_id = request_field(request, "id"), request_field(request, "group")
        if not task_id or not group_id or request_field(request, "is_eager"):
            return
        index = request_field(request, "group_index")
        chord: Mapping[str, Any] = request_field(request, "chord")
        key = self.join_key(group_id)
        value = dumps([1, task_id, state, self.encode_result(result, state)], self.serializer)[2]
        if self.compression is not None:
            value = compress_payload(value, self.compression)
        self._arrive(
            request,
            Arrival(
                key,
                f"{task_id}:{'+inf' if index is None else index}",
                value,
                int(chord.get("chord_size") or 0),
                self._join_message(request, group_id, key, chord),
            ),
        )

    def add_to_chord(self, group_id: str, result: Any, *, at_once: bool = False) -> None:
        """Have the chord whose header is the group *group_id* wait for *result* too; for each of a group's results.

        In a worker it does so from when the task has ended, unless *at_once*.
        """
        task = None if at_once else get_current_worker_task()
        for task_id in _ids(result):
            arrival = Arrival(self.join_key(group_id), f"+{task_id}", b"", 0, grows=True)
            self._arrive(task.request if task is not None else None, arrival)

    def apply_chord(self, header_result_args: tuple[str, Sequence[Any]], body: Any, **kwargs: Any) -> None:
        self.ensure_chords_allowed()
        self.set_chord_size(header_result_args[0], body["chord_size"])

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Tell workers of original Celery how many parts the chord has, if they count in the same store."""
        if self.store is None or not self.store.can.shared_joins:
            return
        record = Record(f"{self.join_key(group_id)}s", str(chord_size).encode(), NEVER_SET)
        task = get_current_worker_task()
        effects = task.request.effects if task is not None else None
        if effects is None:
            self.store.set(record.key, record.value)
        else:
            effects.append(record)

    def _arrive(self, request: Any, arrival: Arrival) -> None:
        arrivals = request.collected_arrivals() if isinstance(request, Context) else None
        if arrivals is not None:
            arrivals.append(arrival)
        elif self.joins.arrive([arrival]) == [True] and arrival.message is not None:
            self.app.publisher.publish([arrival.message])

    def _join_message(self, request: Any, group_id: str, key: str, chord: Mapping[str, Any]) -> Outgoing:
        """What is sent when the join is complete: to where the part came from, for some worker of ours is there."""
        route: Mapping[str, Any] = request_field(request, "delivery_info") or {}
        exchange, routing_key, priority = route.get("exchange") or "", route.get("routing_key"), route.get("priority")
        known = self._join_messages.get((key, exchange, routing_key, priority))
        if known is not None:
            return known
        if not routing_key and not exchange:
            routing_key = self.app.conf.task_default_queue
        task_id = str(uuid5(_NAMESPACE, f"join:{key}"))
        message = task_message(
            JOIN,
            task_id,
            (),
            {"group_id": group_id, "body": chord},
            kwargsrepr=repr({"group_id": group_id}),
            serializer=self.app.conf.task_serializer,
            root_id=request_field(request, "root_id"),
            ignore_result=True,
            exchange=exchange,
            routing_key=routing_key,
            priority=priority,
        )
        made = Outgoing(encode_envelope(message), routing_key or "", exchange, priority, task_id=task_id, inner=True)
        if len(self._join_messages) >= MOST_MESSAGES:
            self._join_messages.clear()
        self._join_messages[key, exchange, route.get("routing_key"), priority] = made
        return made


def _ids(result: Any) -> Iterator[str]:
    """The ids of the tasks that *result* waits for."""
    parts = getattr(result, "results", None)
    if parts is None:
        yield result.id
    else:
        for part in parts:
            yield from _ids(part)


__all__ = ["JOIN", "ChordParts"]
