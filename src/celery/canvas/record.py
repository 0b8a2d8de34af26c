"""What a workflow is made of, stored when it is sent: for `celery workflow show` and `celery workflow retry`.

One request of the result store for each chain, group or chord that is sent, and nothing for single tasks: the setting
`workflow_records` turns it off.  Nothing that runs depends on records.  One is kept under the id of the workflow's
result, and named under the ids that it begins with (of its first task, of the header of a chord, and of up to `MOST`
branches), to which the tasks that have run lead back.  It is kept twice as long as results are: a workflow may run as
long as the results of its first tasks last, and can be shown as long as that of its last.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from celery.canvas.signature import Signature
from celery.exceptions import EncodeError
from celery.wire.message import Record
from celery.wire.serialization import accept_types, dumps, loads

if TYPE_CHECKING:
    from celery.app.base import Celery

PREFIX = "celeriac.workflow."
TASK_KEYS = "celery-task-meta-"
STATE = "WORKFLOW"
"""The state of its records: no terminal one, so that storing it again replaces it."""
BATCH = 1000
"""Records that are read in one step."""
MOST = 100
"""Beginnings of one workflow under which its record is named."""
SMALL = 200_000
"""Bytes up to which it is not compressed: that would take longer than encoding it."""
DROPPED = frozenset({
    "reply_to", "group_id", "group_index", "chord", "chain", "root_id", "parent_id", "producer", "publisher",
    "connection", "router", "add_to_parent", "result_cls", "event_dispatcher",
})  # fmt: skip
"""Options that say where a task was in its workflow, or mean something only to the process that sent it."""

_nested: ContextVar[bool] = ContextVar("celery.canvas.recorded", default=False)


class Recorded(msgspec.Struct):
    """A workflow as it was sent: with the ids of all tasks, and arguments that were given at the last moment."""

    id: str
    canvas: Signature[Any]
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]


class remembering:  # noqa: N801 - it stands behind `with`
    """In this block, a frozen *canvas* is sent: it is recorded at the start, and what is sent as a part of it is not.

    *result* is what it gives.  Nothing is recorded of what has a *root_id*: that is a step of another workflow.
    """

    __slots__ = ("_token",)

    def __init__(
        self,
        app: Celery,
        canvas: Any,
        result: Any,
        root_id: str | None,
        *,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._token: Token[bool] | None = None
        if root_id is None and result is not None and not _nested.get() and app.conf.workflow_records:
            store = app.store
            if store is not None:
                given = list(args or ()), dict(kwargs or {}), _kept(options or {})
                store.put(records_of(app, Recorded(result.id, canvas, *given)))

    def __enter__(self) -> None:
        self._token = _nested.set(True)

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            _nested.reset(self._token)


def records_of(app: Celery, recorded: Recorded) -> list[Record]:
    """What is stored of a workflow; nothing where it does not serialise."""
    expires = app.backend.expires
    ttl = 2 * expires if expires else None
    data = {"id": recorded.id, "canvas": pack(recorded.canvas), "args": recorded.args, "kwargs": recorded.kwargs,
            "options": recorded.options}  # fmt: skip
    try:
        content_type, content_encoding, payload = dumps(data, app.conf.task_serializer)
    except EncodeError:  # its tasks have a serializer of their own
        return []
    squeezed = len(payload) > SMALL
    head = f"{content_type};{content_encoding};{'zlib' if squeezed else ''}\n".encode()
    value = head + (zlib.compress(payload, 1) if squeezed else payload)
    name = f">{recorded.id}".encode()
    begins = dict.fromkeys(id for id in islice(beginnings(recorded.canvas), MOST) if id != recorded.id)
    named = [Record(key_of(app, id), name, STATE, ttl=ttl) for id in begins]
    return [Record(key_of(app, recorded.id), value, STATE, ttl=ttl), *named]


def beginnings(signature: Mapping[str, Any]) -> Iterator[str]:
    """The ids from which every task of a frozen canvas comes: by its group, or by the task before it."""
    kind, kwargs = signature.get("subtask_type"), signature["kwargs"]
    if kind == "chain":
        yield from beginnings(kwargs["tasks"][0])
        return
    yield signature["options"]["task_id"]
    if kind in {"group", "chord"}:
        for part in members(signature):
            if part.get("subtask_type") in {"chain", "chord"}:
                yield from beginnings(part)


def members(signature: Mapping[str, Any]) -> Sequence[Any]:
    """The tasks of a group, or of the header of a chord."""
    kwargs = signature["kwargs"]
    header = kwargs["tasks"] if "tasks" in kwargs else kwargs["header"]
    members: Sequence[Any] = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
    return members


def key_of(app: Celery, id: str) -> str:
    """Where the record of a workflow is."""
    prefix: str = getattr(app.backend, "task_keyprefix", TASK_KEYS)
    return prefix.removesuffix(TASK_KEYS) + PREFIX + id


def find(app: Celery, id: str) -> Recorded | None:
    """The record of the workflow whose result, or a beginning of which, has *id*; None if there is none."""
    return find_many(app, [id]).get(id)


def find_many(app: Celery, ids: Sequence[str]) -> dict[str, Recorded]:
    """As `find`, for several ids: the records of those that have one."""
    store = app.store
    if store is None:
        return {}
    found = _read(app, ids)
    names = {id: value[1:].decode() for id, value in found.items() if value.startswith(b">")}
    if names:
        named = _read(app, list(names.values()))
        found.update((id, named[name]) for id, name in names.items() if name in named)
    return {id: _decode(app, value) for id, value in found.items() if not value.startswith(b">")}


def _read(app: Celery, ids: Sequence[str]) -> dict[str, bytes]:
    store = app.store
    assert store is not None
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        values = store.get([key_of(app, id) for id in part])
        found.update((id, value) for id, value in zip(part, values, strict=True) if value is not None)
    return found


def _decode(app: Celery, value: bytes) -> Recorded:
    head, _, payload = value.partition(b"\n")
    content_type, content_encoding, squeezed = head.decode().split(";")
    if squeezed:
        payload = zlib.decompress(payload)
    data = cast("dict[str, Any]", loads(payload, content_type, content_encoding, accept_types(app.conf.accept_content)))
    canvas = Signature.from_dict(unpack(data["canvas"]), app=app)
    return Recorded(data["id"], canvas, data["args"], data["kwargs"], data["options"])


# -- a signature in few bytes ------------------------------------------------------------------------------------------

RUN = "run"
"""Says that a list stands for several tasks in a row that differ in their ids and arguments only."""
BARE = DROPPED | {"task_id"}


def pack(signature: Mapping[str, Any]) -> list[Any]:
    """A signature, and those in it, as a list: encoded quickly, and with nothing that says where it is."""
    kind, kwargs, options = signature.get("subtask_type"), signature["kwargs"], _kept(signature.get("options") or {})
    if kind in {"chain", "group"}:
        parts: Any = _pack_all(kwargs["tasks"])
    elif kind == "chord":
        body = kwargs["body"]
        parts = [_pack_all(members(signature)), pack(body) if body is not None else None, kwargs.get("kwargs") or {}]
    else:
        parts = kwargs
    return [kind, signature["task"], signature.get("args") or (), parts, options, bool(signature.get("immutable"))]


def _pack_all(signatures: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Several signatures. Most of them are calls of one task: those in a row are one list."""
    packed: list[Any] = []
    first: Mapping[str, Any] | None = None
    ids: list[Any] = []
    args: list[Any] = []
    for signature in signatures:
        options = signature["options"]
        if signature.get("subtask_type") or not options.keys() <= BARE:
            packed.append(pack(signature))
            first = None
            continue
        if first is None or not (
            signature["task"] == first["task"]
            and signature["kwargs"] == first["kwargs"]
            and signature["immutable"] == first["immutable"]
        ):
            first, ids, args = signature, [], []
            packed.append([RUN, first["task"], first["kwargs"], bool(first["immutable"]), ids, args])
        ids.append(options.get("task_id"))
        args.append(signature["args"])
    return packed


