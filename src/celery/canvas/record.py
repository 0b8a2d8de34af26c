"""What a workflow is made of, stored when it is sent: for `celery workflow show` and `celery workflow retry`.

One request of the result store for each chain, group or chord that is sent, and nothing for single tasks: the setting
`workflow_records` turns it off.  Nothing that runs depends on records.  One is kept under the id of the workflow's
result, and named under the id of its first task (of its header, where it begins with a chord), which is what the
tasks that have run lead to.  It is kept twice as long as results are: a workflow may run as long as the results of its
first tasks last, and can be shown as long as that of its last.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextvars import ContextVar, Token
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
SMALL = 1000
"""Bytes up to which it is not compressed."""
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
                store.put(_records(app, canvas, result, args, kwargs, options))

    def __enter__(self) -> None:
        self._token = _nested.set(True)

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            _nested.reset(self._token)


def _records(app: Celery, canvas: Any, result: Any, args: Any, kwargs: Any, options: Any) -> list[Record]:
    backend = app.backend
    ttl = 2 * backend.expires if backend.expires else None
    first = result
    while first.parent is not None:
        first = first.parent
    data = {
        "id": result.id, "canvas": pack(canvas), "args": list(args or ()), "kwargs": dict(kwargs or {}),
        "options": _kept(options or {}),
    }  # fmt: skip
    try:
        content_type, content_encoding, payload = dumps(data, app.conf.task_serializer)
    except EncodeError:  # a task that has a serializer of its own
        return []
    squeezed = len(payload) > SMALL
    head = f"{content_type};{content_encoding};{'zlib' if squeezed else ''}\n".encode()
    value = head + (zlib.compress(payload, 1) if squeezed else payload)
    records = [Record(key_of(app, result.id), value, STATE, ttl=ttl)]
    if first.id != result.id:
        records.append(Record(key_of(app, first.id), f">{result.id}".encode(), STATE, ttl=ttl))
    return records


def key_of(app: Celery, id: str) -> str:
    """Where the record of a workflow is."""
    prefix: str = getattr(app.backend, "task_keyprefix", TASK_KEYS)
    return prefix.removesuffix(TASK_KEYS) + PREFIX + id


def find(app: Celery, id: str) -> Recorded | None:
    """The record of the workflow whose result, or whose first task, has *id*; None if there is none."""
    store = app.store
    if store is None:
        return None
    value = store.get([key_of(app, id)])[0]
    if value is not None and value.startswith(b">"):
        value = store.get([key_of(app, value[1:].decode())])[0]
    if value is None:
        return None
    head, _, payload = value.partition(b"\n")
    content_type, content_encoding, squeezed = head.decode().split(";")
    if squeezed:
        payload = zlib.decompress(payload)
    data = cast("dict[str, Any]", loads(payload, content_type, content_encoding, accept_types(app.conf.accept_content)))
    canvas = Signature.from_dict(unpack(data["canvas"]), app=app)
    return Recorded(data["id"], canvas, data["args"], data["kwargs"], data["options"])


# -- a signature in few bytes ------------------------------------------------------------------------------------------


def pack(signature: Mapping[str, Any]) -> list[Any]:
    """A signature, and those in it, as a list: encoded quickly, and with nothing that says where it is."""
    kind, kwargs, options = signature.get("subtask_type"), signature["kwargs"], _kept(signature.get("options") or {})
    if kind in {"chain", "group"}:
        parts: Any = [pack(part) for part in kwargs["tasks"]]
    elif kind == "chord":
        header = kwargs["header"]
        tasks = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
        body = kwargs["body"]
        parts = [[pack(part) for part in tasks], pack(body) if body is not None else None, kwargs.get("kwargs") or {}]
    else:
        parts = kwargs
    return [
        kind,
        signature["task"],
        list(signature.get("args") or ()),
        parts,
        options,
        bool(signature.get("immutable")),
    ]


def unpack(data: list[Any]) -> dict[str, Any]:
    """The inverse of `pack`."""
    kind, task, args, parts, options, immutable = data
    kwargs: Any = parts
    if kind in {"chain", "group"}:
        kwargs = {"tasks": [unpack(part) for part in parts]}
    elif kind == "chord":
        tasks, body, given = parts
        own = {"task_id": options["task_id"]} if "task_id" in options else {}
        header = unpack(["group", "celery.group", [], tasks, own, False])
        kwargs = {"header": header, "body": unpack(body) if body is not None else None, "kwargs": given}
    return {
        "task": task, "args": args, "kwargs": kwargs, "options": options, "subtask_type": kind, "immutable": immutable,
    }  # fmt: skip


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in DROPPED and value is not None}


__all__ = ["PREFIX", "Recorded", "find", "key_of", "pack", "remembering", "unpack"]
