"""Results of workflows that the other kind of Celery reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixed.conftest import Mixed
from rig.original import Party

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def answer(party: Party, code: str) -> Any:
    """What *code* has printed last, as JSON."""
    return json.loads(party.run("import json\n" + code, timeout=120).splitlines()[-1])


@pytest.mark.parametrize("saver", ["ours", "theirs"])
def test_saved_groups_are_restored_by_the_other_kind(mixed: Mixed, saver: str) -> None:
    one, other = (mixed.ours, mixed.theirs) if saver == "ours" else (mixed.theirs, mixed.ours)
    one.worker()
    id = answer(
        one,
        "from celery import group\n"
        "result = group([add.s(i, i) for i in range(3)]).apply_async()\n"
        "result.save(); print(json.dumps(result.id))",
    )
    said = answer(
        other,
        f"result = app.GroupResult.restore({id!r})\n"
        "print(json.dumps([result.id, type(result).__name__, result.get(timeout=30), result.completed_count()]))",
    )
    assert said == [id, "GroupResult", [0, 2, 4], 3]


def test_a_workflow_of_the_original_is_shown(mixed: Mixed) -> None:
    mixed.theirs.worker()
    ids = answer(
        mixed.theirs,
        "from celery import chain, group\n"
        "result = chain(add.s(1, 1), add.s(2), group(add.s(3), add.s(4))).apply_async()\n"
        "assert result.get(timeout=30) == [7, 8]\n"
        "print(json.dumps([result[0].id, result.parent.id, result.parent.parent.id]))",
    )
    for id in ids:
        text = mixed.ours.run(f"app.start(['workflow', 'show', {id!r}])")
        assert text.splitlines()[0].startswith(f"workflow {ids[-1]}  SUCCESS")
        assert all(each in text for each in ids)
        assert "It was not recorded" in text
