"""What the contract does not ask of the bridge to kombu: delays, killed workers, trouble, SQS, names of transports."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.transport import TRANSPORT_ALIASES

from celery import Celery, drivers
from celery.backends.memory import MemoryStore
from celery.bridge import consumer as bridge
from celery.bridge.consumer import IDLE
from celery.brokers.base import Consumer
from celery.brokers.kombu import KombuBroker
from celery.exceptions import BrokerError, ImproperlyConfigured
from celery.utils.clock import SYSTEM, Clock, FakeClock
from celery.wire.message import Delivery, Exchange, Outgoing, Queue, Settlement
from rig.sqs import SQS

PATIENCE = 60.0


def settings(folder: Path) -> dict[str, Any]:
    return {
        "data_folder_in": str(folder / "data"),
        "data_folder_out": str(folder / "data"),
        "control_folder": str(folder / "control"),
        "spool": str(folder / "spool"),
        "polling_interval": 0.02,
    }


Make = Callable[..., KombuBroker]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """`make(clock, **options)`: a broker in files, all of it below the folder of the test."""
    (tmp_path / "data").mkdir()
    made: list[KombuBroker] = []

    def make(clock: Clock = SYSTEM, **options: object) -> KombuBroker:
        made.append(KombuBroker("filesystem://", options={**settings(tmp_path), **options}, clock=clock))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def claim(consumer: Consumer, count: int = 1) -> list[Delivery]:
    """So many messages, which must come."""
    found: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        found += consumer.claim(count - len(found), timeout=1.0)
        assert time.monotonic() < deadline, "they do not come"
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


# Names


def test_every_transport_of_kombu_has_a_driver() -> None:
    assert set(TRANSPORT_ALIASES) - set(drivers.BROKERS) == set()
    assert set(drivers.BRIDGED) <= set(TRANSPORT_ALIASES)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("gcpubsub://projects/p", r"pip install 'celery\[gcpubsub\]'"),
        ("zookeeper://localhost", r"pip install 'celery\[zookeeper\]'"),
        ("SLMQ://user:key@localhost", r"pip install 'celery\[slmq\]'"),
        ("no.such.module:Transport://", r"'no\.such\.module:Transport' cannot be loaded"),
        ("sqss://", r"did you mean 'sqs'\?"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(url: str, advice: str) -> None:
    with pytest.raises((ImproperlyConfigured, BrokerError), match=advice) as caught:
        drivers.broker_class(url)(url, options={"timeout": 0.1}).connect()
    assert "\n" not in str(caught.value)


def test_a_transport_by_the_path_of_its_class() -> None:
    app = Celery(broker="drivers.own_transport:Transport://localhost/here")
    broker = app.broker
    consumer = broker.consumer(["q"], name="c")
    broker.publish([Outgoing(b"hello", "q")])
    [delivery] = claim(consumer)
    assert delivery.envelope == b"hello"
    assert consumer.settle([Settlement(delivery)]) == [True]
    consumer.close()
    app.close()


def test_a_report_says_which_drivers_are_native() -> None:
    report = Celery(broker="sqla+sqlite:///x.db").bugreport()
    assert "driver   -> over kombu" in report
    native, bridged = report.partition("brokers  -> ")[2].splitlines()[:2]
    assert native.startswith("native: amqp ")
    assert "over kombu: azureservicebus " in bridged
    assert "driver   -> native" in Celery(broker="redis://").bugreport()


# Delays


def test_what_is_not_due_is_held_and_goes_back(make: Make) -> None:
    clock = FakeClock()
    broker = make(clock, exact_claims=True)
    first = broker.consumer(["q"], name="first")
    broker.publish([Outgoing(b"later", "q", due=clock.time() + 20), Outgoing(b"now", "q")])
    assert [delivery.envelope for delivery in first.claim(10)] == [b"now"]
    assert first.due_in() == pytest.approx(20, abs=0.1)
    assert broker.stats(["q"])[0].delayed == 1
    first.close()
    assert broker.stats(["q"])[0].ready == 2
    second = broker.consumer(["q"], name="second")
    assert [delivery.envelope for delivery in second.claim(10)] == [b"now"]
    clock.advance(21)
    assert second.due_in() == 0
    [late] = second.claim(10)
    assert (late.envelope, late.deliveries, late.redelivered) == (b"later", 0, False)
    assert second.due_in() is None
    second.close()


def test_what_is_put_off_keeps_its_count(make: Make) -> None:
    clock = FakeClock()
    broker = make(clock, exact_claims=True)
    first = broker.consumer(["q"], name="first")
    broker.publish([Outgoing(b"started", "q"), Outgoing(b"not started", "q")])
    deliveries = first.claim(10)
    first.start(deliveries[:1])
    first.settle([Settlement(delivery, "requeue", delay=30.0) for delivery in deliveries])
    assert first.claim(10) == []
    first.close()
    clock.advance(31)
    second = broker.consumer(["q"], name="second")
    found = {d.envelope: (d.deliveries, d.interrupted, d.redelivered) for d in second.claim(10)}
    assert found == {b"started": (1, False, True), b"not started": (0, False, False)}
    second.close()


# Workers that die


DOOMED = """
import json, sys
from celery.brokers.kombu import KombuBroker
consumer = KombuBroker(sys.argv[1], options=json.loads(sys.argv[2])).consumer(["q"], name="doomed")
found = []
while len(found) < 2:
    found += consumer.claim(2 - len(found), timeout=1.0)
