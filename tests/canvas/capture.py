"""Builds every composition, sends it to a broker in memory, and says as JSON what became of it.

Run by an interpreter of the original, whose answers are the golden file: `python capture.py > golden.json`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import compositions

ID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
HEADERS = (
    "task", "id", "group", "group_index", "root_id", "parent_id", "retries", "timelimit", "ignore_result", "shadow",
    "replaced_task_nesting", "stamped_headers", "stamps",
)  # fmt: skip


class Names:
    """Ids by the order in which they were first seen."""

    def __init__(self, replies: str) -> None:
        self.seen = {replies: "<replies>"}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self(value[key]) for key in sorted(value)}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, str) and ID.match(value):
            return self.seen.setdefault(value, f"<id {len(self.seen)}>")
        return value


def message(headers: dict[str, Any], body: Any, properties: dict[str, Any]) -> dict[str, Any]:
    """What of a message has to be the same."""
    args, kwargs, embed = body
    return {
        **{name: headers.get(name) for name in HEADERS},
        "eta": bool(headers.get("eta")), "expires": bool(headers.get("expires")), "args": args, "kwargs": kwargs,
        "embed": embed, "queue": properties["delivery_info"]["routing_key"], "priority": properties.get("priority"),
        "correlation": properties["correlation_id"],
    }  # fmt: skip


def result(value: Any) -> Any:
    """A result with its parents, and the members of a group."""
    if value is None:
        return None
    members = getattr(value, "results", None)
    return {
        "kind": "group" if members is not None else "task", "id": value.id, "parent": result(value.parent),
        "members": None if members is None else [result(member) for member in members],
    }  # fmt: skip


def eager(signature: Any) -> Any:
    """What running it here gives."""
    done = signature.apply()
    if done is None:
        return None
    try:
        return {"kind": "group" if hasattr(done, "results") else "task", "value": done.get(disable_sync_subtasks=False)}
    except Exception as error:  # noqa: BLE001 - the answer
        return {"error": repr(error)}


def capture(celery: Any, app: Any, take: Any) -> dict[str, Any]:
    """*take* empties the broker: a list of (headers, body, properties)."""
    n = compositions.namespace(celery, app)
    found = {}
    for name, build in compositions.BUILD.items():
        names = Names(app.thread_oid)
        found[name] = entry = {}
        try:
            signature = build(n)
            entry["kind"] = type(signature).__name__
            entry["shape"] = names(json.loads(json.dumps(signature)))
            entry["shown"] = repr(signature)
        except Exception as error:  # noqa: BLE001 - the answer
            entry["error"] = f"{type(error).__name__}: {error}"
            continue
        try:
            sent = compositions.SEND.get(name, lambda sig: sig.apply_async())(signature)
            entry["result"] = names(result(sent))
        except Exception as error:  # noqa: BLE001 - the answer
            entry["sending"] = f"{type(error).__name__}: {error}"
        entry["messages"] = [names(message(*parts)) for parts in take()]
        try:
            entry["eager"] = names(json.loads(json.dumps(eager(build(n)))))
        except Exception as error:  # noqa: BLE001 - the answer
            entry["eager"] = f"{type(error).__name__}: {error}"
        take()
    return found


def capture_original() -> dict[str, Any]:
    import celery

    app = celery.Celery("golden", broker="memory://", backend="cache+memory://")
    app.conf.task_default_queue = "default"

    def take() -> list[Any]:
        taken = []
        with app.connection() as connection:
            channel = connection.default_channel
            for queue in ("default", "q", "a", "b", "other"):
                while channel.queues.get(queue) is not None:
                    found = channel.basic_get(queue, no_ack=True)
                    if found is None:
                        break
                    taken.append((found.headers, found.decode(), found.properties))
        return taken

    return capture(celery, app, take)


def written(found: dict[str, Any]) -> str:
    """As the golden file has it: a line for every composition."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(found.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(written(capture_original()))
