"""The shelf: large parts of a canvas are stored once in the result store, and messages name them.

The rest of a chain travels in every message of it, and the body of a chord in every task of its header.  Up to `EMBED`
bytes they do so as protocol 2 has it; above, a *reference* stands in their place: a small signature whose
`subtask_type` is `shelf` and whose only argument is the key.  The rest of a chain is stored in pieces of about `EMBED`
bytes, each of which ends with the reference to the next, so that all messages of a chain are together linear in its
length.  Without a store everything is embedded.

Lists of steps are in the order of the wire: the next step is the last element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.canvas.ids import new_id
from celery.exceptions import CeleryError
from celery.wire.message import Record
from celery.wire.serialization import accept_types, dumps, loads

if TYPE_CHECKING:
    from celery.app.base import Celery

EMBED = 4096
"""Bytes up to which the rest of a chain, or the body of a chord, is part of the message."""
PREFIX = "celeriac.canvas."
TASK_KEYS = "celery-task-meta-"
KEPT = 86400.0
"""Seconds for which a part stays in the store after it was used, so that a repeated step finds it again."""
STATE = "CANVAS"
"""The state of its records: no terminal one, so that storing it again replaces it."""

Step = dict[str, Any]


class CanvasLost(CeleryError, LookupError):
    """A part of a canvas that a message names is not in the result store."""


class Remainder(list[Any]):
    """What is left of a chain that came in a message of at most `EMBED` bytes: it goes on in one, unmeasured."""


# -- the producer's side -----------------------------------------------------------------------------------------------


def shelve_chain(app: Celery, chain: Sequence[Mapping[str, Any]]) -> list[Any]:
    """*chain* as a message may carry it: as it is if it is small, else its next steps and a reference to the others.

    Blocks for the store where it has to be written.  Raises `BackendError` when that cannot be reached, and kombu's
    `EncodeError` when arguments cannot be serialised.
    """
    steps = list(chain)
    if type(chain) is Remainder:
        return steps
    if len(steps) < 2 and not (steps and _is_deep(steps[0])):
        return steps
    store = app.store
    if store is None:
        return steps
    if _size(app, steps) <= EMBED:
        return steps
    sizes = [_size(app, step) for step in steps]
    records: list[Record] = []
    piece: list[Any] = []
    length = 0
    for step, size in zip(steps, sizes, strict=True):
        if piece and length + size > EMBED:
            reference = refer(new_id())
            records.append(_record(app, reference, piece))
            piece, length = [reference], REFERENCE
        piece.append(step)
        length += size
    if length > EMBED:
        reference = refer(new_id())
        records.append(_record(app, reference, piece))
        piece = [reference]
    store.put(records)
    return piece


def shelve_body(app: Celery, body: Mapping[str, Any]) -> Any:
    """The body of a chord as the tasks of its header carry it: as it is if it is small, else a reference to it.

    The reference has the `chord_size` and those options of the body by which it is known before it is read: its ids
    and its group.  Raises as `shelve_chain` does.
    """
    store = app.store
    if store is None or is_reference(body) or _size(app, body) <= EMBED:
        return body
    options = body.get("options") or {}
    reference = refer(new_id(), {name: options[name] for name in _KNOWN if options.get(name) is not None})
    if "chord_size" in body:
        reference["chord_size"] = body["chord_size"]
    store.put([_record(app, reference, body)])
    return reference


def refer(id: str, options: dict[str, Any] | None = None) -> Step:
    """A reference to what is stored under *id*."""
    return {
        "task": "celery.shelf", "args": [], "kwargs": {"key": PREFIX + id}, "options": options or {},
        "subtask_type": "shelf", "immutable": True,
    }  # fmt: skip


_KNOWN = ("task_id", "root_id", "parent_id", "group_id", "group_index", "reply_to")
REFERENCE = 200
"""Bytes of a reference, about."""


def _is_deep(step: Mapping[str, Any]) -> bool:
    """Whether *step* has others in it, so that even a chain of one may be large."""
    return bool(step.get("subtask_type")) or len(step.get("options") or ()) > 2  # more than an id and reply_to


def _size(app: Celery, value: Any) -> int:
    return len(_encode(app, value)[2])


def _encode(app: Celery, value: Any) -> tuple[str, str, bytes]:
    return dumps(value, app.conf.task_serializer)


def pack(app: Celery, value: Any) -> bytes:
    """*value*, made of signatures, as bytes that say how they are to be read. Raises kombu's `EncodeError`."""
    content_type, content_encoding, data = _encode(app, value)
    return f"{content_type};{content_encoding}\n".encode() + data


