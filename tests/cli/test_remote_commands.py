"""`celery inspect` and `celery control` with the commands that an application adds."""

from __future__ import annotations

import json
from typing import Any

import pytest

NODE = "w1@example"


def test_commands_of_an_application_are_listed(celery: Any) -> None:
    said = celery("-A", "commands", "inspect", "--list").out
    assert "\n  tint <base> [color1 [color2 …]]" in said
    assert "Mix colours." in said
    assert "current_prefetch_count" in said
    assert "secret" not in said
    assert "increase_prefetch_count" not in said
    assert "\n  increase_prefetch_count [N=1]" in celery("-A", "commands", "control", "--list").out


def test_commands_of_an_application_are_checked(celery: Any) -> None:
    for words, expected in (
        (["inspect", "tint"], "Too few arguments. Usage: tint <base> [color1"),
        (["inspect", "tints"], "Too few arguments. Usage: tint <base> [color1"),
        (["control", "increase_prefetch_count", "x"], "n cannot be 'x'. Usage: increase_prefetch_count [N=1]"),
        (["control", "increase_prefetch_count", "1", "2"], "Too many arguments: 2."),
        (["control", "tint", "a"], "Command tint not recognized"),
    ):
        said = celery("-A", "commands", *words)
        assert said.code == 2
        assert expected in said.err


def test_commands_of_an_application_are_carried_out(celery: Any, worker: Any) -> None:
    def ask(*words: str) -> Any:
        said = celery("-A", "commands", *words, "--json", "-d", NODE, "-t", "30")
        assert said.code == 0, said.err
        return json.loads(said.out)

    with worker("-c", "1", "-n", NODE, "-P", "threads", app="commands"):
        assert ask("inspect", "current_prefetch_count") == {NODE: {"prefetch_count": 4}}
        assert ask("control", "increase_prefetch_count", "3") == [{NODE: {"ok": "prefetch count incremented"}}]
        assert ask("inspect", "current_prefetch_count") == {NODE: {"prefetch_count": 7}}
        assert ask("inspect", "tints", "red", "green", "blue") == {NODE: ["red", "green", "blue"]}
        assert ask("inspect", "secret") == {NODE: {"hidden": True}}
        assert ask("inspect", "dump_active") == {NODE: []}
        shown = celery("-A", "commands", "control", "increase_prefetch_count", "-d", NODE, "-t", "30")
        assert shown.out == f"->  {NODE}: OK\n        prefetch count incremented\n"


@pytest.mark.parametrize("pool", ["gevent", "asyncio"])
def test_workers_of_one_thread_answer_while_a_task_sleeps(celery: Any, worker: Any, pool: str) -> None:
    with worker("-c", "2", "-n", NODE, "-P", pool) as running:
        nap = celery("-A", "single", "call", "single.nap", "-a", "[600]").out.strip()

        def active() -> list[str]:
            said = celery("-A", "single", "inspect", "active", "--json", "-d", NODE, "-t", "30").out
            return [task["id"] for task in json.loads(said)[NODE]]

        running.wait_for(lambda: active() == [nap])
        running.process.kill()
