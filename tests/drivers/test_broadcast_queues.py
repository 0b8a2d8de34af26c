"""kombu's `Broadcast` in `task_queues`: every worker runs the task once, whatever the broker is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import pytest
from kombu.common import Broadcast

from celery import Celery
from celery.brokers.base import Broker, Consumer
from celery.brokers.memory import MemoryBroker
from celery.brokers.redis import RedisBroker
from celery.brokers.sqlite import SQLiteBroker
from celery.contrib.testing.app import TestApp
from celery.contrib.testing.worker import start_worker
from celery.utils.clock import FakeClock
from celery.wire.message import Delivery, Exchange, Outgoing, Queue, Settlement

SOON = 30.0
Ran = SimpleQueue[tuple[str, int]]


def make(url: str, name: str, ran: Ran) -> Celery:
    """An application as each process has it: its queue has a name of its own."""
    app = TestApp(broker=url, backend="disabled://")
    app.conf.task_queues = (Broadcast("broadcast_tasks"),)
    app.conf.task_routes = {"reload_cache": {"queue": "broadcast_tasks", "exchange": "broadcast_tasks"}}

    @app.task(name="reload_cache", shared=False)
    def reload_cache(number: int) -> None:
        ran.put((name, number))

    return app


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, rabbitmq_url: str) -> str:
    if request.param == "redis":
        return redis_url
    if request.param == "rabbitmq":
        return rabbitmq_url
    return {"memory": f"memory://{tmp_path.name}", "sqlite": f"sqlite:///{tmp_path}/broker.db"}[request.param]


def collect(ran: Ran, count: int) -> list[tuple[str, int]]:
    return sorted(ran.get(timeout=SOON) for _ in range(count))


@pytest.fixture
def client(url: str) -> Iterator[Celery]:
    app = make(url, "client", SimpleQueue())
    yield app
    app.close()


def test_every_worker_runs_it_once(url: str, client: Celery) -> None:
    ran: Ran = SimpleQueue()
    with ExitStack() as stack:
        for name in ("one", "two"):
            app = make(url, name, ran)
            stack.callback(app.close)
            stack.enter_context(start_worker(app, pool="threads", concurrency=1, perform_ping_check=False))
        for number in range(3):
            client.tasks["reload_cache"].delay(number)
        assert collect(ran, 6) == [(name, number) for name in ("one", "two") for number in range(3)]
        client.tasks["reload_cache"].apply_async((3,), countdown=0.2)
        assert collect(ran, 2) == [("one", 3), ("two", 3)]
    assert ran.empty()


def test_nobody_listening_is_no_error_and_leaves_nothing(client: Celery) -> None:
    client.tasks["reload_cache"].delay(1)
    assert sum(stats.ready for stats in client.broker.stats()) == 0


def test_its_alias_selects_it(url: str) -> None:
    ran: Ran = SimpleQueue()
    app = make(url, "one", ran)
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, queues=["broadcast_tasks"]):
        app.tasks["reload_cache"].delay(1)
        assert collect(ran, 1) == [("one", 1)]
        [name] = app.amqp.queues.consume_from
        assert name.startswith("bcast.")
        assert name in {stats.name for stats in app.broker.stats()}
    if not url.startswith("amqp"):  # RabbitMQ deletes it by itself, in its time
        assert name not in {stats.name for stats in app.broker.stats()}
    app.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def far(request: pytest.FixtureRequest, redis_url: str, rabbitmq_url: str) -> str:
    return redis_url if request.param == "redis" else rabbitmq_url


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_its_alias_is_added_and_cancelled_while_a_task_runs(far: str) -> None:
    """The consumer that has the task stays until that ends. It takes nothing of what comes meanwhile, and listens to
    nobody."""
    ran: Ran = SimpleQueue()
    app, may_end = make(far, "one", ran), threading.Event()
    app.conf.task_queues = (*app.conf.task_queues, "usual")

    @app.task(shared=False)
    def wait() -> None:
        ran.put(("wait", 0))
        may_end.wait(3 * SOON)

    @app.task(shared=False)
    def usual(number: int) -> None:
        ran.put(("usual", number))

    def ask(command: str, *args: object) -> object:
        [answer] = getattr(app.control, command)(*args, reply=True, timeout=SOON, limit=1)
        return next(iter(answer.values()))

    def listens() -> list[str]:
        found = app.control.inspect(timeout=SOON, limit=1).active_queues()["one@here"]
        return [queue["alias"] or queue["name"] for queue in found]

    try:
        with start_worker(
            app, pool="threads", concurrency=2, perform_ping_check=False, queues=["usual"], hostname="one@here"
        ):
            assert ask("add_consumer", "broadcast_tasks") == {"ok": "add consumer broadcast_tasks"}
            wait_until(lambda: listens() == ["usual", "broadcast_tasks"])
            [name] = {queue.name for queue in app.amqp.queues.consuming()} - {"usual"}
            for number in range(3):
                app.tasks["reload_cache"].delay(number)
            assert collect(ran, 3) == [("one", number) for number in range(3)]

            wait.apply_async(queue="usual")
            assert collect(ran, 1) == [("wait", 0)]
            assert ask("cancel_consumer", "broadcast_tasks") == {"ok": "no longer consuming from broadcast_tasks"}
            wait_until(lambda: listens() == ["usual"])
            for number in range(10):
                usual.apply_async((number,), queue="usual")
                assert collect(ran, 1) == [("usual", number)]
                app.tasks["reload_cache"].delay(number)
            assert name not in {queue.name for queue in app.amqp.queues.consuming()}

            ask("add_consumer", "broadcast_tasks")
            wait_until(lambda: listens() == ["usual", "broadcast_tasks"])
            app.tasks["reload_cache"].delay(4)
            assert collect(ran, 1) == [("one", 4)]
            may_end.set()
        assert ran.empty()
    finally:
        may_end.set()
        app.close()


def test_nothing_is_missed_while_the_queues_of_a_worker_change(far: str) -> None:
    ran: Ran = SimpleQueue()
    app, enough = make(far, "one", ran), threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not enough.is_set():
            app.tasks["reload_cache"].delay(sent)
            sent += 1
            enough.wait(0.005)

    try:
        with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
            sender = threading.Thread(target=send)
            sender.start()
            try:
                for _ in range(10):
                    for command in (app.control.add_consumer, app.control.cancel_consumer):
                        assert command("extra", reply=True, timeout=SOON, limit=1)
            finally:
                enough.set()
                sender.join(SOON)
            assert collect(ran, sent) == [("one", number) for number in range(sent)]
    finally:
        app.close()


MINE = Queue("mine", Exchange("news", "fanout"), auto_delete=True)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def connect(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Callable[[], Broker]]:
    """Makes brokers of one place, that know the queue `mine` as their listener's own."""
    clock, made = FakeClock(), list[Broker]()

    def connect() -> Broker:
        broker: Broker
        if request.param == "memory":
            broker = MemoryBroker(f"memory://{tmp_path.name}", clock=clock)
        elif request.param == "sqlite":
            broker = SQLiteBroker(f"sqlite:///{tmp_path}/own.db", clock=clock)
        else:
            broker = RedisBroker(redis_url, clock=clock)
        broker.plan = lambda: [MINE]
        made.append(broker)
        return broker

    yield connect
    for broker in made:
        broker.close()