def unpack(app: Celery, packed: bytes) -> Any:
    """What `pack` made *packed* of."""
    head, _, data = packed.partition(b"\n")
    content_type, _, content_encoding = head.decode().partition(";")
    return loads(data, content_type, content_encoding, accept_types(app.conf.accept_content))


def _record(app: Celery, reference: Step, value: Any) -> Record:
    return Record(_key(app, reference), pack(app, value), STATE)


def _key(app: Celery, reference: Mapping[str, Any]) -> str:
    """The key in the store, behind the prefix that `global_keyprefix` gives the keys of results."""
    key: str = reference["kwargs"]["key"]
    prefix: str = getattr(app.backend, "task_keyprefix", TASK_KEYS)
    return prefix.removesuffix(TASK_KEYS) + key


# -- the worker's side -------------------------------------------------------------------------------------------------


def is_reference(step: Any) -> bool:
    """Whether *step* names a part of a canvas that is in the store."""
    return isinstance(step, Mapping) and step.get("subtask_type") == "shelf"


def unfold_chain(app: Celery, chain: Sequence[Any] | None, spent: list[Record] | None = None) -> list[Any]:
    """*chain* with its next step in it: where that is a reference, the piece of the chain it names.

    *spent* is given the records that make what was read end after `KEPT` seconds: to commit with the settlement of
    the step that used it.  Blocks for the store.  Raises `CanvasLost`, and `BackendError` when the store cannot be
    reached.
    """
    steps = list(chain or ())
    while steps and is_reference(steps[-1]):
        steps[-1:] = _read(app, steps[-1], spent)
    return steps


def unfold_body(app: Celery, chord: Any, spent: list[Record] | None = None) -> Any:
    """The body of a chord that the tasks of its header carry as *chord*, with `chord_size` as they have it.

    *spent* and errors as for `unfold_chain`.
    """
    if not is_reference(chord):
        return chord
    body = dict(_read(app, chord, spent))
    if "chord_size" in chord:
        body["chord_size"] = chord["chord_size"]
    return body


def walk_chain(app: Celery, chain: Sequence[Any] | None, spent: list[Record] | None = None) -> Iterator[Any]:
    """Every step of *chain*, the next one first, through all its pieces; *spent* and errors as for `unfold_chain`."""
    steps = unfold_chain(app, chain, spent)
    while steps:
        yield steps.pop()
        steps = unfold_chain(app, steps, spent)


def _read(app: Celery, reference: Mapping[str, Any], spent: list[Record] | None) -> Any:
    key = _key(app, reference)
    store = app.store
    value = store.get([key])[0] if store is not None else None
    if value is None:
        raise CanvasLost(
            f"A part of the workflow, {key}, is not in the result store: give all its workers the same result backend,"
            " and delete nothing of a workflow that is running."
        )
    if spent is not None:
        spent.append(Record(key, value, STATE, ttl=KEPT))
    return unpack(app, value)


__all__ = [
    "EMBED",
    "KEPT",
    "CanvasLost",
    "Remainder",
    "is_reference",
    "pack",
    "refer",
    "shelve_body",
    "shelve_chain",
    "unfold_body",
    "unfold_chain",
    "unpack",
    "walk_chain",
]
