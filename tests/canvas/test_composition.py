"""What is composed has the form, is sent as the messages and gives the results that the original's have.

`golden.json` holds what the original says of every composition in `compositions.py`.  Where we differ, `DIFFERS` says
in what, and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import celery
from canvas import capture, compositions
from celery import Celery
from celery.wire.protocol import decode_envelope, split_body
from celery.wire.serialization import accept_types
from rig.original import original_python

FOLDER = Path(__file__).parent
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
LEAKS = frozenset({"add_to_parent", "interval", "max_retries", "root_id", "parent_id"})
"""Options of a call that the original leaves in what it embeds, where nothing reads them."""

_BODY_CHAIN = "the first steps of a body that is a chain, and the header of one that is a chord, are parents too"
_ONE_PLACE = "every part of a group has a place of its own, in the order in which it was written"
_OWN_GROUP = "tasks of a group that follows something say that group's id, not the one of what it follows"
_SAME_GROUP = "the id of a header that is sent later is the one that the result says"
_PARENT = "a parent that is given is said"
_DICTS = "dictionaries are taken for the signatures they describe"
_CLONE = "arguments given to clone() are kept"
DIFFERS: dict[str, tuple[set[str], str]] = {
    "chain clone args": ({"shape", "shown", "result", "messages", "eager", "sending"}, _CLONE),
    "chain of dicts": ({"shape", "shown", "result", "messages", "eager", "sending"}, _DICTS),
    "chord of maps": ({"shown"}, "a map in a chord reads as it does elsewhere"),
    "chain of only a group of one": ({"eager"}, "run here it is one task too, as when it is sent"),
    "chain with map": ({"shown"}, "a map in a chain reads as it does elsewhere"),
    "chain | chain": ({"messages"}, _PARENT),
    "chain(group of groups, task)": ({"messages"}, _ONE_PLACE),
    "chain(group of one) | task": ({"shape"}, "it is that chord, not a chain of it alone"),
    "chain(group, group)": ({"messages"}, _OWN_GROUP),
    "chain(group, group, task)": ({"result", "messages"}, _BODY_CHAIN),
    "chain(group, task, task)": ({"result", "messages"}, _BODY_CHAIN),
    "chord clone args": ({"eager"}, _CLONE),
    "chord frozen": ({"shape"}, "the body is not repeated in every task of a header that is not yet sent"),
    "chord of a chain": ({"shape", "shown", "result", "messages"}, "a chain as a header is one part of it"),
    "chord of a chain ending in a chord": ({"messages"}, _SAME_GROUP),
    "chord of a chain with a group at its end": ({"result", "messages"}, _SAME_GROUP),
    "chord of a chain with a group inside": ({"messages"}, _SAME_GROUP),
    "chord of a group and a task": ({"messages"}, _ONE_PLACE),
    "chord of chains": ({"messages"}, _PARENT),
    "chord of chords of chords": ({"messages"}, _SAME_GROUP),
    "chord of groups": ({"messages"}, _ONE_PLACE),
    "chord of nothing | task": ({"result", "messages"}, _BODY_CHAIN),
    "chord to a chain with a chord": ({"result", "messages"}, _BODY_CHAIN),
    "chord to a chain with a group": ({"result", "messages"}, _BODY_CHAIN),
    "chord to chain": ({"result", "messages"}, _BODY_CHAIN),
    "chord to chord": ({"result", "messages"}, _BODY_CHAIN),
    "chord to group": ({"messages"}, _OWN_GROUP),
    "chord | chord": ({"result", "messages"}, _BODY_CHAIN),
    "chord | task": ({"result", "messages"}, _BODY_CHAIN),
    "chord | task | task": ({"result", "messages"}, _BODY_CHAIN),
    "chunks": ({"eager"}, "run here it gives the results of the parts, not a result whose value they are"),
    "chunks(task)": ({"eager"}, "as chunks"),
    "group clone args": ({"shape", "messages", "eager"}, _CLONE),
    "group frozen": ({"sending"}, "the sentence is ours"),
    "group of a chain ending in a chord": ({"messages"}, _SAME_GROUP),
    "group of a chain ending in a group": ({"messages"}, _OWN_GROUP),
    "group of an empty group": ({"messages"}, _ONE_PLACE),
    "group of chains": ({"messages"}, _PARENT),
    "group of dicts": ({"result", "shown", "messages", "eager", "sending"}, _DICTS),
    "group of groups": ({"messages"}, _ONE_PLACE),
    "group of groups 2": ({"messages"}, _ONE_PLACE),
    "group of groups of groups": ({"messages"}, _ONE_PLACE),
    "group of groups | task": ({"messages"}, _ONE_PLACE),
    "group | chain": ({"result", "messages"}, _BODY_CHAIN),
    "group | chord": ({"result", "messages"}, _BODY_CHAIN),
    "group | group": ({"messages"}, _OWN_GROUP),
    "group | group | group": ({"messages"}, "a group that is a body and is followed waits for all its tasks"),
    "group | group | task": ({"result", "messages"}, _BODY_CHAIN),
    "group | task | task": ({"result", "messages"}, _BODY_CHAIN),
    "stamp chord": ({"shape", "messages"}, "stamps given by name are for the body too"),
    "stamp chord of chains": ({"shape", "result", "messages"}, "stamps given by name are for the body too"),
    "xmap of a task": ({"shape", "shown", "result", "messages", "eager", "error"}, "a task is taken for its signature"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, Any]]:
    """What we say of every composition."""
    place = f"memory://{uuid4()}"
    with Celery("golden", broker=place, backend=place, task_default_queue="default") as app:

        def take() -> list[Any]:
            taken = []
            for queue in ("default", "q", "a", "b", "other"):
                for state in ("ready", "delayed"):
                    for entry in app.broker.entries(state, [queue]):
                        message = decode_envelope(entry.envelope)
                        body = split_body(message, accept_types(["json"]))
                        taken.append((message.headers, body, message.properties))
                app.broker.purge(queue)
            return taken

        yield json.loads(json.dumps(capture.capture(celery, app, take)))


def alike(value: Any) -> Any:
    """*value* without what says nothing: options that are None, leaks of the original, what we note of a chord."""
    if isinstance(value, list):
        return [alike(item) for item in value]
    if not isinstance(value, dict):
        return value
    if {"task", "options"} <= set(value):
        options = {
            name: item
            for name, item in value["options"].items()
            if item is not None and not (name == "chain" and item == []) and not (name in LEAKS and item is not True)
        }
        value = {name: item for name, item in value.items() if name not in {"chord_size", "continues"}} | {
            "options": options
        }
    if {"callbacks", "chain"} <= set(value):
        value = {name: item or None for name, item in value.items()}
    return {name: alike(item) for name, item in value.items()}


def shown(entry: dict[str, Any]) -> str:
    """How it reads, whatever kind of sequence its parts are in."""
    text: str = entry.get("shown", "")
    for old, new in (("<_regen: ", ""), ("]>", "]"), ("...", ""), (",)", ")"), ("[", "("), ("]", ")")):
        text = text.replace(old, new)
    return "empty" if ": empty>" in text else text


@pytest.mark.parametrize("name", [*compositions.BUILD])
def test_a_composition(ours: dict[str, Any], name: str) -> None:
    theirs, mine = GOLDEN[name], ours[name]
    fields = {"shape", "result", "messages", "eager", "error", "sending"}
    different = {field for field in fields if alike(theirs.get(field)) != alike(mine.get(field))}
    if shown(theirs) != shown(mine):
        different.add("shown")
    expected, _ = DIFFERS.get(name, (set(), ""))
    assert different == expected


def test_every_difference_is_one_of_a_composition() -> None:
    assert DIFFERS.keys() <= compositions.BUILD.keys()
    assert GOLDEN.keys() == compositions.BUILD.keys()


@pytest.mark.timeout(600)  # it may install the original
def test_the_golden_file_is_what_the_original_says() -> None:
    try:
        python = original_python()
    except LookupError as error:
        pytest.skip(str(error))
    said = subprocess.run(
        [str(python), str(FOLDER / "capture.py")], capture_output=True, text=True, check=True, timeout=300
    ).stdout

    def known(text: str) -> Any:
        found = json.loads(text)
        for entry in found.values():
            entry["shown"] = shown(entry)
        return found

    assert known(said) == known((FOLDER / "golden.json").read_text())


def test_the_golden_script_runs_under_us_too() -> None:
    """It names nothing that only the original has."""
    assert sys.modules["celery"] is celery
    assert len(compositions.BUILD) > 150
