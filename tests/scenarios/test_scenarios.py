"""Plays every `*.txt` beside this file; see `stage.py` for the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.stage import Stage

FOLDER = Path(__file__).parent
SCENARIOS = sorted(FOLDER.glob("*.txt"))
RULE = "----"


def blocks(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """(lines up to the rule, what is expected) of every block; blocks end with an empty line."""
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        rule = lines.index(RULE) if RULE in lines else len(lines)
        yield lines[:rule], lines[rule + 1 :]


def play(text: str) -> str:
    """The scenario with what really came of it."""
    stage, played = Stage(), []
    try:
        for lines, _ in blocks(text):
            for line in lines:
                if line and not line.startswith("#"):
                    stage.play(line)
            if any(not line.startswith("#") for line in lines):
                played.append("\n".join([*lines, RULE, *stage.told]))
            else:
                played.append("\n".join(lines))
            stage.told.clear()
    finally:
        stage.close()
    return "\n\n".join(played) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    expected = path.read_text()
    played = play(expected)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(played)
    else:
        assert played == expected, "The worker does otherwise now; if that is right: pytest tests/scenarios --rewrite"
