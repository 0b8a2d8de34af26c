"""Compositions that the original and we have to build alike: a name and a function of a namespace `n`.

This file is read by both. `n` has what `from celery import …` gives and the tasks of `tasks_of`.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any


def tasks_of(app: Any) -> dict[str, Any]:
    """The tasks of the compositions, made on *app*."""

    @app.task(name="add")
    def add(x: int = 0, y: int = 0) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: Any, more: int = 0) -> int:
        return _sum(numbers) + more

    @app.task(name="same")
    def same(*args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs else [list(args), kwargs]

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise ValueError("no")

    @app.task(name="told")
    def told(request: Any, exc: Any = None, traceback: Any = None) -> None:
        return None

    @app.task(name="swap", bind=True)
    def swap(self: Any, x: int) -> Any:
        raise self.replace(add.s(x, 10))

    return {task.name: task for task in (add, total, same, fail, told, swap)}


def _sum(numbers: Any) -> int:
    if isinstance(numbers, (list, tuple)):
        return sum(_sum(number) for number in numbers)
    return int(numbers)


def namespace(celery: Any, app: Any) -> SimpleNamespace:
    names = {
        name: getattr(celery, name) for name in ("chain", "group", "chord", "chunks", "xmap", "xstarmap", "signature")
    }
    app.finalize()
    return SimpleNamespace(**names, **tasks_of(app), app=app)


def again(signature: Any, n: Any) -> Any:
    """Through JSON and back."""
    return n.signature(json.loads(json.dumps(signature)), app=n.app)


def linked(signature: Any, callback: Any) -> Any:
    signature.link(callback)
    return signature


def guarded(signature: Any, errback: Any) -> Any:
    signature.link_error(errback)
    return signature


def frozen(signature: Any) -> Any:
    signature.freeze()
    return signature


def pair(n: Any) -> Any:
    return n.group(n.add.s(1, 1), n.add.s(2, 2))


def steps(n: Any) -> Any:
    return n.chain(n.add.s(1, 1), n.add.s(2))


def joined(n: Any) -> Any:
    return n.chord([n.add.s(1, 1), n.add.s(2, 2)], n.total.s())


BUILD = {
    # one task
    "task": lambda n: n.add.s(1, 1),
    "task immutable": lambda n: n.add.si(1, 1),
    "task options": lambda n: n.add.s(1, 1).set(priority=3, queue="q"),
    "task link": lambda n: linked(n.add.s(1, 1), n.add.s(2)),
    "task link_error": lambda n: guarded(n.add.s(1, 1), n.told.s()),
    "task link chain": lambda n: linked(n.add.s(1, 1), n.add.s(2) | n.add.s(3)),
    "task link group": lambda n: linked(n.add.s(1, 1), n.group(n.add.s(2), n.add.s(3))),
    "task frozen": lambda n: frozen(n.add.s(1, 1)),
    # chains
    "chain 0": lambda n: n.chain(),
    "chain 1": lambda n: n.chain(n.add.s(1, 1)),
    "chain 2": steps,
    "chain or": lambda n: n.add.s(1, 1) | n.add.s(2),
    "chain 3": lambda n: n.chain(n.add.s(1, 1), n.add.s(2), n.add.s(3)),
    "chain list": lambda n: n.chain([n.add.s(1, 1), n.add.s(2)]),
    "chain list 1": lambda n: n.chain([n.add.s(1, 1)]),
    "chain tuple": lambda n: n.chain((n.add.s(1, 1), n.add.s(2))),
    "chain generator": lambda n: n.chain(n.add.s(i) for i in range(3)),
    "chain of chains": lambda n: n.chain(steps(n), n.chain(n.add.s(3), n.add.s(4))),
    "chain in the middle": lambda n: n.chain(n.add.s(1, 1), n.chain(n.add.s(2), n.add.s(3)), n.add.s(4)),
    "chain | task": lambda n: steps(n) | n.add.s(3),
    "task | chain": lambda n: n.add.s(0, 1) | n.chain(n.add.s(2), n.add.s(3)),
    "chain | chain": lambda n: steps(n) | n.chain(n.add.s(3), n.add.s(4)),
    "chain |= task": lambda n: _ior(steps(n), n.add.s(3)),
    "chain of a group of one": lambda n: n.chain(n.add.s(1, 1), n.group(n.add.s(2))),
    "chain of a group of one first": lambda n: n.chain(n.group(n.add.s(1, 1)), n.add.s(2)),
    "chain of a group of one between": lambda n: n.chain(n.add.s(1, 1), n.group(n.add.s(2)), n.add.s(3)),
    "chain of only a group": lambda n: n.chain(pair(n)),
    "chain of only a group of one": lambda n: n.chain(n.group(n.add.s(1, 1))),
    "chain of only a chord": lambda n: n.chain(joined(n)),
    "chain of only a chain": lambda n: n.chain(steps(n)),
    "chain of dicts": lambda n: n.chain(dict(n.add.s(1, 1)), dict(n.add.s(2))),
    "chain immutable step": lambda n: n.chain(n.add.s(1, 1), n.add.si(2, 2), n.add.s(3)),
    "chain immutable": lambda n: _immutable(steps(n)),
    "chain options": lambda n: steps(n).set(queue="q", priority=5),
    "chain options of steps": lambda n: n.chain(n.add.s(1, 1).set(queue="a"), n.add.s(2).set(queue="b")),
    "chain link": lambda n: linked(steps(n), n.add.s(3)),
    "chain link_error": lambda n: guarded(steps(n), n.told.s()),
    "chain links of steps": lambda n: n.chain(linked(n.add.s(1, 1), n.add.s(5)), guarded(n.add.s(2), n.told.s())),
    "chain frozen": lambda n: frozen(steps(n)),
    "chain again": lambda n: again(steps(n), n),
    "chain clone": lambda n: steps(n).clone(),
    "chain clone args": lambda n: n.chain(n.add.s(1), n.add.s(2)).clone((5,)),
    "chain partial": lambda n: n.chain(n.add.s(1), n.add.s(2)),
    "chain | empty group": lambda n: steps(n) | n.group(),
    "chain of names": lambda n: n.chain(n.signature("far.away", (1,)), n.signature("far.off")),
    "chain with kwargs": lambda n: n.chain(n.add.s(x=1, y=2), n.same.s(a=1)),
    # groups
    "group 0": lambda n: n.group(),
    "group 0 list": lambda n: n.group([]),
    "group 1": lambda n: n.group(n.add.s(1, 1)),
    "group 2": pair,
    "group list": lambda n: n.group([n.add.s(1, 1), n.add.s(2, 2)]),
    "group generator": lambda n: n.group(n.add.s(i, i) for i in range(3)),
    "group of group": lambda n: n.group(pair(n)),
    "group of groups": lambda n: n.group(pair(n), n.add.s(3, 3)),
    "group of groups 2": lambda n: n.group(n.add.s(0, 0), pair(n), pair(n)),
    "group of groups of groups": lambda n: n.group(n.group(pair(n), n.add.s(3, 3)), n.add.s(4, 4)),
    "group of chains": lambda n: n.group(steps(n), n.add.s(3, 3) | n.add.s(4)),
    "group of chords": lambda n: n.group(joined(n), joined(n)),
    "group of a chain ending in a group": lambda n: n.group(n.add.s(1, 1) | pair(n), n.add.s(5, 5)),
    "group of a chain ending in a chord": lambda n: n.group(
        n.add.s(1, 1) | n.chord([n.add.s(1), n.add.s(2)], n.total.s()), n.add.s(5, 5)
    ),
    "group of an empty group": lambda n: n.group(n.group(), n.add.s(1, 1)),
    "group of dicts": lambda n: n.group([dict(n.add.s(1, 1)), dict(n.add.s(2, 2))]),
    "group frozen": lambda n: frozen(pair(n)),
    "group again": lambda n: again(pair(n), n),
    "group clone": lambda n: pair(n).clone(),
    "group clone args": lambda n: n.group(n.add.s(1), n.add.s(2)).clone((5,)),
    "group options": lambda n: pair(n).set(queue="q", priority=5),
    "group link": lambda n: linked(pair(n), n.add.s(3)),
    "group link_error": lambda n: guarded(pair(n), n.told.s()),
    "group link of a chain": lambda n: linked(n.group(steps(n), n.add.s(3, 3)), n.add.s(4)),
    "group link_error of a chain": lambda n: guarded(n.group(steps(n), n.add.s(3, 3)), n.told.s()),
    "group skew": lambda n: n.group(n.add.s(i, i) for i in range(3)).skew(start=1, stop=10),
    "group immutable": lambda n: _immutable(pair(n)),
    "group partial": lambda n: n.group(n.add.s(1), n.add.s(2)),
    "group | group": lambda n: pair(n) | n.group(n.total.s(), n.total.s()),
    "group | chain": lambda n: pair(n) | n.chain(n.total.s(), n.add.s(1)),
    "group | task": lambda n: pair(n) | n.total.s(),
    "group | task | task": lambda n: pair(n) | n.total.s() | n.add.s(3),
    "group of one | task": lambda n: n.group([n.add.s(1, 1)]) | n.total.s(),
    "group of one chain | task": lambda n: n.group([steps(n)]) | n.total.s(),
    "empty group | task": lambda n: n.group() | n.total.s(),
    "group of groups | task": lambda n: n.group(pair(n), n.add.s(3, 3)) | n.total.s(),
    "group of one group | task": lambda n: n.group(pair(n)) | n.total.s(),
    "group generator | task": lambda n: n.group(n.add.s(i, i) for i in range(2)) | n.total.s(),
    "group | chord": lambda n: pair(n) | n.chord([n.total.s(), n.total.s()], n.total.s()),
    "group | group | task": lambda n: pair(n) | n.group(n.total.s(), n.total.s()) | n.total.s(),
    "group | group | group": lambda n: pair(n) | n.group(n.total.s(), n.total.s()) | n.group(n.total.s(), n.total.s()),
    # tasks and chains before groups
    "task | group": lambda n: n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)),
    "task | group of one": lambda n: n.add.s(1, 1) | n.group([n.add.s(1)]),
    "task | group of one | task": lambda n: n.add.s(1, 1) | n.group([n.add.s(1)]) | n.add.s(5),
    "task | group | task": lambda n: n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.total.s(),
    "task | group | task | task": lambda n: n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.total.s() | n.add.s(1),
    "task | group | group": lambda n: (
        n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.group(n.total.s(), n.total.s())
    ),
    "task | group | group | task": lambda n: (
        n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.group(n.total.s(), n.total.s()) | n.total.s()
    ),
    "task | group | chain": lambda n: (
        n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.chain(n.total.s(), n.add.s(1))
    ),
    "chain | group": lambda n: steps(n) | n.group(n.add.s(1), n.add.s(2)),
    "chain | group | task": lambda n: steps(n) | n.group(n.add.s(1), n.add.s(2)) | n.total.s(),
    "chain(task, group, task)": lambda n: n.chain(n.add.s(1, 1), n.group(n.add.s(1), n.add.s(2)), n.total.s()),
    "chain(group, task)": lambda n: n.chain(pair(n), n.total.s()),
    "chain(group, task, task)": lambda n: n.chain(pair(n), n.total.s(), n.add.s(1)),
    "chain(group, group)": lambda n: n.chain(pair(n), n.group(n.total.s(), n.total.s())),
    "chain(group, group, task)": lambda n: n.chain(pair(n), n.group(n.total.s(), n.total.s()), n.total.s()),
    "chain(task, group of chains, task)": lambda n: n.chain(
        n.add.s(1, 1), n.group(n.add.s(1) | n.add.s(2), n.add.s(3)), n.total.s()
    ),
    "chain(group of groups, task)": lambda n: n.chain(n.group(pair(n), pair(n)), n.total.s()),
    "chain(chain(group of one), task)": lambda n: n.chain(n.chain(n.group(n.add.s(1, 1))), n.add.s(2)),
    "chain(chain(task, group of one), task)": lambda n: n.chain(
        n.chain(n.add.s(1, 1), n.group(n.add.s(2))), n.add.s(3)
    ),
    "chain(group of one) | task": lambda n: n.chain(n.group(n.add.s(1, 1))) | n.total.s(),
    "chain of two chains with groups": lambda n: n.chain(
        n.chain(n.add.s(1, 1), n.group(n.add.s(1), n.add.s(2))), n.chain(n.total.s(), n.add.s(4))
    ),
    # chords
    "chord": joined,
    "chord call": lambda n: n.chord([n.add.s(1, 1), n.add.s(2, 2)], n.total.s(1)),
    "chord of one": lambda n: n.chord([n.add.s(1, 1)], n.total.s()),
    "chord of a task": lambda n: n.chord(n.add.s(1, 1), n.total.s()),
    "chord of a chain": lambda n: n.chord(steps(n), n.total.s()),
    "chord of chains": lambda n: n.chord([steps(n), n.add.s(3, 3) | n.add.s(4)], n.total.s()),
    "chord of a group": lambda n: n.chord(pair(n), n.total.s()),
    "chord of a generator": lambda n: n.chord((n.add.s(i, i) for i in range(3)), n.total.s()),
    "chord of nothing": lambda n: n.chord([], n.total.s()),
    "chord of nothing | task": lambda n: n.chord([], n.total.s()) | n.add.s(1),
    "chord of a group and a task": lambda n: n.chord([n.add.s(1, 1), pair(n)], n.total.s()),
    "chord of groups": lambda n: n.chord([pair(n), pair(n)], n.total.s()),
    "chord of chords": lambda n: n.chord([joined(n), joined(n)], n.total.s()),
    "chord of a chord and a task": lambda n: n.chord([joined(n), n.add.s(5, 5)], n.total.s()),
    "chord of chords of chords": lambda n: n.chord([n.chord([joined(n), n.add.s(5, 5)], n.total.s())], n.total.s()),
    "chord of a chain with a group at its end": lambda n: n.chord(
        [n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2))], n.total.s()
    ),
    "chord of a chain with a group inside": lambda n: n.chord(
        [n.add.s(1, 1) | n.group(n.add.s(1), n.add.s(2)) | n.total.s(), n.add.s(9, 9)], n.total.s()
    ),
    "chord of a chain ending in a chord": lambda n: n.chord(
        [n.chain(n.add.s(1, 1), n.chord([n.add.s(1), n.add.s(2)], n.total.s()))], n.total.s()
    ),
    "chord to chain": lambda n: n.chord([n.add.s(1, 1), n.add.s(2, 2)], n.chain(n.total.s(), n.add.s(1))),
    "chord to group": lambda n: n.chord([n.add.s(1, 1), n.add.s(2, 2)], n.group(n.total.s(), n.total.s(1))),
    "chord to chord": lambda n: n.chord(
        [n.add.s(1, 1), n.add.s(2, 2)], n.chord([n.total.s(), n.total.s(1)], n.total.s())
    ),
    "chord to a chain with a group": lambda n: n.chord(
        [n.add.s(1, 1), n.add.s(2, 2)], n.chain(n.total.s(), n.group(n.add.s(1), n.add.s(2)))
    ),
    "chord to a chain with a chord": lambda n: n.chord(
        [n.add.s(1, 1), n.add.s(2, 2)], n.chain(n.total.s(), n.group(n.add.s(1), n.add.s(2)), n.total.s())
    ),
    "chord | task": lambda n: joined(n) | n.add.s(1),
    "chord | task | task": lambda n: joined(n) | n.add.s(1) | n.add.s(2),
    "chord | chain": lambda n: joined(n) | n.chain(n.add.s(1), n.add.s(2)),
    "chord | group": lambda n: joined(n) | n.group(n.add.s(3), n.add.s(4)),
    "chord | task | group": lambda n: joined(n) | n.add.s(1) | n.group(n.add.s(3), n.add.s(4)),
    "chord | group | task": lambda n: joined(n) | n.group(n.add.s(3), n.add.s(4)) | n.total.s(),
    "chord | chord": lambda n: joined(n) | n.chord([n.add.s(3), n.add.s(4)], n.total.s()),
    "task | chord": lambda n: n.add.s(1, 1) | n.chord([n.add.s(3), n.add.s(4)], n.total.s()),
    "task | chord | task": lambda n: n.add.s(1, 1) | n.chord([n.add.s(3), n.add.s(4)], n.total.s()) | n.add.s(1),
    "chain | chord": lambda n: steps(n) | n.chord([n.add.s(3), n.add.s(4)], n.total.s()),
    "chain | chord | chain": lambda n: (
        steps(n) | n.chord([n.add.s(3), n.add.s(4)], n.total.s()) | n.chain(n.add.s(1), n.add.s(2))
    ),
    "chain(chord, task)": lambda n: n.chain(joined(n), n.add.s(1)),
    "chain(task, chord, task)": lambda n: n.chain(
        n.add.s(1, 1), n.chord([n.add.s(3), n.add.s(4)], n.total.s()), n.add.s(1)
    ),
    "chain(chord, chord)": lambda n: n.chain(joined(n), n.chord([n.add.s(3), n.add.s(4)], n.total.s())),
    "chain(chord, group)": lambda n: n.chain(joined(n), n.group(n.add.s(3), n.add.s(4))),
    "chord again": lambda n: again(joined(n), n),
    "chord clone": lambda n: joined(n).clone(),
    "chord clone args": lambda n: n.chord([n.add.s(1), n.add.s(2)], n.total.s()).clone((5,)),
    "chord frozen": lambda n: frozen(joined(n)),
    "chord options": lambda n: joined(n).set(queue="q", priority=5),
    "chord link": lambda n: linked(joined(n), n.add.s(3)),
    "chord link_error": lambda n: guarded(joined(n), n.told.s()),
    "chord link_error of body and header": lambda n: n.chord(
        [guarded(n.add.s(1, 1), n.told.s()), n.add.s(2, 2)], guarded(n.total.s(), n.told.s())
    ),
    "chord immutable": lambda n: _immutable(joined(n)),
    "chord immutable body": lambda n: n.chord([n.add.s(1, 1), n.add.s(2, 2)], n.same.si("done")),
    "chord partial": lambda n: n.chord([n.add.s(1), n.add.s(2)], n.total.s()),
    "chord options of parts": lambda n: n.chord(
        [n.add.s(1, 1).set(queue="a"), n.add.s(2, 2)], n.total.s().set(queue="b")
    ),
    "chord max_retries": lambda n: n.chord([n.add.s(1, 1)], n.total.s(), interval=3, max_retries=7),
    # maps
    "map": lambda n: n.same.map([1, 2, 3]),
    "starmap": lambda n: n.add.starmap([(1, 1), (2, 2)]),
    "xmap": lambda n: n.xmap(n.same.s(), [1, 2]),
    "xmap of a task": lambda n: n.xmap(n.same, [1, 2]),
    "xstarmap": lambda n: n.xstarmap(n.add.s(), [(1, 1), (2, 2)]),
    "chunks": lambda n: n.add.chunks([(i, i) for i in range(5)], 2),
    "chunks group": lambda n: n.add.chunks([(i, i) for i in range(5)], 2).group(),
    "chunks(task)": lambda n: n.chunks(n.add.s(), [(i, i) for i in range(5)], 2),
    "chunks generator": lambda n: n.add.chunks(((i, i) for i in range(5)), 3).group(),
    "map again": lambda n: again(n.same.map([1, 2]), n),
    "chunks again": lambda n: again(n.add.chunks([(1, 1), (2, 2)], 1), n),
    "chain with map": lambda n: n.chain(n.same.map([1, 2]), n.total.s()),
    "group of maps": lambda n: n.group(n.same.map([1, 2]), n.add.starmap([(3, 3)])),
    "chord of maps": lambda n: n.chord([n.same.map([1, 2]), n.add.starmap([(3, 3)])], n.total.s()),
    "chunks group | task": lambda n: n.add.chunks([(i, i) for i in range(5)], 2).group() | n.total.s(),
    # stamps
    "stamp task": lambda n: _stamped(n.add.s(1, 1)),
    "stamp chain": lambda n: _stamped(steps(n)),
    "stamp group": lambda n: _stamped(pair(n)),
    "stamp chord": lambda n: _stamped(joined(n)),
    "stamp chord of chains": lambda n: _stamped(n.chord([steps(n), n.add.s(3, 3)], n.chain(n.total.s(), n.add.s(1)))),
    "stamp chain with links": lambda n: _stamped(
        n.chain(linked(n.add.s(1, 1), n.add.s(5)), guarded(n.add.s(2), n.told.s()))
    ),
}

SEND = {
    # how a composition is sent, where it is not by a plain apply_async()
    "chain partial": lambda sig: sig.apply_async((5,)),
    "group partial": lambda sig: sig.apply_async((5,)),
    "chord partial": lambda sig: sig.apply_async((5,)),
    "chain immutable": lambda sig: sig.apply_async((5,)),
    "group immutable": lambda sig: sig.apply_async((5,)),
    "chord immutable": lambda sig: sig.apply_async((5,)),
    "chain 2": lambda sig: sig.apply_async(priority=7),
    "group 2": lambda sig: sig.apply_async(priority=7),
    "chord": lambda sig: sig.apply_async(priority=7),
    "chain 3": lambda sig: sig.apply_async(task_id="my-id"),
    "group list": lambda sig: sig.apply_async(task_id="my-id"),
    "chord of a group": lambda sig: sig.apply_async(task_id="my-id"),
    "chain or": lambda sig: sig.delay(),
    "group generator": lambda sig: sig.delay(),
    "chord of a generator": lambda sig: sig.delay(),
    "chord call": lambda sig: sig(),
    "chain list": lambda sig: sig(),
    "chain | chain": lambda sig: sig.apply_async(root_id="root", parent_id="parent"),
    "group of chains": lambda sig: sig.apply_async(root_id="root", parent_id="parent"),
    "chord of chains": lambda sig: sig.apply_async(root_id="root", parent_id="parent"),
    "chain tuple": lambda sig: sig.apply_async(link=sig.tasks[0].clone(), link_error=sig.tasks[0].clone()),
    "group frozen": lambda sig: sig.apply_async(link=sig.tasks[0].clone(), link_error=sig.tasks[0].clone()),
    "chord frozen": lambda sig: sig.apply_async(link=sig.body.clone(), link_error=sig.body.clone()),
    "chain of only a group": lambda sig: sig.apply_async(queue="other"),
    "chain(group, task)": lambda sig: sig.apply_async(queue="other"),
    "chain(task, group, task)": lambda sig: sig.apply_async(queue="other", expires=600),
    "chain clone args": lambda sig: sig.apply_async(kwargs={"y": 4}),
}


def _ior(left: Any, right: Any) -> Any:
    left |= right
    return left


def _immutable(signature: Any) -> Any:
    signature.set_immutable(True)
    return signature


def _stamped(signature: Any) -> Any:
    signature.stamp(color="red", stamped_headers=["color"])
    return signature
