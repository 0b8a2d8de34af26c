"""Random workflows end on real workers as `reference.py` says they must."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canvas.reference import Failed, Reference, Spec, shown
from celery import Celery, chain, chord, group
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils import uuid

EXAMPLES, AT_ONCE = 90, 4
"""Workflows for each broker: one times the other, which is more than a thousand for three."""
MORE = int(os.environ.get("WORKFLOWS", "1"))
GRACE = 20.0

_numbers = itertools.count(1)


def _task(kind: str, immutable: bool) -> Spec:
    return ("task", 0, kind, immutable)


tasks = st.builds(
    _task,
    st.sampled_from(["ok"] * 8 + ["retry", "retry", "fail", "revoked", "expired"]),
    st.sampled_from([False] * 5 + [True]),
)


def _nest(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    parts = st.lists(inner, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.tuples(st.just("group"), parts),
        st.tuples(st.just("chord"), st.lists(inner, max_size=4).map(tuple), inner),
    )


specs = st.recursive(tasks, _nest, max_leaves=12) | st.just(("group", ()))


def numbered(spec: Spec) -> Spec:
    """With a number of its own for every task."""
    if spec[0] == "task":
        return ("task", next(_numbers), *spec[2:])
    if spec[0] == "chord":
        return ("chord", tuple(map(numbered, spec[1])), numbered(spec[2]))
    return (spec[0], tuple(map(numbered, spec[1])))


class Ground:
    """An app with a worker, and what its tasks did."""

    def __init__(self, place: str) -> None:
        self.app: Celery = TestApp(broker=place, backend=place)
        self.ran: list[int] = []
        self.changed = threading.Condition()

        @self.app.task(name="node", bind=True, shared=False)
        def node(task: Any, *args: Any, number: int, kind: str) -> str:
            if kind == "fail":
                raise ValueError(number)
            if kind == "retry" and task.request.retries < 2:
                raise task.retry(countdown=0, max_retries=3)
            with self.changed:
                self.ran.append(number)
                self.changed.notify_all()
            return shown(number, args)

        self.node = node

    def build(self, spec: Spec) -> Any:
        if spec[0] == "task":
            _, number, kind, immutable = spec
            signature = self.node.signature(kwargs={"number": number, "kind": kind}, immutable=immutable, app=self.app)
            if kind == "expired":
                signature.set(expires=-10.0)
            elif kind == "revoked":
                signature.set(task_id=uuid())
                self.app.control.revoke(signature.id)
            return signature
        parts = [self.build(part) for part in spec[1]]
        if spec[0] == "chain":
            return chain(*parts, app=self.app)
        if spec[0] == "group":
            return group(parts, app=self.app)
        return chord(parts, self.build(spec[2]), app=self.app)


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ExitStack() as stack:
        if request.param == "redis":
            server = request.getfixturevalue("redis_server")
            server.command("FLUSHALL")
            place = server.url()
        elif request.param == "sqlite":
            place = f"sqlite:///{tmp_path_factory.mktemp('canvas')}/canvas.db"
        else:
            place = f"memory://{uuid()}"
        ground = Ground(place)
        stack.callback(ground.app.close)
        stack.enter_context(start_worker(ground.app, pool="threads", concurrency=4, perform_ping_check=False))
        yield ground


def outcome(result: Any) -> Any:
    """What became of it, in the words of the reference."""
    if hasattr(result, "results"):
        return [outcome(part) for part in result.results]
    try:
        return result.get(timeout=GRACE)
    except Exception as error:  # noqa: BLE001 - the outcome is what is asked for
        return Failed(type(error).__name__)


def flat(value: Any) -> Any:
    """Groups of groups one by one."""
    if not isinstance(value, list):
        return value
    return [leaf for part in value for leaf in (flat(part) if isinstance(part, list) else [part])]


# The worker's threads draw their jitter from `random` meanwhile, which is no part of what is drawn here.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(
    max_examples=EXAMPLES * MORE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=st.lists(specs, min_size=AT_ONCE, max_size=AT_ONCE))
def test_real_outcomes_are_those_of_the_reference(ground: Ground, drawn: list[Spec]) -> None:
    workflows = [numbered(spec) for spec in drawn]
    ground.ran.clear()
    sent = [(spec, ground.build(spec).apply_async()) for spec in workflows]
    expected_runs: list[int] = []
    for spec, result in sent:
        reference = Reference()
        expected = reference.run(spec)
        expected_runs += reference.ran
        if result is not None:
            ended = flat(outcome(result))
            if isinstance(expected, Failed) and isinstance(ended, list):  # a group that was not begun: all its parts
                expected = [expected] * len(ended)
            assert ended == expected, spec
    with ground.changed:  # what failed may have ended before the tasks beside it
        ground.changed.wait_for(lambda: len(ground.ran) >= len(expected_runs), GRACE)
    assert sorted(ground.ran) == sorted(expected_runs)