consumer.start(found[:1])
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.mark.crash
@pytest.mark.parametrize("url", ["filesystem://", "sqla+sqlite:///{folder}/broker.db"])
def test_another_puts_back_what_a_killed_process_held(url: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    url = url.format(folder=tmp_path)
    options = settings(tmp_path) if url == "filesystem://" else {"spool": str(tmp_path / "spool")}
    broker = KombuBroker(url, options=options)
    broker.publish([Outgoing(b"a", "q"), Outgoing(b"b", "q")])
    command = [sys.executable, "-c", DOOMED, url, json.dumps(options)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        assert broker.sweep() == 0, "it lives"
        process.kill()
    assert broker.sweep() == 2
    assert broker.sweep() == 0
    consumer = broker.consumer(["q"], name="heir")
    found = claim(consumer, 2)
    assert sorted((d.deliveries, d.interrupted) for d in found) == [(0, False), (1, True)]
    assert consumer.settle([Settlement(delivery) for delivery in found]) == [True, True]
    consumer.close()
    assert broker.sweep() == 0
    broker.close()


def test_what_nobody_claims_goes_to_others(make: Make) -> None:
    broker = make()
    idle, busy = broker.consumer(["q"], name="idle"), broker.consumer(["q"], name="busy")
    idle.claim(5)
    broker.publish([Outgoing(b"a", "q")])
    wait_until(lambda: broker.stats(["q"])[0].ready == 1)
    time.sleep(2 * IDLE)  # the idle one may have taken it, and lets go of it
    assert [delivery.envelope for delivery in claim(busy)] == [b"a"]
    idle.close()
    busy.close()


def test_who_has_waited_for_long_gets_what_comes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not given back because the last claim is long ago: whoever has nothing to claim waits."""
    monkeypatch.setattr(bridge, "IDLE", 30.0)
    monkeypatch.setattr(bridge, "FORGOTTEN", 90.0)
    broker = make()
    consumer = broker.consumer(["q"], name="c")
    for number in range(3):
        assert consumer.claim(10) == []
        consumer._claimed_at -= 60
        broker.publish([Outgoing(b"%d" % number, "q")])
        wait_until(lambda: consumer.counts()[1]["q"])
        time.sleep(0.1)  # for the thread that gives back what nobody claims
        [came] = claim(consumer)
        assert not came.redelivered
        consumer.settle([Settlement(came)])
    consumer.close()


# Trouble


def test_a_store_that_goes_away_and_comes_back(make: Make, tmp_path: Path) -> None:
    broker = make(timeout=0.5)
    consumer = broker.consumer(["q"], name="c")
    broker.publish([Outgoing(b"a", "q"), Outgoing(b"b", "q")])
    [held] = claim(consumer)
    shutil.move(tmp_path / "data", tmp_path / "away")
    with pytest.raises(BrokerError, match=r"filesystem:// \(over kombu\) fails") as caught:
        broker.publish([Outgoing(b"c", "q")])
    assert caught.value.temporary

    found = [held]

    def fails() -> bool:
        try:
            found.extend(consumer.claim(1, timeout=0.1))
        except BrokerError:
            return True
        return False

    wait_until(fails)
    shutil.move(tmp_path / "away", tmp_path / "data")
    wait_until(lambda: not fails() and len(found) == 2)
    assert consumer.settle([Settlement(delivery) for delivery in found]) == [True, True]
    consumer.close()
    broker.publish([Outgoing(b"d", "q")])
    [stats] = broker.stats(["q"])
    assert (stats.ready, stats.leased) == (1, 0)


def test_a_file_that_is_not_whole_yet_is_waited_for(make: Make, tmp_path: Path) -> None:
    """Original producers lock a file only after they have made it."""
    broker = make()
    consumer = broker.consumer(["q"], name="c")
    broker.publish([Outgoing(b"a", "other")])
    [path] = (tmp_path / "data").iterdir()
    whole = path.read_bytes().replace(b'"other"', b'"q"')
    begun = tmp_path / "data" / "1_theirs.q.msg"
    with begun.open("wb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        got: list[Delivery] = []
        waiter = threading.Thread(target=lambda: got.extend(claim(consumer)))
        waiter.start()
        wait_until(lambda: not begun.exists())  # it is taken, and not read
        file.write(whole[:20])
        file.write(whole[20:])
        fcntl.flock(file, fcntl.LOCK_UN)
    waiter.join(PATIENCE)
    assert [delivery.envelope for delivery in got] == [b"a"]
    consumer.close()


def test_a_child_has_connections_of_its_own(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from celery.brokers.kombu import KombuBroker\n"
        "from celery.wire.message import Outgoing\n"
        "broker = KombuBroker(sys.argv[1])\n"
        "broker.publish([Outgoing(b'parent', 'q')])\n"
        "pid = os.fork()\n"
        "broker.publish([Outgoing(b'child' if pid == 0 else b'parent again', 'q')])\n"
        "if pid == 0: os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "print(broker.stats(['q'])[0].ready)\n"
    )
    command = [sys.executable, "-c", code, f"sqla+sqlite:///{tmp_path}/broker.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "3\n", done.stderr


def test_an_exchange_of_a_kind_that_is_not_routed(make: Make) -> None:
    with pytest.raises(BrokerError, match="use direct, topic or fanout"):
        make().declare([Queue("q", Exchange("h", "headers"), "key")])


# SQS


def over_sqs(sqs: SQS, prefix: str, **options: object) -> KombuBroker:
    return KombuBroker(sqs.url, options={**sqs.options, "queue_name_prefix": prefix, **options})


@pytest.mark.timeout(400)
def test_sqs_delays_by_itself_and_again_where_that_is_not_enough(sqs: SQS) -> None:
    prefix, now = sqs.prefix(), time.time()
    options = {**sqs.options, "queue_name_prefix": prefix, "exact_claims": True}
    sender = KombuBroker(sqs.url, options=options, clock=FakeClock(now))
    sender.publish([Outgoing(b"long", "q", due=now + 5000), Outgoing(b"soon", "q", due=now + 1)])
    clock = FakeClock(now - 1)  # for whom it is not due yet when SQS says so
    broker = KombuBroker(sqs.url, options=options, clock=clock)
    consumer = broker.consumer(["q"], name="c")
    assert consumer.claim(10, timeout=2.0) == []
    assert broker.stats(["q"])[0].delayed == 0, "nothing is held here"
    clock.advance(10)
    [delivery] = claim(consumer)
    assert (delivery.envelope, delivery.deliveries) == (b"soon", 0)
    assert consumer.settle([Settlement(delivery)]) == [True]
    assert consumer.claim(10) == [], "the other one is delayed by SQS"
    consumer.close()
    broker.close()
    sender.close()


@pytest.mark.timeout(400)
def test_what_is_held_of_sqs_stays_invisible_while_its_lease_is_renewed(sqs: SQS) -> None:
    prefix, store = sqs.prefix(), MemoryStore("memory://visibility")
    broker = over_sqs(sqs, prefix, visibility_timeout=4, lease=1.0)
    broker.publish([Outgoing(b"a", "q", task_id="A")])
    first = broker.consumer(["q"], name="first", store=store)
    [held] = claim(first)
    first.start([held])
    other = over_sqs(sqs, prefix, visibility_timeout=4)
    second = other.consumer(["q"], name="second", store=store)
    end = time.monotonic() + 6.0
    while time.monotonic() < end:
        assert first.renew()
        assert second.claim(1, timeout=0.3) == []
    # As if it had died: nobody renews it.
    [again] = claim(second)
    assert (again.envelope, again.deliveries, again.interrupted) == (b"a", 1, True)
    second.start([again])
    assert second.settle([Settlement(again)]) == [True]
    for consumer in (first, second):
        consumer.close()
    broker.close()
    other.close()


@pytest.mark.timeout(400)
def test_long_polls_of_empty_queues_hold_nothing_up(sqs: SQS) -> None:
    broker = over_sqs(sqs, sqs.prefix(), wait_time_seconds=3)
    consumer = broker.consumer(["empty", "q"], name="c")
    assert consumer.claim(5) == []
    for number in range(3):
        broker.publish([Outgoing(b"%d" % number, "q")])
        began = time.monotonic()
        [delivery] = claim(consumer)
        assert consumer.settle([Settlement(delivery)]) == [True]
        assert time.monotonic() - began < 3 * 3, "each of the other three queues would be waited for"
    consumer.close()
    assert broker.stats(["q"])[0].ready == 0
    broker.close()


@pytest.mark.timeout(400)
def test_only_queues_that_are_listed_are_used(sqs: SQS, caplog: pytest.LogCaptureFixture) -> None:
    """Where all queues are predefined none is made: the machinery shares them, and SQS has to keep the dead."""
    prefix = sqs.prefix()
    made = over_sqs(sqs, prefix)
    made.declare([Queue("q")])
    listed = {"q": {"url": f"{sqs.endpoint}/123456789012/{prefix}q", "access_key_id": "a", "secret_access_key": "b"}}
    options = {**sqs.options, "predefined_queues": listed, "exact_claims": True}
    broker = KombuBroker(sqs.url, options=options)
    consumer = broker.consumer(["q"], name="c")
    broker.publish([Outgoing(b"inner", "q", inner=True), Outgoing(b"bad", "q")])
    found = claim(consumer, 2)
    assert sorted(delivery.envelope for delivery in found) == [b"bad", b"inner"]
    bad = next(delivery for delivery in found if delivery.envelope == b"bad")
    inner = next(delivery for delivery in found if delivery.envelope == b"inner")
    assert consumer.settle([Settlement(bad, "dead", reason="rotten"), Settlement(inner)]) == [True, True]
    assert "refused, as there is no queue 'celeriac.dead.q'" in caplog.text
    [stats] = broker.stats(["q"])
    assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)
    consumer.close()
    broker.close()
    made.close()


def test_a_listener_deletes_its_own_queue_with_all_that_is_in_it(make: Make, tmp_path: Path) -> None:
    """Also what is for the machinery, in a queue beside that nothing binds; another one's stays."""
    brokers = [make(), make()]
    for broker, name in zip(brokers, ("mine", "yours"), strict=True):
        broker.plan = lambda name=name: [Queue(name, Exchange("news", "fanout"), auto_delete=True)]  # type: ignore[misc]
    mine, yours = (broker.consumer([name], name=name) for broker, name in zip(brokers, ("mine", "yours"), strict=True))
    brokers[0].publish([Outgoing(b"to all", "x", "news"), Outgoing(b"join", "mine", inner=True)])
    [heard] = claim(yours)
    yours.settle([Settlement(heard)])
    mine.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if ".mine." in path.name or b"mine" in path.read_bytes()]
    brokers[1].publish([Outgoing(b"again", "x", "news")])
    assert len(claim(yours)) == 1
    yours.close()