def say(broker: Broker, word: str) -> None:
    broker.publish([Outgoing(b'{"body": "%s"}' % word.encode(), "news", "news")])


def hear(consumer: Consumer, count: int) -> list[Delivery]:
    """What comes, with a moment for more than *count*."""
    deadline, found = time.monotonic() + SOON, list[Delivery]()
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.claim(10, 0.1)
    return found + consumer.claim(10, 0.1)


def is_known(broker: Broker) -> bool:
    return "mine" in {stats.name for stats in broker.stats()}


def test_two_consumers_of_one_worker_hear_it_once(connect: Callable[[], Broker]) -> None:
    """As while a worker's queues change; the one that stays keeps what has come."""
    broker = connect()
    former = broker.consumer(["mine"], name="one")
    now = broker.consumer(["mine", "more"], name="one")
    say(broker, "first")
    assert len(hear(now, 1)) == 1
    say(broker, "second")
    [second] = hear(former, 1)
    former.release([second])
    former.close()
    assert [delivery.envelope for delivery in hear(now, 1)] == [second.envelope]
    say(broker, "third")
    assert len(hear(now, 1)) == 1
    assert is_known(broker)
    now.close()
    assert not is_known(broker)


def test_one_whose_lease_ended_has_lost_it_and_goes_on(connect: Callable[[], Broker]) -> None:
    broker, other = connect(), connect()
    consumer = broker.consumer(["mine"], name="one")
    say(broker, "before")
    [before] = hear(consumer, 1)
    broker.clock.advance(2 * broker.lease)  # type: ignore[attr-defined]  # a FakeClock
    assert other.sweep() == 0
    assert not is_known(other)
    assert consumer.renew() is False
    assert hear(consumer, 0) == []
    assert consumer.settle([Settlement(before)]) == [False]
    assert is_known(other)
    say(other, "after")
    assert len(hear(consumer, 1)) == 1
    consumer.close()
    assert not is_known(other)


def test_dead_messages_stay_until_they_are_dropped(connect: Callable[[], Broker]) -> None:
    """Nobody would get them if they were replayed."""
    broker = connect()
    consumer = broker.consumer(["mine"], name="one")
    say(broker, "bad")
    [bad] = hear(consumer, 1)
    consumer.settle([Settlement(bad, "dead", 0.0, "it is bad")])
    consumer.close()
    [dead] = broker.entries("dead")
    assert (dead.queue, dead.reason) == ("mine", "it is bad")
    broker.sweep()
    assert is_known(broker)
    assert broker.replay([dead.tag]) == 0
    with_listener = broker.consumer(["mine"], name="one")
    assert broker.replay([dead.tag]) == 1
    [again] = hear(with_listener, 1)
    with_listener.settle([Settlement(again, "dead", 0.0, "still")])
    with_listener.close()
    assert broker.remove([entry.tag for entry in broker.entries("dead")]) == 1
    broker.sweep()
    assert not is_known(broker)
