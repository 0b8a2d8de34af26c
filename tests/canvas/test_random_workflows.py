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

from canvas.drawn import KINDS, act, build, check, numbered
from canvas.reference import Reference, Spec
from celery import Celery
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils import uuid

EXAMPLES, AT_ONCE = 90, 4
"""Workflows for each broker: one times the other, which is more than a thousand for three; a third for RabbitMQ."""
MORE = int(os.environ.get("WORKFLOWS", "1"))
GRACE = 30.0

_numbers = itertools.count(1)


def _task(kind: str, immutable: bool) -> Spec:
    return ("task", 0, kind, immutable)


tasks = st.builds(
    _task,
    st.sampled_from(KINDS),
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


class Ground:
    """An app with a worker, and what its tasks did."""

    def __init__(self, place: str, backend: str = "") -> None:
        self.app: Celery = TestApp(broker=place, backend=backend or place)
        self.ran: list[int] = []
        self.changed = threading.Condition()

        @self.app.task(name="node", bind=True, shared=False)
        def node(task: Any, *args: Any, number: int, kind: str) -> str:
            return act(task, args, number, kind, lambda: self.note(number))

        self.node = node

    def note(self, number: int) -> None:
        with self.changed:
            self.ran.append(number)
            self.changed.notify_all()


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
        yield _ground(stack, place)


@pytest.fixture(scope="module", params=["redis", "rpc"])
def rabbit_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Messages on RabbitMQ, and results in Redis or with the messages."""
    node, vhosts = request.getfixturevalue("rabbitmq_server"), request.getfixturevalue("rabbitmq_vhosts")
    backend = "rpc://"
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        backend = server.url()
    with ExitStack() as stack:
        yield _ground(stack, node.url(next(vhosts)), backend)


def _ground(stack: ExitStack, place: str, backend: str = "") -> Ground:
    ground = Ground(place, backend)
    stack.callback(ground.app.close)
    stack.enter_context(
        start_worker(ground.app, pool="threads", concurrency=4, perform_ping_check=False, shutdown_timeout=GRACE)
    )
    return ground


# The worker's threads draw their jitter from `random` meanwhile, which is no part of what is drawn here.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(
    max_examples=EXAMPLES * MORE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=st.lists(specs, min_size=AT_ONCE, max_size=AT_ONCE))
def test_real_outcomes_are_those_of_the_reference(ground: Ground, drawn: list[Spec]) -> None:
    _compare(ground, drawn)


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(
    max_examples=EXAMPLES // 3 * MORE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=st.lists(specs, min_size=AT_ONCE, max_size=AT_ONCE))
def test_outcomes_over_rabbitmq_are_those_of_the_reference(rabbit_ground: Ground, drawn: list[Spec]) -> None:
    _compare(rabbit_ground, drawn)


def _compare(ground: Ground, drawn: list[Spec]) -> None:
    workflows = [numbered(spec, _numbers) for spec in drawn]
    ground.ran.clear()
    sent = [(spec, build(spec, ground.node, ground.app).apply_async()) for spec in workflows]
    reference = Reference()
    for spec, result in sent:
        check(spec, result, reference, GRACE)
    with ground.changed:  # what failed may have ended before the tasks beside it
        ground.changed.wait_for(lambda: len(ground.ran) >= len(reference.ran), GRACE)
    assert sorted(ground.ran) == sorted(reference.ran)
