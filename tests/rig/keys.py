"""Which keys may be left on a Redis server: those that docs/redis.md lists, by how they end."""

from __future__ import annotations

import re
from pathlib import Path

from rig.redis import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
TIMED = ("60 s", "a day", "by its time", "result_expires", "when that is past", "with its result")


def check_keys(redis: RedisServer) -> None:
    """Everything that is left is documented as what stays, or has its time set."""
    documented = keys_of_the_page()
    for key in sorted(redis.keys()):
        ends = {end for pattern, end in documented.items() if pattern.fullmatch(key)}
        assert ends, f"{key} is in no table of {PAGE.name}"
        assert ends & {"stays", "goes"}, f"{key} is left behind"
        assert "stays" in ends or redis.ask("PTTL", key) != -1, f"{key} is kept for ever"


def keys_of_the_page() -> dict[re.Pattern[str], str]:
    """The keys that the documentation lists, by how they end: one `stays`, `goes` by itself, or is `empty` at last."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 4:
            continue
        end = "stays" if cells[3] == "stays" else "goes" if any(word in cells[3] for word in TIMED) else "empty"
        names = re.findall(r"`([^`]+)`", cells[0])
        for name in names:
            if name.startswith("."):  # the end of another one
                name = names[0].rpartition(".")[0] + name  # noqa: PLW2901
            if not name.startswith("<"):  # the queues themselves, which are empty
                found[re.compile(re.sub(r"<[^>]+>", ".+", name.replace(".", r"\.")))] = end
    assert len(found) > 10
    return found