def unpack(data: list[Any]) -> dict[str, Any]:
    """The inverse of `pack`."""
    kind, task, args, parts, options, immutable = data
    kwargs: Any = parts
    if kind in {"chain", "group"}:
        kwargs = {"tasks": _unpack_all(parts)}
    elif kind == "chord":
        tasks, body, given = parts
        own = {"task_id": options["task_id"]} if "task_id" in options else {}
        header = unpack(["group", "celery.group", [], tasks, own, False])
        kwargs = {"header": header, "body": unpack(body) if body is not None else None, "kwargs": given}
    return {
        "task": task, "args": args, "kwargs": kwargs, "options": options, "subtask_type": kind, "immutable": immutable,
    }  # fmt: skip


def _unpack_all(packed: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for data in packed:
        if data[0] != RUN:
            found.append(unpack(data))
            continue
        _, task, kwargs, immutable, ids, args = data
        for id, each in zip(ids, args, strict=True):
            options = {} if id is None else {"task_id": id}
            found.append(unpack([None, task, each, dict(kwargs), options, immutable]))
    return found


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in DROPPED and value is not None}


__all__ = [
    "PREFIX",
    "Recorded",
    "find",
    "find_many",
    "key_of",
    "members",
    "pack",
    "records_of",
    "remembering",
    "unpack",
]
