"""Limits while workers are killed: never more at a time than a key allows, and no place stays with the dead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

from crash.fleet import Fleet
from crash.forms import Form, forms

pytestmark = pytest.mark.crash


SHORT, FULL = Form(300, 2.0, 1), Form(3_000, 10.0, 4, again=8.0)


@forms(SHORT, FULL)
def test_holders_of_many_keys_are_killed_on_redis(make_fleet: Callable[..., Fleet], redis_url: str, form: Form) -> None:
    """Matrix row 34: a third as many hot keys as tasks, one slot each."""
    kill_holders(make_fleet(broker=redis_url, lease=form.lease), form)


@forms(SHORT, FULL)
def test_holders_of_many_keys_are_killed_on_sqlite(make_fleet: Callable[..., Fleet], form: Form) -> None:
    """Matrix row 34."""
    kill_holders(make_fleet(lease=form.lease), form)


def kill_holders(fleet: Fleet, form: Form) -> None:
    keys = form.tasks // 3
    fleet.start(ready=True, concurrency=3)
    fleet.client(f"with app.bulk():\n    for n in range({form.tasks}):\n        keyed.delay(n, n % {keys}, 0.005)\n")
    for round in range(1, form.rounds + 1):
        doomed = fleet.start(ready=True, concurrency=3)
        fleet.wait(lambda goal=round * form.tasks // (form.rounds + 4): entered(fleet) >= goal, 120)
        doomed.kill()
        doomed.wait(30)
    fleet.wait(lambda: left(fleet) >= form.tasks, 120)
    fleet.wait(fleet.idle, 60)
    assert fleet.client("[s] = app.broker.stats(['celery']); print(s.parked)").strip() == "0"
    check_one_at_a_time(fleet, form)


def entered(fleet: Fleet) -> int:
    return sum(line.startswith("in ") for line in fleet.log.read_text().splitlines())


def left(fleet: Fleet) -> int:
    """How many different tasks have ended."""
    return len({line.split()[2] for line in fleet.log.read_text().splitlines() if line.startswith("out ")})


def check_one_at_a_time(fleet: Fleet, form: Form) -> None:
    """Whoever comes in finds nobody there, or one who was killed, whose place was free when its lease had ended."""
    events: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for line in fleet.log.read_text().splitlines():
        what, key, number, moment = line.split()
        events[key].append((float(moment), what, number))
    for key, happened in events.items():
        inside: tuple[str, float] | None = None
        for moment, what, number in sorted(happened):
            if what == "out":
                inside = None
                continue
            if inside is not None:
                waited = moment - inside[1]
                assert waited >= form.lease / 2, f"key {key}: {number} came in {waited:.3f} s after {inside[0]}"
                kept = f"key {key}: the place of {inside[0]} was kept for {waited:.1f} s"
                assert waited <= form.lease * 1.5 + form.again, kept
            inside = number, moment
