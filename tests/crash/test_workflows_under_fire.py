"""Random workflows under SIGKILL: each ends as the reference says, and no step is sent twice."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from canvas.drawn import draw_many
from canvas.reference import Reference
from crash.fleet import Fleet, slaughter
from crash.forms import rarely
from rig.redis import RedisServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]
SEED = int(os.environ.get("WORKFLOWS_SEED", "1"))
WORKFLOWS = int(os.environ.get("WORKFLOWS", "1")) * 200
ROUNDS = 6
PATIENCE = 30


class Place(NamedTuple):
    broker: str
    backend: str


@pytest.fixture(params=["sqlite", "redis", rarely("apart")])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where messages and results are; `apart`: on two servers, so that they are not committed together."""
    if request.param == "sqlite":
        yield Place("", "")
        return
    durable: RedisServer = request.getfixturevalue("durable")
    apart = f"sqlite:///{tmp_path}/results.db"
    yield Place(durable.url(), apart if request.param == "apart" else durable.url())


def nodes(fleet: Fleet) -> dict[int, set[str]]:
    """The tasks that ran to their end: number to task ids."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for line in fleet.lines():
        word, number, *rest = line.split()
        if word == "node":
            found[int(number)].add(rest[0])
    return found


def test_workflows_end_as_they_must_while_workers_are_killed(place: Place, make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(broker=place.broker, backend=place.backend)
    source, reference = random.Random(SEED), Reference()
    for spec in draw_many(SEED, WORKFLOWS):
        reference.run(spec)
    fleet.client(
        "from canvas import drawn\n"
        "import oracle_app\n"
        f"specs = drawn.draw_many({SEED}, {WORKFLOWS})\n"
        "oracle_app.sent = [(spec, drawn.build(spec, node, app).apply_async()) for spec in specs]\n"
    )
    workers = [fleet.start(), fleet.start()]
    for round in range(1, ROUNDS + 1):
        goal = round * len(reference.ran) // (ROUNDS + 1)
        fleet.wait(lambda goal=goal: len(nodes(fleet)) >= goal)
        doomed = workers.pop(source.randrange(2))
        slaughter(doomed)
        workers.append(fleet.start())

    trouble = fleet.client(
        "from canvas.drawn import check\n"
        "from canvas.reference import Reference\n"
        "import oracle_app\n"
        "reference = Reference()\n"
        "for spec, result in oracle_app.sent:\n"
        f"    check(spec, result, reference, {PATIENCE})\n",
        timeout=4 * PATIENCE,
    )
    assert not trouble, trouble
    fleet.wait(fleet.idle)
    assert sorted(nodes(fleet)) == sorted(reference.ran)
    doubled = {number: ids for number, ids in nodes(fleet).items() if len(ids) > 1}
    assert not doubled, f"sent more than once: {doubled}"
