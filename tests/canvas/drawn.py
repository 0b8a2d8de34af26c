"""Workflows that are drawn at random: what their tasks do, how they are built, and whether they ended as they must."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from canvas.reference import Failed, Reference, Silent, Spec, ends, shown
from celery import Celery, Task, chain, chord, group
from celery.exceptions import Ignore
from celery.utils import uuid

PATIENCE = 30.0
"""Seconds within which a worker that is up answers."""
KINDS = [*["ok"] * 8, "retry", "retry", "fail", "revoked", "expired", "ignore", "quiet"]
"""What a task may do, as often as it should: see `act`. `revoked`, `expired` and `quiet` are how it is sent."""


def act(task: Task[Any, Any], args: tuple[Any, ...], number: int, kind: str, ran: Callable[[], None]) -> str:
    """What task *number* does; it calls *ran* when it comes to its end."""
    if kind == "fail":
        raise ValueError(number)
    if kind == "ignore":
        raise Ignore(number)
    if kind == "retry" and task.request.retries < 2:
        raise task.retry(countdown=0, max_retries=3)
    ran()
    return shown(number, args)


def build(spec: Spec, node: Task[Any, Any], app: Celery) -> Any:
    """The canvas of *spec*, whose tasks are *node*."""
    if spec[0] == "task":
        _, number, kind, immutable = spec
        signature = node.signature(kwargs={"number": number, "kind": kind}, immutable=immutable, app=app)
        if kind == "expired":
            signature.set(expires=-10.0)
        elif kind == "quiet":
            signature.set(ignore_result=True)
        elif kind == "revoked":
            signature.set(task_id=uuid())
            # Where no broker keeps revocations, the worker has to know before the task is sent.
            heard = {} if app.broker.can.revokes else {"reply": True, "limit": 1, "timeout": PATIENCE}
            app.control.revoke(signature.id, **heard)
        return signature
    parts = [build(part, node, app) for part in spec[1]]
    if spec[0] == "chain":
        return chain(*parts, app=app)
    if spec[0] == "group":
        return group(parts, app=app)
    return chord(parts, build(spec[2], node, app), app=app)


def numbered(spec: Spec, numbers: Iterator[int]) -> Spec:
    """With a number of its own for every task."""
    if spec[0] == "task":
        return ("task", next(numbers), *spec[2:])
    parts = tuple(numbered(part, numbers) for part in spec[1])
    return (spec[0], parts, *(numbered(body, numbers) for body in spec[2:]))


def draw(source: random.Random, depth: int) -> Spec:
    """A workflow of at most *depth* levels, its tasks not numbered."""
    kind = source.choice(["task", "chain", "group", "chord"]) if depth else "task"
    if kind == "task":
        return ("task", 0, source.choice(KINDS), source.random() < 0.2)
    parts = tuple(draw(source, depth - 1) for _ in range(source.randint(1, 3)))
    return (kind, parts) if kind != "chord" else (kind, parts, draw(source, depth - 1))


def draw_many(seed: int, count: int, depth: int = 4) -> list[Spec]:
    """*count* workflows, the same ones for the same *seed*, all their tasks numbered."""
    source, numbers = random.Random(seed), itertools.count(1)
    return [numbered(draw(source, depth), numbers) for _ in range(count)]


def check(spec: Spec, result: Any, reference: Reference, timeout: float) -> None:
    """Assert that the workflow ends as *reference*, which goes on counting, says; *timeout*: seconds a result."""
    expected = reference.run(spec)
    if result is None:  # an empty group
        return
    found, kinds = leaves(result), ends(spec)
    # Of a group that was not begun all parts have failed.
    wanted = [expected] * len(found) if isinstance(expected, Failed) else expected
    if not isinstance(wanted, list):
        wanted = [wanted]
    assert len(found) == len(wanted), spec
    for leaf, value, kind in zip(found, wanted, kinds, strict=True):
        if kind == "quiet" or isinstance(value, Silent):
            assert leaf.state == "PENDING", spec
        else:
            ended = outcome(leaf, timeout)
            assert ended == value, f"{leaf.id} ended as {ended}, not {value}: {spec}"


def leaves(result: Any) -> list[Any]:
    """The results of single tasks in it, in order."""
    if not hasattr(result, "results"):
        return [result]
    return [leaf for part in result.results for leaf in leaves(part)]


def outcome(result: Any, timeout: float) -> Any:
    """What became of one task, in the words of the reference."""
    try:
        return result.get(timeout=timeout)
    except Exception as error:  # noqa: BLE001 - the outcome is what is asked for
        return Failed(type(error).__name__)
